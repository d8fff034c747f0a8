"""Published evaluation protocols by name: what each fixes about a probe, with its source.

A protocol fixes what its source states; flags for everything else stay free. What this program does differently is
listed in ``differs`` and recorded in the run, together with how the features differ from those of the protocol.
"""

from dataclasses import dataclass, field
from typing import Any

from data.errors import RequestError, unknown
from probes.grid import log_grid


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a protocol fixes; None leaves the choice to the flags.

    Args:
        title: one line for lists.
        citation: its publication.
        kinds: probe kinds that it defines; empty for all.
        c_values: C of linear; exactly these are tried.
        k_values: neighbors of knn, by plain Euclidean distance.
        select: selection metric on val, for single-label and for multi-label probes.
        tie_breaker: metric that breaks ties; None takes the first.
        standardise: whether features are z-scored by train.
        refit: kinds to fit once more on train and val.
        learning_rate: of head.
        batch_size: of head.
        epochs: of head.
        shots: training samples per class.
        fractions: shares of train, for a learning curve.
        seeds: number of seeds.
        any_part: whether any part of train may be used; otherwise only `shots` or `fractions`, or all of train.
        plain: whether class weights, calibration, oversampling, augmentation and cross-validation are excluded.
        encoder: by field of the features' identity, the value that the protocol uses.
        differs: what this program does differently, or assumes.
    """

    title: str
    citation: str
    kinds: tuple[str, ...] = ()
    c_values: tuple[float, ...] | None = None
    k_values: tuple[int, ...] | None = None
    select: tuple[str, str] | None = None
    tie_breaker: str | None = "log_loss"
    standardise: bool | None = None
    refit: tuple[str, ...] | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    shots: int | None = None
    fractions: tuple[float, ...] | None = None
    seeds: int | None = None
    any_part: bool = False
    plain: bool = True
    encoder: dict[str, Any] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    def flags(self) -> dict[str, Any]:
        """By flag, the value that the protocol sets; None for a flag that must not be given."""
        fixed = {
            "standardize": self.standardise,
            "refit": None if self.refit is None else bool(self.refit),
            **{flag: getattr(self, flag) for flag in ("learning_rate", "batch_size", "epochs", "seeds")},
        }
        fixed = {flag: value for flag, value in fixed.items() if value is not None}
        if not self.any_part:
            fixed["shots"] = self.shots
            if self.fractions is None:
                fixed["train_fraction"] = None
        if self.plain:
            fixed |= {"balanced": False, "calibrate": None, "oversample": None, "augment": 1, "folds": None}
        return fixed

    def options(self, kind: str) -> dict[str, Any]:
        """The arguments of a kind's `candidates` that the protocol fixes."""
        if kind == "linear" and self.c_values is not None:
            return {"c_values": list(self.c_values)}
        if kind == "knn" and self.k_values is not None:
            return {"k_values": list(self.k_values), "distances": ["euclidean"]}
        return {}

    def sets(self, kind: str) -> set[str]:
        """Names of the settings (`probes.settings.Settings`) and options of a kind that the protocol fixes."""
        names = {"tie_breaker", "extend", *self.options(kind)}
        setting = {"standardize": "standardise", "augment": "views", "train_fraction": "fraction"}
        names |= {setting.get(flag, flag) for flag in self.flags()}
        return names | ({"select"} if self.select is not None else set())

    def differences(self, kind: str, encoder: dict[str, Any], given: dict[str, Any] | None = None) -> list[str]:
        """How a run differs from the protocol.

        ``encoder`` is that of the features' identity; ``given`` are flags that no protocol uses, such as ``split-by``.
        """
        found = [text for text in self.differs if not text.startswith(ONLY) or text.startswith(f"{ONLY}{kind}: ")]
        found = [text.removeprefix(f"{ONLY}{kind}: ") for text in found]
        for name, value in self.encoder.items():
            own: Any = encoder
            for part in name.split("."):
                own = own.get(part) if isinstance(own, dict) else None
            if own != value:
                found.append(f"features made with {name} {own}, the protocol's with {value}")
        if not self.any_part:
            found += [f"--{name} {value}: not part of the protocol" for name, value in (given or {}).items() if value]
        return found


ONLY = "only "  # "only linear: ..." holds for that kind

PROTOCOLS: dict[str, Protocol] = {
    "default": Protocol(
        title="each kind with its own grid, chosen on val by the headline metric",
        citation="this project",
        any_part=True,
        plain=False,
    ),
    "map": Protocol(
        title="a map of a scene: fitted on all labels; nested cross-validation over spatial blocks with a buffer",
        citation="this project; Roberts et al. 2017, doi 10.1111/ecog.02881",
        plain=False,
    ),
    "torchgeo-bench": Protocol(
        title="kNN with k = 5 and logistic regression on raw features, 40 values of C, refit on train and val",
        citation="torchgeo-bench 0.4.0 on the Python package index, its default configuration",
        kinds=("knn", "linear"),
        c_values=tuple(log_grid(1e-6, 1e4, 40, digits=17)),
        k_values=(5,),
        select=("accuracy", "map_micro"),
        tie_breaker=None,
        standardise=False,
        refit=("linear",),
        encoder={"image_size": 224, "interpolation": "bilinear", "normalization.method": "zscore"},
        differs=("intervals are this program's, not a percentile bootstrap with 200 resamples",),
    ),
    "copernicus-bench": Protocol(
        title="one linear layer on normalized features, 50 epochs, three runs",
        citation="Wang et al. 2025, arXiv:2503.11849; github.com/zhu-xlab/Copernicus-FM, Copernicus-Bench",
        kinds=("head",),
        select=("accuracy", "map_macro"),
        standardise=True,
        refit=(),
        learning_rate=1e-3,
        batch_size=64,
        epochs=50,
        seeds=3,
        encoder={"image_size": 224},
        differs=("Adam at a constant rate, not SGD with a cosine schedule", "features are not augmented"),
    ),
    "geo-bench": Protocol(
        title="learning curves with 1, 2, 5, 10, 20, 50 and 100% of train (probe sweep)",
        citation="Lacoste et al. 2023, arXiv:2306.03831",
        refit=(),
        fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        differs=("partitions are drawn by the seed, stratified, unless the dataset has its own",),
    ),
    "mieb": Protocol(
        title="logistic regression on 16 samples per class, five draws",
        citation="Xiao et al. 2025, arXiv:2504.10471; mteb's AbsTaskImageClassification",
        kinds=("linear",),
        c_values=(1.0,),
        standardise=False,
        refit=(),
        shots=16,
        seeds=5,
        differs=("samples are drawn by this program",),
    ),
    "seminar": Protocol(
        title="random forest, linear probe and MLP on DOFA features of BigEarthNet, F2",
        citation="M. J. Frind, seminar 'Hot topics in Computer Vision': DOFA and BigEarthNet",
        kinds=("rf", "linear", "mlp"),
        refit=(),
        differs=("hyper-parameters, the 0.5 rule and a frozen encoder are assumed: the source states none of them",),
    ),
    "class-project": Protocol(
        title="linear head trained with Adam, learning rate 1e-4, batch size 32, 10 epochs; DINOv2 on EuroSAT",
        citation="ICT group 16, class project on DINOv2 and EuroSAT",
        kinds=("head",),
        refit=(),
        learning_rate=1e-4,
        batch_size=32,
        epochs=10,
        plain=False,
        differs=("a frozen encoder and the best epoch on val are assumed: the source states neither",),
    ),
}


def get(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        RequestError: unknown name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def merged(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The flags given (None or False where not given), completed by those that the protocol sets.

    Raises:
        RequestError: unknown protocol, or a flag contradicts it.
    """
    fixed = {flag: value for flag, value in get(name).flags().items() if flag in given}
    for flag, value in fixed.items():
        own = given[flag]
        if own is None or (own is False and flag == "balanced") or own == value:
            continue
        sets = value is not None and (flag, value) != ("balanced", False)  # there is no --no-balanced
        reason = f"which sets {_shown(flag, value)}" if sets else "which does not use it"
        raise RequestError(f"{_shown(flag, own)} contradicts --protocol {name}, {reason}; drop one of them")
    return given | fixed


def check_kinds(name: str, asked: str | None) -> list[str]:
    """The requested kinds (comma-separated, or ``all``), or those of the protocol.

    Raises:
        RequestError: unknown protocol, no kind given, or one that the protocol does not define.
    """
    own = get(name).kinds
    if asked is None:
        if not own:
            raise RequestError(
                "--kind is missing; give --kind linear or all (see probe list), or a --protocol that defines kinds"
            )
        return list(own)
    kinds = [kind.strip() for kind in asked.split(",")]
    if own and asked == "all":
        return list(own)
    if other := [kind for kind in kinds if own and kind not in own]:
        raise RequestError(f"--protocol {name} is defined for {', '.join(own)}; remove {', '.join(other)} from --kind")
    return kinds


def _shown(flag: str, value: Any) -> str:
    flag = flag.replace("_", "-")
    if value is True or value is False:
        return f"--{'' if value else 'no-'}{flag}"
    return f"--{flag} {value:g}" if isinstance(value, int | float) else f"--{flag} {value}"
