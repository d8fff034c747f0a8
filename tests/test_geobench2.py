"""GEO-Bench-2: files made in its layout give what was put in, and what the benchmark's own package reads."""

import importlib.util
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.io import MemoryFile

from data.errors import RequestError
from data.flags import SPLITS, DataFlags, DatasetRequest
from data.sources import geobench2
from data.sources.geobench2 import SETS


def tortilla(files, rows):
    """A Tortilla file: header, the files one after the other, and a table of where they lie."""
    offsets, at = [], 200
    for content in files:
        offsets.append(at)
        at += len(content)
    table = io.BytesIO()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {"tortilla:offset": offsets, "tortilla:length": [len(content) for content in files]}
    pq.write_table(pa.table(columns), table)
    footer = table.getvalue()
    header = b"#y" + at.to_bytes(8, "little") + len(footer).to_bytes(8, "little")
    return header.ljust(200, b"\0") + b"".join(files) + footer


def tiff(pixels):
    about = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with MemoryFile() as memory:
        with memory.open(**about, dtype=pixels.dtype) as target:
            target.write(pixels)
        return memory.read()


SIDES = {"benv2": (12, 12), "so2sat": (8, 8), "treesatai": (16, 4, 4), "forestnet": (16,)}


def images_of(name, number, *, nir=0):
    """A sample's images; of the aerial picture the channel `nir` is the brightest."""
    rng, found = np.random.default_rng(number), []
    for part, side in zip(SETS[name].parts, SIDES[name], strict=True):
        shape = (len(part.channels), side, side)
        if part.dtype == "float32":
            found.append(rng.normal(size=shape).astype(np.float32))
        else:
            found.append(rng.integers(1, 100, shape).astype(part.dtype))
            if name == "treesatai" and part.place == 0:
                found[-1][nir] += 100
    return found


def labels_of(name, number):
    about = SETS[name]
    count = len(about.classes)
    if about.multilabel:
        return [about.classes[number % count], about.classes[(number + 1) % count]]
    return number % count


def make(root, name, *, count=6, nir=0):
    samples, rows = [], []
    for number in range(count):
        images = images_of(name, number, nir=nir)
        inner = [
            {
                "tortilla:id": f"image-{place}", "tortilla:file_format": "GTiff",
                "stac:centroid": f"POINT ({number} 50)",
                "lon": float(number), "lat": 50.0, SETS[name].label: labels_of(name, number), "dist_labels": [0.5, 0.5],
            }
            for place in range(len(images))
        ]  # fmt: skip
        samples.append(tortilla([tiff(image) for image in images], inner))
        split = ("train", "validation", "test")[number % 3]
        rows.append(
            {"tortilla:id": f"sample-{number}", "tortilla:file_format": "TORTILLA", "tortilla:data_split": split}
        )
    file = root / f"geobench_{name}.tortilla"
    file.write_bytes(tortilla(samples, rows))
    return file


def opened(root, name, splits=SPLITS):
    flags = DataFlags(dataset="geobench2", dataset_variant=name, cache_dir=root / "cache")
    return geobench2.open_dataset(DatasetRequest(root, tuple(splits), (), flags))


@pytest.mark.parametrize("name", SETS)
def test_samples_are_what_was_put_in(name, tmp_path):
    make(tmp_path, name)
    for _ in range(2):  # read, and from the index
        for place, (_, dataset) in enumerate(opened(tmp_path, name).items()):
            assert dataset.ids == [f"sample-{place}", f"sample-{place + 3}"]
            for row, number in enumerate((place, place + 3)):
                wanted = [channel for image in images_of(name, number) for channel in image]
                for band, mine, stored in zip(dataset.bands, dataset.read(row, dataset.bands), wanted, strict=True):
                    factor = 10_000 if name == "so2sat" and band.sensor == "S2" else 1
                    np.testing.assert_array_equal(mine, (stored * np.float64(factor)).astype(mine.dtype))
                label = labels_of(name, number)
                names = label if isinstance(label, list) else [SETS[name].classes[label]]
                shown = np.flatnonzero(dataset.labels[row]) if dataset.multilabel else [dataset.labels[row]]
                assert {dataset.class_names[k] for k in shown} == set(names)
            assert dataset.lonlat[:, 0].tolist() == [place, place + 3] and set(dataset.lonlat[:, 1]) == {50}


@pytest.mark.parametrize(("nir", "first"), [(0, "nir"), (3, "red")])
def test_the_brightest_aerial_channel_is_near_infrared(nir, first, tmp_path):
    make(tmp_path, "treesatai", nir=nir)
    bands = opened(tmp_path, "treesatai")["train"].bands
    assert bands[0].name == first and bands[nir].name == "nir"


def test_an_aerial_picture_in_another_order_is_refused(tmp_path):
    make(tmp_path, "treesatai", nir=1)
    with pytest.raises(RequestError, match="number 2"):
        opened(tmp_path, "treesatai")


@pytest.mark.skipif(not importlib.util.find_spec("geobench_v2"), reason="the package geobenchv2 is not installed")
@pytest.mark.parametrize("name", SETS)
def test_the_benchmarks_own_package_reads_the_same(name, tmp_path):
    import geobench_v2.datasets as published
    from torch import nn

    kind = {
        "benv2": published.GeoBenchBENV2, "so2sat": published.GeoBenchSo2Sat,
        "treesatai": published.GeoBenchTreeSatAI, "forestnet": published.GeoBenchForestnet,
    }[name]  # fmt: skip
    make(tmp_path, name, nir=3)
    theirs = kind(root=tmp_path, split="train", band_order=kind.band_default_order, data_normalizer=nn.Identity())
    ours = opened(tmp_path, name)["train"]
    assert len(theirs) == len(ours)
    other = {"vv": "VV", "vh": "VH", "vv/vh": "VV_VH_ratio"}
    if name == "forestnet":
        other = dict(zip(kind.band_default_order, ("blue", "green", "red", "nir", "swir1", "swir2"), strict=True))
    if name == "so2sat":
        other = {"VV": "VV_real", "VH": "VH_real"}
    for row in range(len(ours)):
        sample = theirs[row]
        order = kind.band_default_order
        by_key = (
            {f"image_{key}": names for key, names in order.items()} if isinstance(order, dict) else {"image": order}
        )
        for key, names in by_key.items():
            bands = [next(b for b in ours.bands if b.name == other.get(band, band)) for band in names]
            for band, mine, channel in zip(bands, ours.read(row, bands), sample[key].numpy(), strict=True):
                factor = 10_000 if name == "so2sat" and band.sensor == "S2" else 1
                np.testing.assert_array_equal(mine, (channel * np.float64(factor)).astype(mine.dtype))
        label = np.asarray(sample["label"])
        np.testing.assert_array_equal(ours.labels[row], label)


def test_missing_cut_and_foreign_files_are_one_line(tmp_path):
    with pytest.raises(RequestError, match=r"geobench_benv2\.tortilla.*--download"):
        opened(tmp_path, "benv2")
    file = make(tmp_path, "forestnet")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(RequestError, match=r"geobench_forestnet\.tortilla"):
        opened(tmp_path, "forestnet")
    file.write_bytes(b"PK" + b"\0" * 400)
    with pytest.raises(RequestError, match=r"geobench_forestnet\.tortilla"):
        opened(tmp_path, "forestnet")
    with pytest.raises(RequestError, match="forestnet"):
        opened(tmp_path, "forestnets")


def test_a_damaged_image_names_the_sample(tmp_path):
    file = make(tmp_path, "forestnet")
    whole, dataset = file.read_bytes(), opened(tmp_path, "forestnet")["train"]
    offset, length = dataset.subfiles[1][0]
    file.write_bytes(whole[:offset] + b"\0" * length + whole[offset + length :])
    with pytest.raises(RequestError, match="sample-3"):
        dataset.read(1, dataset.bands)
