"""Published numbers, each with its citation and protocol; `docs/results/references.md` says how each is known."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Study:
    """Where numbers come from and how they were made.

    Args:
        citation: whom to cite.
        protocol: how the numbers were made, as far as the source states it.
        assumed: what is assumed here because the source does not state it.
        contradictions: where the source contradicts itself.
    """

    citation: str
    protocol: str
    assumed: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()

    def text(self) -> str:
        """Citation, protocol and assumptions as sentences."""
        assumed = f" Assumed, as not stated there: {'; '.join(self.assumed)}." if self.assumed else ""
        return f"{self.citation}. {self.protocol}.{assumed}"


STUDIES = {
    "seminar": Study(
        citation="M. J. Frind, seminar 'Hot topics in Computer Vision': DOFA and BigEarthNet",
        protocol="DOFA features of about 550,000 labeled Sentinel-1/2 patches of BigEarthNet, 19 (or 43) classes, "
        "torchgeo's train and test split; release, bands and model size are not stated",
        assumed=("a class is predicted where its score reaches 0.5",),
    ),
    "class-project": Study(
        citation="ICT group 16, class project: DINOv2 and EuroSAT",
        protocol="facebook/dinov2-base-imagenet1k-1-layer, 224 px, ImageNet mean and standard deviation, rotations, "
        "flips and color as augmentation; a linear head trained with cross-entropy, Adam, learning rate 1e-4, batch "
        "32, 10 epochs; 100 / 20 / 10 images per class (elsewhere 200 per class for four classes)",
        assumed=("the backbone is frozen, although the text speaks of fine-tuning",),
        contradictions=(
            "Table 1 prints a total of 100 test images; its rows sum to 140",
            "the text says 10 test images per class; Table 2 has 30 per class, and 29 of Highway",
        ),
    ),
    "torchgeo-bench": Study(
        citation="torchgeo-bench, https://github.com/torchgeo/torchgeo-bench",
        protocol="224 px bilinear, per-band z-score, features not standardized; kNN with k = 5, or logistic regression "
        "with C chosen on val among 40 values from 1e-6 to 1e4 and refitted on train and val",
    ),
    "resize": Study(
        citation="Corley et al. 2024, Revisiting pre-trained remote sensing model benchmarks: resizing and "
        "normalization matters, arXiv:2305.13456",
        protocol="torchgeo's splits, kNN with k = 5",
    ),
    "copernicus-bench": Study(
        citation="Wang et al. 2025, Towards a Unified Copernicus Foundation Model for Earth Vision, arXiv:2503.11849",
        protocol="frozen encoder and a linear layer, 50 epochs, three runs",
    ),
    "dofa": Study(
        citation="Xiong et al. 2024, Neural Plasticity-Inspired Multimodal Foundation Model, arXiv:2403.15356",
        protocol="GEO-Bench, frozen encoder and a linear layer; the paper's own metric of each set",
    ),
}


SEMINAR_METRICS = ("f2_macro", "f2_micro", "hamming_loss", "precision_macro", "precision_micro")
SEMINAR: dict[str, dict[str, float]] = {
    kind: dict(zip(SEMINAR_METRICS, values, strict=True))
    for kind, values in {
        "rf": (0.214, 0.358, 0.123, 0.52, 0.72),
        "linear": (0.229, 0.353, 0.124, 0.49, 0.70),
        "mlp": (0.345, 0.478, 0.113, 0.58, 0.71),
    }.items()
}
SEMINAR_DIGITS = {"f2_macro": 3, "f2_micro": 3, "hamming_loss": 3, "precision_macro": 2, "precision_micro": 2}
SEMINAR_DATASET, SEMINAR_MODEL, SEMINAR_CLASSES = "bigearthnet", "dofa", 19


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
CLASS_PROJECT_ACCURACY = 0.729  # derived: 218 of 299; not printed there
CLASS_PROJECT_SPLIT = {"train": 100, "val": 20, "test": 10}  # per class, as its text says
CLASS_PROJECT_NOTE = (
    "The published table does not fit the published split: it has 30 test images per class, and 29 of Highway, where "
    "the text says 10."
)

# How it was made, by the names of `analysis.studies.protocol.described`; `...`: not compared.
CLASS_PROJECT_PROTOCOL: dict[str, Any] = {
    "model": "dinov2", "variant": "base-imagenet1k-1-layer", "image_size": 224, "normalization": "imagenet",
    "pooling": "cls+mean", "kind": "head", "learning_rate": 1e-4, "batch_size": 32, "epochs": 10, "augmented": True,
    "views": ..., "only_classes": ..., "per_class": ...,
}  # fmt: skip
# Its Table 1: train and test images of four classes, and the total as printed; the rows sum to 140.
CLASS_PROJECT_TABLE1 = {
    "AnnualCrop": (200, 30),
    "Forest": (200, 40),
    "HerbaceousVegetation": (200, 30),
    "Industrial": (200, 40),
}
CLASS_PROJECT_TABLE1_TOTAL = 100


@dataclass(frozen=True)
class Case:
    """One image of the class project's Table 3: its class, and the one that was predicted."""

    true: str
    predicted: str


CLASS_PROJECT_CASES = (
    *(
        Case(name, name)
        for name in (
            "SeaLake", "Residential", "PermanentCrop", "Pasture", "AnnualCrop", "Highway", "HerbaceousVegetation",
        )
    ),
    Case("River", "Pasture"),
    Case("Industrial", "Residential"),
    Case("Forest", "SeaLake"),
)  # fmt: skip


# Splits that the numbers were made on, in images; a run on other splits of the same data does not match.
EUROSAT_SPLITS = {"train": 16_200, "val": 5_400, "test": 5_400}
GEOBENCH_SPLITS = {
    "m-eurosat": {"train": 2_000, "val": 1_000, "test": 1_000},
    "m-bigearthnet": {"train": 20_000, "val": 1_000, "test": 1_000},
}
BIGEARTHNET_SPLITS = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825},
}


@dataclass(frozen=True)
class Published:
    """One published number, what identifies it, and the protocol that it was measured with.

    Args:
        study: key of `STUDIES`.
        what: model and data as the source names them.
        probe: a probe kind of this project: ``knn``, ``linear``.
        metric: a metric of the run contract.
        value: from 0 to 1.
        match: what a run must share to stand beside it at all: data, model and bands, by the names of
            `analysis.studies.protocol.described`, a tuple where a value has several names; None: data this project
            cannot read.
        protocol: how it was measured, by the same names; a run that differs in any is the nearest protocol, not the
            same.
    """

    study: str
    what: str
    probe: str
    metric: str
    value: float
    match: dict[str, Any] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)


_BANDS = {"rgb": "RGB", "s2-12": "12 bands", "s2-13": "13 bands", "all": "all bands"}
# All Sentinel-2 bands of a set, as a band set and as featurize --bands all names them.
_S2 = {12: ("s2-12", "12bands"), 13: ("s2-13", "13bands")}
# The probes as these studies ran them; both leave features as they are.
_BENCH_KNN = {"k": 5, "distance": "euclidean", "standardized": False}
_BENCH_LINEAR = {"C": "40 values, 1e-06 to 10000", "standardized": False, "refit": True}
_BENCH_INPUT = {"image_size": 224, "interpolation": "bilinear", "normalization": "zscore"}


def _bench(model: str, match: dict[str, Any], made: dict[str, Any], **values: tuple[float, float]) -> list[Published]:
    """torchgeo-bench's kNN and linear number of one model on each set; ``all`` bands are those of the set."""
    sets: dict[str, tuple[str, str, dict[str, Any] | None, dict[str, Any]]] = {
        "m_eurosat": (
            "m-eurosat", "accuracy", {"dataset": "geobench", "dataset_variant": "m-eurosat", "classes": 10},
            {"rows": GEOBENCH_SPLITS["m-eurosat"], "partition": "default"},
        ),
        "eurosat_spatial": (
            "EuroSAT, spatial split", "accuracy", {"dataset": "eurosat", "dataset_variant": "spatial", "classes": 10},
            {"rows": EUROSAT_SPLITS, "split_lists": "eurosat-spatial-{train,val,test}.txt"},
        ),
        "m_bigearthnet": (
            "m-bigearthnet, 43 classes", "map_micro",
            {"dataset": "geobench", "dataset_variant": "m-bigearthnet", "classes": 43},
            {"rows": GEOBENCH_SPLITS["m-bigearthnet"], "partition": "default"},
        ),
        "benv2": ("GEO-Bench 2's benv2, 19 classes", "map_micro", None, {}),
    }  # fmt: skip
    found = []
    for key, pair in values.items():
        data, metric, where, rows = sets[key]
        for probe, value, own in zip(("knn", "linear"), pair, (_BENCH_KNN, _BENCH_LINEAR), strict=True):
            both = None if where is None else where | match
            if both and both["bands"] == "all":
                both["bands"] = _S2[12 if key == "m_bigearthnet" else 13]
            protocol = _BENCH_INPUT | made | own | rows | ({"selection": metric} if probe == "linear" else {})
            found.append(Published("torchgeo-bench", f"{model} on {data}", probe, metric, value, both, protocol))
    return found


def _resize(
    model: str, bands: str, value: float, match: dict[str, Any], protocol: dict[str, Any], *,
    metric: str = "accuracy", dataset: str = "eurosat",
) -> Published:  # fmt: skip
    """One of Corley et al.'s kNN numbers."""
    variant, classes = (None, 10) if dataset == "eurosat" else ("v1", 19)
    names = _S2.get(int(bands.removeprefix("s2-"))) if bands != "rgb" else bands
    where = {"dataset": dataset, "dataset_variant": variant, "classes": classes, "bands": names}
    rows = EUROSAT_SPLITS if dataset == "eurosat" else BIGEARTHNET_SPLITS["v1"]
    data = "EuroSAT" if dataset == "eurosat" else "BigEarthNet v1, 19 classes"
    what = f"{model}, {_BANDS[bands]}, on {data}"
    known = {"k": 5, "distance": "euclidean", "rows": rows}
    return Published("resize", what, "knn", metric, value, where | match, known | protocol)


_MOSAIKS = {"model": "rcf", "variant": "empirical"}
_MOSAIKS_AS = {"pooling": "mean", "image_size": None, "features": 512, "kernel": 3, "standardized": False}
_STATISTICS, _STATISTICS_AS = (
    {"model": "stats"},
    {"pooling": "mean+std+min+max", "image_size": None, "standardized": True},
)
_RESNET = {"model": "resnet", "variant": "imagenet"}
_RESNET_AS = {"pooling": "mean", "normalization": "zscore", "interpolation": "bilinear", "standardized": False}

_MEAN = {"pooling": "mean"}
_RCF_AS = {"variant": "gaussian", "features": 512, "kernel": 3, "pooling": "mean"}  # torchgeo's defaults but for 512

PUBLISHED: tuple[Published, ...] = (
    *_bench(
        "DOFA-B, RGB", {"model": "dofa", "variant": "base", "bands": "rgb"}, _MEAN,
        m_eurosat=(0.921, 0.962), eurosat_spatial=(0.900, 0.952), m_bigearthnet=(0.549, 0.680), benv2=(0.669, 0.800),
    ),
    *_bench(
        "DOFA-L, RGB", {"model": "dofa", "variant": "large", "bands": "rgb"}, _MEAN,
        m_eurosat=(0.936, 0.973), eurosat_spatial=(0.924, 0.965), m_bigearthnet=(0.565, 0.699), benv2=(0.680, 0.813),
    ),
    *_bench(
        "RCF-512, RGB", {"model": "rcf", "bands": "rgb"}, _RCF_AS,
        m_eurosat=(0.614, 0.769), eurosat_spatial=(0.498, 0.617), m_bigearthnet=(0.348, 0.486), benv2=(0.541, 0.652),
    ),
    *_bench(
        "Image statistics, all bands", {"model": "stats", "bands": "all"}, {"pooling": "mean+std+min+max"},
        m_eurosat=(0.783, 0.865), eurosat_spatial=(0.732, 0.884), m_bigearthnet=(0.421, 0.490), benv2=(0.612, 0.703),
    ),
    _resize("ResNet-50 (ImageNet), 64 px", "rgb", 0.821, _RESNET, {"image_size": 64} | _RESNET_AS),
    _resize("ResNet-50 (ImageNet), 224 px", "rgb", 0.912, _RESNET, {"image_size": 224} | _RESNET_AS),
    _resize("MOSAIKS (512 filters of 3 x 3 from the data, ZCA)", "rgb", 0.814, _MOSAIKS, _MOSAIKS_AS),
    _resize("MOSAIKS (512 filters of 3 x 3 from the data, ZCA)", "s2-13", 0.905, _MOSAIKS, _MOSAIKS_AS),
    _resize("Image statistics, scaled", "rgb", 0.772, _STATISTICS, _STATISTICS_AS),
    _resize("Image statistics, scaled", "s2-13", 0.894, _STATISTICS, _STATISTICS_AS),
    *(
        _resize(
            "Image statistics, scaled", "s2-12", value, _STATISTICS, _STATISTICS_AS, metric=metric,
            dataset="bigearthnet",
        )
        for metric, value in {
            "f1_macro": 0.585, "f1_micro": 0.694, "precision_micro": 0.734, "recall_micro": 0.658,
        }.items()
    ),
    *(
        _resize("MOSAIKS, ZCA", "s2-12", value, _MOSAIKS, _MOSAIKS_AS, metric=metric, dataset="bigearthnet")
        for metric, value in {"f1_macro": 0.645, "f1_micro": 0.732}.items()
    ),
    Published("copernicus-bench", "DOFA on EuroSAT-S2", "linear", "accuracy", 0.972),
    Published("copernicus-bench", "DOFA on BigEarthNet-S2 (v2)", "linear", "map", 0.755),
    Published("dofa", "DOFA-B on m-bigearthnet", "linear", "as published", 0.657),
    Published("dofa", "DOFA-L on m-bigearthnet", "linear", "as published", 0.675),
    Published("dofa", "DOFA-B on m-eurosat", "linear", "as published", 0.939),
    Published("dofa", "DOFA-L on m-eurosat", "linear", "as published", 0.971),
)  # fmt: skip
