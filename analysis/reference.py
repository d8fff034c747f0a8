"""Published numbers, each with its citation and protocol, and the arithmetic that holds some of them together."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Study:
    """Where numbers come from and how they were made.

    Args:
        citation: whom to cite.
        protocol: how the numbers were made, as far as it is published.
    """

    citation: str
    protocol: str


STUDIES = {
    "seminar": Study(
        citation="M. J. Frind, seminar 'Hot topics in Computer Vision': DOFA and BigEarthNet",
        protocol="DOFA features of about 550,000 labelled Sentinel-1/2 patches of BigEarthNet, 19 (or 43) classes, "
        "torchgeo's train and test split, a class called where its score reaches 0.5; release, bands and variant of "
        "the model are not stated",
    ),
    "class-project": Study(
        citation="ICT group 16, class project: DINOv2 and EuroSAT",
        protocol="facebook/dinov2-base-imagenet1k-1-layer, 224 px, ImageNet mean and deviation, rotations, flips and "
        "colour as augmentation; a linear head trained with cross-entropy, Adam, learning rate 1e-4, batch 32, 10 "
        "epochs; 100 / 20 / 10 images a class (elsewhere 200 a class for four classes)",
    ),
    "torchgeo-bench": Study(
        citation="torchgeo-bench, https://github.com/torchgeo/torchgeo-bench",
        protocol="224 px bilinear, per-band z-score; kNN with k = 5, or logistic regression with C chosen on val and "
        "refitted on train and val",
    ),
    "resize": Study(
        citation="Corley et al., Resize is all you need (Revisiting pre-trained remote sensing model benchmarks)",
        protocol="torchgeo's splits, kNN with k = 5",
    ),
    "copernicus-bench": Study(
        citation="Wang et al. 2025, Towards a Unified Copernicus Foundation Model for Earth Vision, arXiv:2503.11849",
        protocol="frozen encoder and a linear layer",
    ),
    "dofa": Study(
        citation="Xiong et al. 2024, Neural Plasticity-Inspired Multimodal Foundation Model, arXiv:2403.15356",
        protocol="GEO-Bench, frozen encoder and a linear layer; the paper's own metric of each set",
    ),
}


# ------------------------------------------------------------------------------------------- the seminar

SEMINAR_METRICS = ("f2_macro", "f2_micro", "hamming_loss", "precision_macro", "precision_micro")
SEMINAR: dict[str, dict[str, float]] = {
    kind: dict(zip(SEMINAR_METRICS, values, strict=True))
    for kind, values in {
        "rf": (0.214, 0.358, 0.123, 0.52, 0.70),
        "linear": (0.229, 0.353, 0.124, 0.49, 0.70),
        "mlp": (0.345, 0.478, 0.113, 0.58, 0.71),
    }.items()
}
SEMINAR_DIGITS = {"f2_macro": 3, "f2_micro": 3, "hamming_loss": 3, "precision_macro": 2, "precision_micro": 2}
SEMINAR_DATASET, SEMINAR_MODEL, SEMINAR_CLASSES = "bigearthnet", "dofa", 19


def recall_of(precision: float, f_beta: float, *, beta: float = 2) -> float:
    """Recall from precision and F-beta: F = (1 + b²) P R / (b² P + R), solved for R."""
    weight = beta**2
    return f_beta * weight * precision / ((1 + weight) * precision - f_beta)


def hamming_of(precision: float, recall: float, *, labels_a_sample: float, classes: int) -> float:
    """Hamming loss from micro precision and recall.

    Of L labels a sample, R L are found, (1 - R) L missed, and R L (1 - P) / P called wrongly; the loss is what is
    missed or called wrongly, over K classes.
    """
    return labels_a_sample * ((1 - recall) + recall * (1 - precision) / precision) / classes


def labels_of(precision: float, recall: float, hamming: float, *, classes: int) -> float:
    """Labels a sample that make `hamming_of` this hamming loss."""
    return hamming / hamming_of(precision, recall, labels_a_sample=1, classes=classes)


# --------------------------------------------------------------------------------------- the class project


@dataclass(frozen=True)
class ClassRow:
    """One class of the class project's table: counts, and the rates as they were printed."""

    name: str
    tp: int
    fp: int
    tn: int
    fn: int
    precision: float
    recall: float
    specificity: float
    f1: float


CLASS_PROJECT = (
    ClassRow("AnnualCrop", 18, 1, 268, 12, 0.95, 0.60, 1.00, 0.73),
    ClassRow("Forest", 16, 1, 268, 14, 0.94, 0.53, 1.00, 0.68),
    ClassRow("HerbaceousVegetation", 30, 29, 240, 0, 0.51, 1.00, 0.89, 0.67),
    ClassRow("Highway", 27, 3, 267, 2, 0.90, 0.93, 0.99, 0.92),
    ClassRow("Industrial", 29, 11, 258, 1, 0.72, 0.97, 0.96, 0.83),
    ClassRow("Pasture", 20, 8, 261, 10, 0.71, 0.67, 0.97, 0.69),
    ClassRow("PermanentCrop", 27, 16, 253, 3, 0.63, 0.90, 0.94, 0.74),
    ClassRow("Residential", 14, 2, 267, 16, 0.88, 0.47, 0.99, 0.61),
    ClassRow("River", 19, 10, 259, 11, 0.66, 0.63, 0.96, 0.64),
    ClassRow("SeaLake", 18, 0, 269, 12, 1.00, 0.60, 1.00, 0.75),
)
CLASS_PROJECT_IMAGES = 299
CLASS_PROJECT_ACCURACY = 0.729  # 218 of 299
CLASS_PROJECT_SPLIT = {"train": 100, "val": 20, "test": 10}  # a class, as its text says
CLASS_PROJECT_NOTE = (
    "The published table does not fit the published split: it has 30 test images a class, and 29 of Highway, where "
    "the text says 10."
)


# ---------------------------------------------------------------------------------- other published numbers

# Splits that the numbers were made on, in images; a run on other splits of the same data does not match.
EUROSAT_SPLITS = {"train": 16_200, "val": 5_400, "test": 5_400}
BIGEARTHNET_SPLITS = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825},
}


@dataclass(frozen=True)
class Published:
    """One published number and what a run must share with it to stand beside it.

    Args:
        study: key of `STUDIES`.
        what: model and data as the source names them.
        probe: a probe kind of this project: ``knn``, ``linear``.
        metric: a metric of the run contract.
        value: from 0 to 1.
        match: values that the run's identity must have (see `matching`); None: data this project cannot read.
        rows: images a split that the run must have.
        differs: what remains different even where all that matches.
    """

    study: str
    what: str
    probe: str
    metric: str
    value: float
    match: dict[str, Any] | None = None
    rows: dict[str, int] | None = None
    differs: str = ""


_REFITTED = "published: refitted on train and val; here: fitted on train alone"
_K5 = "published: k = 5; here: k chosen on val"
_BANDS = {"rgb": "RGB", "s2-12": "12 bands", "s2-13": "13 bands", "all": "all bands"}


def _bench(model: str, match: dict[str, Any], **values: tuple[float, float]) -> list[Published]:
    """torchgeo-bench's kNN and linear number of one model on each set."""
    sets: dict[str, tuple[str, str, dict[str, Any] | None, dict[str, int] | None]] = {
        "m_eurosat": ("m-eurosat", "accuracy", None, None),
        "eurosat_spatial": (
            "EuroSAT, spatial split", "accuracy",
            {"dataset": "eurosat", "dataset_variant": "spatial", "classes": 10}, EUROSAT_SPLITS,
        ),
        "m_bigearthnet": ("m-bigearthnet, 43 classes", "map_micro", None, None),
        "benv2": ("GEO-Bench 2's benv2, 19 classes", "map_micro", None, None),
    }  # fmt: skip
    found = []
    for key, pair in values.items():
        data, metric, where, rows = sets[key]
        for probe, value, differs in zip(("knn", "linear"), pair, (_K5, _REFITTED), strict=True):
            both = None if where is None else where | match
            found.append(Published("torchgeo-bench", f"{model} on {data}", probe, metric, value, both, rows, differs))
    return found


def _resize(
    model: str, bands: str, value: float, match: dict[str, Any], *, metric: str = "accuracy", dataset: str = "eurosat"
) -> Published:
    """One of Corley et al.'s kNN numbers."""
    variant, classes = ("random", 10) if dataset == "eurosat" else ("v1", 19)
    where = {"dataset": dataset, "dataset_variant": variant, "classes": classes, "bands": bands}
    rows = EUROSAT_SPLITS if dataset == "eurosat" else BIGEARTHNET_SPLITS["v1"]
    data = "EuroSAT" if dataset == "eurosat" else "BigEarthNet v1, 19 classes"
    what = f"{model}, {_BANDS[bands]}, on {data}"
    return Published("resize", what, "knn", metric, value, where | match, rows, _K5)


_BENCH = {"image_size": 224, "interpolation": "bilinear", "normalization": "zscore"}
_MOSAIKS = {"model": "rcf", "variant": "empirical", "image_size": None, "features": 512, "kernel": 3}
_STATISTICS = {"model": "stats", "image_size": None}

PUBLISHED: tuple[Published, ...] = (
    *_bench(
        "DOFA-B, RGB", {"model": "dofa", "variant": "base", "bands": "rgb", **_BENCH},
        m_eurosat=(0.921, 0.962), eurosat_spatial=(0.900, 0.952), m_bigearthnet=(0.549, 0.680), benv2=(0.669, 0.800),
    ),
    *_bench(
        "DOFA-L, RGB", {"model": "dofa", "variant": "large", "bands": "rgb", **_BENCH},
        m_eurosat=(0.936, 0.973), eurosat_spatial=(0.924, 0.965), m_bigearthnet=(0.565, 0.699), benv2=(0.680, 0.813),
    ),
    *_bench(
        "RCF-512, RGB", {"model": "rcf", "bands": "rgb", "features": 512, **_BENCH},
        m_eurosat=(0.614, 0.769), eurosat_spatial=(0.498, 0.617), m_bigearthnet=(0.348, 0.486), benv2=(0.541, 0.652),
    ),
    *_bench(
        "Image statistics, all bands", {"model": "stats", "bands": "s2-13", **_BENCH},
        m_eurosat=(0.783, 0.865), eurosat_spatial=(0.732, 0.884), m_bigearthnet=(0.421, 0.490), benv2=(0.612, 0.703),
    ),
    _resize("ResNet-50 (ImageNet), 64 px", "rgb", 0.821, {"model": "resnet", "image_size": 64}),
    _resize("ResNet-50 (ImageNet), 224 px", "rgb", 0.912, {"model": "resnet", "image_size": 224}),
    _resize("MOSAIKS (512 filters of 3 x 3 from the data, ZCA)", "rgb", 0.814, _MOSAIKS),
    _resize("MOSAIKS (512 filters of 3 x 3 from the data, ZCA)", "s2-13", 0.905, _MOSAIKS),
    _resize("Image statistics, scaled", "rgb", 0.772, _STATISTICS),
    _resize("Image statistics, scaled", "s2-13", 0.894, _STATISTICS),
    *(
        _resize("Image statistics, scaled", "s2-12", value, _STATISTICS, metric=metric, dataset="bigearthnet")
        for metric, value in {
            "f1_macro": 0.585, "f1_micro": 0.694, "precision_micro": 0.734, "recall_micro": 0.658,
        }.items()
    ),
    *(
        _resize("MOSAIKS, ZCA", "s2-12", value, _MOSAIKS, metric=metric, dataset="bigearthnet")
        for metric, value in {"f1_macro": 0.645, "f1_micro": 0.732}.items()
    ),
    Published("copernicus-bench", "DOFA on EuroSAT-S2", "linear", "accuracy", 0.972),
    Published("copernicus-bench", "DOFA on BigEarthNet-S2 (v2)", "linear", "map", 0.755),
    Published("dofa", "DOFA-B on m-bigearthnet", "linear", "as published", 0.657),
    Published("dofa", "DOFA-L on m-bigearthnet", "linear", "as published", 0.675),
    Published("dofa", "DOFA-B on m-eurosat", "linear", "as published", 0.939),
    Published("dofa", "DOFA-L on m-eurosat", "linear", "as published", 0.971),
)  # fmt: skip


def matching(record: dict[str, Any], metric: str) -> list[Published]:
    """The published numbers whose protocol a run shares, as far as its record can tell.

    Args:
        record: a run's ``run.json``.
        metric: a metric of the run contract.

    Returns:
        Perhaps none. The whole of the same splits, the same model, bands, size, normalisation and kind of probe are
        asked for; `Published.differs` says what remains.
    """
    known = described(record)
    return [
        one
        for one in PUBLISHED
        if one.match is not None
        and (one.metric, one.probe) == (metric, record["kind"])
        and all(known.get(key) == value for key, value in one.match.items())
        and (one.rows is None or one.rows == known["rows"])
        and known["weights"] != "random"
    ]


def rows_of(record: dict[str, Any]) -> dict[str, int]:
    """Samples of each split that a run used: of train those it was fitted on."""
    whole = {split: identity["rows"] for split, identity in record["features"]["splits"].items()}
    return whole | record.get("rows", {})


def described(record: dict[str, Any]) -> dict[str, Any]:
    """What `Published.match` may ask of a run."""
    dataset, encoder = record["features"]["dataset"], record["features"]["encoder"]
    return {
        "dataset": dataset["name"],
        "dataset_variant": dataset["variant"],
        "model": encoder["name"],
        "variant": encoder["variant"],
        "bands": encoder["bands_name"],
        "image_size": encoder["image_size"],
        "interpolation": encoder["interpolation"],
        "normalization": encoder["normalization"]["method"],
        "weights": encoder["weights"]["source"],
        "classes": len(record["class_names"]),
        "features": encoder.get("settings", {}).get("features"),
        "kernel": encoder.get("settings", {}).get("kernel"),
        "rows": rows_of(record),
    }


def class_project_rows() -> list[dict[str, Any]]:
    """The class project's table with its rates worked out anew from its counts."""
    rows = []
    for row in CLASS_PROJECT:
        tp, fp, tn, fn = row.tp, row.fp, row.tn, row.fn
        rows.append(
            {
                "class": row.name,
                "support": tp + fn,
                "tp": tp,
                "fp": fp,
                "tn": tn,
                "fn": fn,
                "precision": tp / (tp + fp) if tp + fp else np.nan,
                "recall": tp / (tp + fn),
                "specificity": tn / (tn + fp),
                "f1": 2 * tp / (2 * tp + fp + fn),
            }
        )
    return rows
