"""The guards on real data: how many checks, how many alarms, and how far real features are from a collapse."""

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.dataset import EODataset, limited
from data.errors import RequestError
from data.registry import DATASETS
from featurize.card import MODELS
from tests.bench.pairs import SHARED
from tests.opening import open_split

# Small variants with random weights where no weights are at hand: the guards look at pixels and at scaled values.
MODELS_TRIED = {
    "stats": {}, "rcf": {"variant": "gaussian"}, "dinov2": {"variant": "small", "weights": "random"},
    "resnet": {"weights": "random"}, "dofa": {"variant": "small", "weights": "random"},
    "presto": {"weights": "presto/default_model.pt"},
}  # fmt: skip
EMBEDDED = 32  # images whose features are looked at for collapse


def real_splits(scratch: Path) -> Iterator[tuple[str, EODataset]]:
    """Every split of every real dataset at hand, and of mosaics of real tiles."""
    data, cache = SHARED / "data", scratch / "cache"
    mosaic = scratch / "mosaic"
    tool = [sys.executable, str(SHARED / "tools" / "mosaic_bigearthnet.py")]
    tool += ["--zip", str(data / "eurosat-ms" / "EuroSATallBands.zip"), "--out", str(mosaic), "--count", "300"]
    subprocess.run(tool, check=True, capture_output=True)
    sources = [
        ("eurosat", data / "eurosat-ms", None), ("eurosat", data / "eurosat-ms", "spatial"),
        ("eurosat-rgb", data / "eurosat-rgb", None), ("bigearthnet", data / "bigearthnet-v1", "v1"),
        ("bigearthnet", data / "bigearthnet-v2", "v2"), ("bigearthnet", mosaic, "v2"),
        ("geobench", data / "geobench-v1", "m-brick-kiln"),
    ]  # fmt: skip
    for name, root, variant in sources:
        for split in ("train", "val", "test"):
            for bands in ((), ("s2-12",), ("s1",)) if name == "bigearthnet" else ((),):
                missing = root.name.startswith("bigearthnet")
                flags = {"cache_dir": cache, "dataset_variant": variant, "allow_missing": missing}
                with contextlib.suppress(RequestError):  # splits and sensors that are not at hand
                    yield (
                        f"{root.name} {variant or ''} {split}".replace("  ", " "),
                        open_split(DATASETS.load(name), split, root, bands=bands, **flags),
                    )
                    break


def one_class(dataset: EODataset) -> Iterator[tuple[str, EODataset]]:
    """The images of each class alone: seas, forests and towns."""
    from data.dataset import Subset

    if dataset.multilabel or len(dataset.class_names) < 5:
        return
    for k, name in enumerate(dataset.class_names):
        rows = np.flatnonzero(dataset.labels == k)
        if len(rows) >= 8:
            yield name, Subset(dataset, rows.tolist())


def bench_guards() -> dict:
    """False alarms of the input guards and of the collapse guard on all real data, by models and normalizations."""
    from data.store import collapse
    from data.store.collapse import _beyond_two, _rounding
    from featurize.encoder import EncoderRequest, build_encoder
    from featurize.guards import check_inputs

    if not (SHARED / "data").is_dir():
        return {"skipped": "no real data; set EO_SHARED"}
    checks, alarms, collapses, least, alike = 0, [], 0, [], []
    with tempfile.TemporaryDirectory() as scratch:
        for where, whole in real_splits(Path(scratch)):
            for model, settings in MODELS_TRIED.items():
                given = dict(settings)
                if "/" in str(given.get("weights")):
                    given["weights"] = str(SHARED / "weights" / given["weights"])
                for normalize in MODELS.card(model).normalize:
                    request = EncoderRequest(
                        (), whole.statistics, lambda: whole, normalize=normalize,  # noqa: B023  # called at once
                        image_size=70 if model == "dinov2" else 64 if model == "resnet" else None, **given,
                    )  # fmt: skip
                    try:
                        encoder = build_encoder(model, whole, None, request)
                    except RequestError:
                        continue  # bands or a scaling that the model or the data does not have
                    parts = [("", whole), *(one_class(whole) if normalize == "zscore" else ())]
                    if normalize == "none" and encoder.expects is not None:
                        continue  # raw values into a model that needs them scaled: meant to stop
                    for part, dataset in parts:
                        checks += 1
                        said = io.StringIO()
                        try:
                            with contextlib.redirect_stderr(said):
                                check_inputs(dataset, encoder)
                        except RequestError as error:
                            alarms.append(f"{where} {part} {model} {normalize}: {error}")
                        alarms += [
                            f"{where} {part} {model} {normalize}: {line}" for line in said.getvalue().splitlines()
                        ]
                    if (
                        whole.split != "train"
                        or len(whole) < 16
                        or normalize not in (MODELS.card(model).normalize[0], "zscore")
                    ):
                        continue
                    some = limited(whole, EMBEDDED)
                    try:
                        features = _embed(some, encoder)
                    except RequestError:
                        continue  # a model that needs locations which the data does not have
                    collapses += 1
                    if why := collapse(features):
                        alarms.append(f"{where} {model} {normalize}: collapsed: {why}")
                    values = features.astype(np.float64)
                    rounding, std = _rounding(features, values), values.std(axis=0)
                    keep = std > 2 * np.sqrt(rounding)
                    least.append((_beyond_two(values, rounding), f"{where} {model} {normalize}"))
                    scaled = _beyond_two(values[:, keep] / std[keep], rounding[keep] / std[keep] ** 2)
                    alike.append((scaled, f"{where} {model} {normalize}"))
    return {
        "input checks": checks,
        "collapse checks": collapses,
        "alarms": len(alarms),
        "which": alarms,
        "least variance beyond two directions": sorted(least)[:5],
        "the same with dimensions scaled": sorted(alike)[:5],
    }


def _embed(dataset: EODataset, encoder: torch.nn.Module) -> np.ndarray:
    from featurize.batches import collate
    from featurize.embedder import Embedder
    from featurize.runtime import Runtime
    from featurize.stages import Meter

    plan = Runtime(torch.device("cpu"), "fp32", 16, 0, 1024)
    embedder, found = Embedder(encoder, plan), []
    for start in range(0, len(dataset), 16):
        rows = range(start, min(start + 16, len(dataset)))
        batch = collate([dataset.read(row, encoder.request.bands) for row in rows])
        lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[rows.start : rows.stop])
        found.append(embedder.embed(batch, len(rows), lonlat, Meter()).features.numpy())
    return np.concatenate(found).astype(encoder.dtype)
