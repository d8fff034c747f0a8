"""The flags that say what to fit: shared by probe and probe sweep."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from data import paths
from data.errors import RequestError, unknown
from data.registry import PROBES
from probes import protocols

if TYPE_CHECKING:
    from data.runs import Run
    from data.store import FeatureSet
    from probes.settings import Settings

MAX_SEED = 2**32 - 1
METHODS = ("platt", "isotonic", "temperature")  # of calibration
VALS = ("matched", "all")
OVERSAMPLING = ("smote",)
UNITS = {"s": 1, "m": 60, "h": 3600}
Switch = Parameter(negative="")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FitFlags:
    """Which probes on which features, and how.

    Args:
        kind: Probe kinds, comma-separated, or 'all'; see probe list. Default: those of the protocol.
        protocol: Settings that others publish by, such as torchgeo-bench; see probe list.
        model: Model whose features to use; needed where several feature sets exist. A+B joins the features of several.
        dataset: Dataset whose features to use; needed where several feature sets exist.
        features: Folder with train.h5, val.h5 and test.h5, in place of --model and --dataset.
        out: Output folder; features are looked for here too.
        seed: Random seed.
        val: With --shots: matched chooses on as many samples per class of val, all on the whole of val.
        select: Metric on val that chooses the hyper-parameters, such as f2_macro or log_loss; multi-label decisions are
            those of the tuned thresholds, or of 0.5 with @half. Default: accuracy; multi-label map_macro.
        folds: Choose by so many folds of train and val together, where val is missing or small; spatial
            cells stay whole.
        refit: Fit the chosen candidate once more on train and val.
        standardize: Z-score features by train, or not. Default: linear, mlp and head do; knn tries both.
        beta: Which F-beta the tuned thresholds of multi-label probes aim at: 2 weighs recall over precision, 1 alike.
        balanced: Weigh samples so that rare classes count as much as common ones; linear, and single-label rf and mlp.
        oversample: smote: add synthetic training samples of rare classes (needs the extra imbalance); single-label.
        calibrate: Calibrate scores on val: platt, isotonic or temperature.
        budget: Start no further candidate after this long, such as 90s or 10m; skipped candidates are reported.
        device: cpu, cuda or cuda:1; for linear and knn.
        split_by: Pool all samples and split them anew by location: cells (of 0.25 degrees), longitude or region; in the
            ratio of the original splits, drawn by --seed.
        buffer_km: With --split-by: drop train and val samples nearer than this to a sample of a later split.
        augment: Views of each training image to learn from, made by featurize --augment; 1 is the image itself.
        learning_rate: Of head. Default: 1e-4.
        batch_size: Of head, images a step. Default: 32.
        epochs: Of head. Default: 10.
        n_jobs: Trees or candidates fitted at a time, -1 for one a core; does not change the result.
        overwrite: Fit again where the run exists.
    """

    kind: str | None = None
    protocol: str = "default"
    model: str | None = None
    dataset: str | None = None
    features: Path | None = None
    out: Path = paths.DEFAULT_OUT
    seed: int = 0
    val: str = "matched"
    select: str | None = None
    folds: int | None = None
    refit: bool | None = None
    standardize: bool | None = None
    beta: float = 2
    balanced: Annotated[bool, Switch] = False
    oversample: str | None = None
    calibrate: str | None = None
    budget: str | None = None
    device: str = "cpu"
    split_by: str | None = None
    buffer_km: float = 0
    augment: int = 1
    learning_rate: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    n_jobs: Annotated[int, Parameter(name="--n-jobs")] = -1
    overwrite: Annotated[bool, Switch] = False

    def kinds(self) -> list[str]:
        """The kinds asked for, each once.

        Raises:
            RequestError: no such kind, or a flag that none of these flags can be given with.
        """
        asked = protocols.check_kinds(self.protocol, self.kind)
        asked = PROBES.names() if asked == ["all"] else asked
        kinds = list(dict.fromkeys(PROBES.check(kind.strip()) for kind in asked))
        if self.features and (self.model or self.dataset):
            raise RequestError("--features names the folder already; drop --model and --dataset")
        if self.n_jobs == 0:
            raise RequestError("--n-jobs 0: give a number of jobs, or -1 for one a core")
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"--seed {self.seed}: must be from 0 to {MAX_SEED}")
        if self.augment < 1:
            raise RequestError(f"--augment {self.augment}: must be at least 1")
        if self.folds is not None and self.folds < 2:
            raise RequestError(f"--folds {self.folds}: must be at least 2")
        if not self.beta > 0:
            raise RequestError(f"--beta {self.beta:g}: must be above 0, such as 2 or 1")
        if self.calibrate not in (None, *METHODS):
            raise unknown("calibration", self.calibrate, METHODS)
        if self.oversample not in (None, *OVERSAMPLING):
            raise unknown("oversampling", self.oversample, OVERSAMPLING)
        if self.val not in VALS:
            raise unknown("val", self.val, VALS)
        seconds(self.budget)
        if self.buffer_km and self.split_by is None and self.protocol != "map":
            raise RequestError(f"--buffer-km {self.buffer_km:g}: only with --split-by or --protocol map")
        if self.protocol == "map" and (self.split_by or self.augment > 1 or self.folds):
            raise RequestError("--protocol map splits by block; drop --split-by, --augment and --folds")
        if self.split_by and self.augment > 1:
            raise RequestError("--split-by: the views of --augment are of the original train only; drop one of them")
        if self.device != "cpu":
            check_device(self.device)
        for name, value in self._head().items():
            flag = f"--{name.replace('_', '-')} {value:g}"
            if "head" not in kinds:
                raise RequestError(f"{flag}: only head has it; add head to --kind or drop the flag")
            if value <= 0:
                raise RequestError(f"{flag}: must be above 0")
        return kinds

    def check_val(self, shots: bool) -> None:
        """Raise a RequestError for --val where nothing is cut per class, `shots`: val is whole then."""
        if self.val != "matched" and not shots:
            raise RequestError(f"--val {self.val}: only with --shots; without, all of val is used")

    def with_protocol(self, **more: Any) -> tuple["FitFlags", dict[str, Any]]:
        """These flags with what the protocol sets, and so the others.

        Args:
            more: flags of the command beside these, by name; None where not given.

        Raises:
            RequestError: no such protocol, or a flag contradicts it.
        """
        own = {name: value for name, value in vars(self).items() if name not in ("kind", "protocol")}
        whole = protocols.merged(self.protocol, own | more)
        return replace(self, **{name: whole[name] for name in own}), {name: whole[name] for name in more}

    def seeds(self, count: int) -> list[int]:
        """`count` seeds, from the one asked for on.

        Raises:
            RequestError: none, or beyond the largest.
        """
        if count < 1:
            raise RequestError(f"--seeds {count}: must be at least 1")
        if self.seed + count - 1 > MAX_SEED:
            raise RequestError(f"--seed {self.seed} --seeds {count}: seeds must be from 0 to {MAX_SEED}")
        return list(range(self.seed, self.seed + count))

    def splits(self) -> "dict[str, FeatureSet]":
        """The features, checked.

        Raises:
            RequestError: none or several fit, or they cannot be used.
        """
        from data import store  # deferred, as all below: numpy, h5py and scikit-learn cost start-up time
        from probes import inputs

        if self.model and "+" in self.model:
            folder = store.fused_folder(self.out, self.model, dataset=self.dataset, views=self.augment)
        else:
            folder = self.features or store.find_features(self.out, model=self.model, dataset=self.dataset)
        if self.protocol == "map":
            from probes.maps import map_splits

            return map_splits(folder, self.out, buffer_km=self.buffer_km or None, seed=self.seed)
        if self.split_by is None:
            return inputs.read_splits(folder, views=self.augment, val=self.folds is None)
        from probes.resplit import resplit

        splits = resplit(
            inputs.read_splits(folder, val=self.folds is None), self.split_by, buffer_km=self.buffer_km, seed=self.seed
        )
        train = splits["train"]
        inputs.check_classes(train.labels, len(train.class_names), f"train, split by {self.split_by},")
        return splits

    def run(
        self,
        kind: str,
        splits: "dict[str, FeatureSet]",
        *,
        seed: int,
        cut: dict[str, Any],
        report: Callable[[str], None],
    ) -> "Run":
        """Fit one kind, or find its run done.

        Args:
            kind: probe kind.
            splits: see `splits`.
            seed: random seed.
            cut: ``shots`` or ``fraction`` of `probes.search.Settings`.
            report: is told how it goes.
        """
        from probes.fit import fit_run  # deferred, as all below

        more = {"n_jobs": self.n_jobs, "overwrite": self.overwrite, "report": report}
        return fit_run(kind, splits, self.out, seed=seed, settings=self._settings(kind, splits, cut), **more)

    def check(self, kinds: list[str], splits: "dict[str, FeatureSet]") -> None:
        """Raise a RequestError for a setting that one of the kinds does not have, before any is fitted."""
        from probes.settings import check_settings  # deferred, as all below

        for kind in kinds:
            check_settings(kind, self._settings(kind, splits, {}), splits["train"].multilabel)

    def _settings(self, kind: str, splits: "dict[str, FeatureSet]", cut: dict[str, Any]) -> "Settings":
        from probes.settings import Settings  # deferred, as all below

        protocol = protocols.get(self.protocol)
        options = (self._head() if kind == "head" else {}) | protocol.options(kind)
        select = self.select
        if protocol.select is not None:
            own = protocol.select[splits["train"].multilabel]
            if select not in (None, own):
                raise RequestError(
                    f"--protocol {self.protocol} does not go with --select {select}: it sets --select {own}; drop the "
                    "flag or the protocol"
                )
            select = own
        return Settings(
            protocol=self.protocol,
            select=select,
            tie_breaker=protocol.tie_breaker,
            refit=bool(self.refit) and kind in (protocol.refit or (kind,)),
            folds=self.folds,
            standardise=self.standardize,
            extend=not protocol.options(kind),
            beta=self.beta,
            balanced=self.balanced,
            calibrate=self.calibrate,
            oversample=self.oversample,
            val=self.val,
            budget_s=seconds(self.budget),
            device=self.device,
            views=self.augment,
            options=options,
            **cut,
        )

    def _head(self) -> dict[str, float]:
        given = {"learning_rate": self.learning_rate, "batch_size": self.batch_size, "epochs": self.epochs}
        return {name: value for name, value in given.items() if value is not None}


def seconds(budget: str | None) -> float | None:
    """A time such as 90s, 10m, 1.5h or 600 in seconds.

    Raises:
        RequestError: it is none, or not above 0.
    """
    if budget is None:
        return None
    number, unit = (budget[:-1], budget[-1]) if budget[-1:] in UNITS else (budget, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RequestError(f"--budget {budget}: give a time above 0, such as 90s, 10m or 1h")
    return value


def check_device(device: str) -> None:
    """Raise unless there is such a GPU.

    Raises:
        RequestError: no GPU, or not that one.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise RequestError(f"--device {device}: give cpu, cuda or cuda:1")
    import torch  # deferred: only for a GPU

    if not torch.cuda.is_available():
        raise RequestError(f"--device {device}: torch finds no GPU here; drop the flag to use the CPU")
    if int(number or 0) >= (count := torch.cuda.device_count()):
        raise RequestError(f"--device {device}: there are {count}, numbered from 0")
