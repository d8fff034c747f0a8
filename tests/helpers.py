"""What several tests share: small feature files with a known signal, written through the feature contract."""

from pathlib import Path

import numpy as np

from data import paths, store
from data.bands import BAND_SETS, SENTINEL2
from data.dataset import SPLITS, EODataset, Statistic


class TinyDataset(EODataset):
    """Ids and labels without pixels: enough for writing features."""

    def __init__(self, split, labels, class_names, *, name="simulated", simulated=False, ids=None, lonlat=None, seed=0):
        bands = [SENTINEL2[band] for band in BAND_SETS["s2-12"]]
        super().__init__(
            name=name,
            variant=None,
            split=split,
            ids=ids or [f"{split}-{row:05d}" for row in range(len(labels))],
            labels=labels,
            class_names=class_names,
            bands=bands,
            statistics={band.name: Statistic(0.0, 1.0) for band in bands},
            lonlat=lonlat,
            provenance={"simulated": True, "seed": seed} if simulated else {"seed": seed},
        )

    def read(self, index, bands):
        raise NotImplementedError("a test dataset has no pixels")


def encoder_identity(model="stats", **changes):
    """What featurize records of an encoder."""
    bands = list(BAND_SETS["s2-12"])
    return {
        "name": model,
        "variant": None,
        "bands": bands,
        "bands_name": "s2-12",
        "wavelengths_um": [SENTINEL2[band].wavelength_um for band in bands],
        "image_size": None,
        "interpolation": "bilinear",
        "pooling": "mean",
        "normalization": {"method": "zscore", "mean": [0.0] * len(bands), "std": [1.0] * len(bands)},
        "weights": {"source": "none", "sha256": "0" * 64},
        "precision": "fp32",
        "dtype": "float32",
        **changes,
    }


def make_labels(rows, classes, *, multilabel, rng):
    """Random labels: every class in every split of some size; later classes of a multi-label set are rarer."""
    if not multilabel:
        return rng.permutation(np.arange(rows) % classes).astype(np.int64)
    share = np.linspace(0.5, 0.15, classes)
    return (rng.random((rows, classes)) < share).astype(np.uint8)


def make_split(
    file, labels, features, class_names, *, split=None, model="stats", dataset="simulated", simulated=False, ids=None,
    lonlat=None, seed=0, encoder=None,
):  # fmt: skip
    """Write one feature file of given labels (N, K) or (N,) and features (N, D); return its path."""
    source = TinyDataset(
        split or file.stem, labels, class_names, name=dataset, simulated=simulated, ids=ids, lonlat=lonlat, seed=seed
    )
    identity = store.make_identity(source, encoder or encoder_identity(model, dtype=features.dtype.name))
    writer = store.FeatureWriter(file, identity, rows=len(source), dim=features.shape[1], dtype=features.dtype.name)
    with writer:
        for part in writer.missing():
            start, stop = writer.bounds(part)
            writer.write_part(part, features[start:stop])
        return writer.finish(source, {"device": "cpu", "images_per_s": 1.0})


def make_features(
    out: Path,
    *,
    multilabel: bool,
    rows=(200, 80, 80),
    dim=16,
    classes=5,
    seed=0,
    model="stats",
    dataset="simulated",
    simulated=False,
    class_names=None,
    dtype="float32",
    located=False,
) -> Path:
    """Write train, val and test features in which a random direction a class carries its label, plus noise.

    Returns:
        The feature folder, ``out/features/<dataset>/<encoder>``.
    """
    rng = np.random.default_rng(seed)
    names = list(class_names or [f"class {k}" for k in range(classes)])
    directions = rng.standard_normal((len(names), dim)) * 1.5
    folder = None
    for split, count in zip(SPLITS, rows, strict=True):
        labels = make_labels(count, len(names), multilabel=multilabel, rng=rng)
        signal = labels if multilabel else np.eye(len(names))[labels]
        features = (signal @ directions + rng.standard_normal((count, dim))).astype(dtype)
        lonlat = rng.uniform((5, 40), (15, 50), (count, 2)) if located else None
        source = TinyDataset(split, labels, names, name=dataset, simulated=simulated, lonlat=lonlat, seed=seed)
        identity = store.make_identity(source, encoder_identity(model, dtype=dtype))
        folder = paths.feature_folder(out, store.dataset_slug(identity), store.encoder_slug(identity))
        make_split(
            paths.feature_file(folder, split), labels, features, names,
            model=model, dataset=dataset, simulated=simulated, lonlat=lonlat, seed=seed,
        )  # fmt: skip
    assert folder is not None
    return folder


def flips(content, count, seed=0):
    """Copies of some bytes, each with one byte changed."""
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(content), count):
        changed = bytearray(content)
        changed[at] ^= int(rng.integers(1, 256))
        yield bytes(changed)


def fit_run(kind, splits, out, *, seed=0, settings=None, n_jobs=-1):
    """The run for these settings (default: `probes.settings.DEFAULT`), the one on disk if it exists."""
    from probes import fit  # deferred: most tests need no probe
    from probes.settings import DEFAULT

    plan = fit.plan_probe(kind, splits, out, seed=seed, settings=settings or DEFAULT)
    return fit.finished(plan) or fit.run_probe(plan, splits, n_jobs=n_jobs)
