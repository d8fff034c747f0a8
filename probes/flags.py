"""The flags that probe and probe sweep share: which probes on which features, and how to fit them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from cyclopts import Parameter

from data import paths
from data.command import say
from data.completion import completed, stored_datasets, stored_models
from data.errors import RequestError, unknown
from probes import protocols
from probes.card import PROBES

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
        kind: Probe kinds, comma-separated, or 'all'; see probe list. Default: the kinds of the protocol.
        protocol: A published evaluation protocol to follow, such as torchgeo-bench; see probe list.
        model: Model whose features to use, or several separated by commas; required if several feature sets exist. A+B
            concatenates the features of two models.
        dataset: Dataset whose features to use, or several separated by commas; required if several feature sets exist.
        features: Folder with train.h5, val.h5 and test.h5, instead of --model and --dataset.
        out: Output folder; features are searched for here, too.
        seed: Random seed.
        val: With --shots: which part of val to use, matched (as many samples per class as --shots) or all.
        select: Metric on val that chooses the hyper-parameters, such as f2_macro or log_loss; multi-label decisions use
            the tuned thresholds, or 0.5 with the suffix @half. Default: accuracy; for multi-label data map_macro.
        folds: Choose by K-fold cross-validation on train and val together, for a missing or small val; spatial cells
            are never divided.
        refit: Fit the chosen candidate once more on train and val.
        standardize: Z-score features with the mean and std of train. Default: yes for linear, mlp and head; knn tries
            both.
        beta: F-beta that the tuned thresholds of multi-label probes maximize: 2 favors recall, 1 weights precision and
            recall alike.
        balanced: Weight samples so that rare classes count as much as common ones; for linear, and for rf and mlp on
            single-label data.
        oversample: smote: add synthetic training samples of rare classes (needs the extra imbalance); for
            single-label data.
        calibrate: Calibrate probabilities on val: platt, isotonic or temperature.
        budget: Time limit for the candidates of each kind, such as 90s or 10m; skipped candidates are reported.
        device: cpu, cuda or cuda:1; a GPU is used by linear, knn, mlp and head.
        split_by: Pool all samples and split them again by location: cells (of 0.25 degrees), longitude or region, in
            the ratio of the original splits, drawn by --seed.
        buffer_km: With --split-by: drop train and val samples closer than this to a sample of a later split. With
            --protocol map: distance between training and test windows; 0 means two windows.
        augment: Views of each training image to fit on, made by featurize --augment; 1 is the image itself.
        learning_rate: Learning rate of head. Default: 1e-4.
        batch_size: Batch size of head. Default: 32.
        epochs: Epochs of head. Default: 10.
        n_jobs: Trees or candidates fitted in parallel, -1 for one per core; does not change the result.
        verbose: List every candidate.
        overwrite: Fit again even if the run exists.
    """

    kind: Annotated[str | None, completed(lambda: [*PROBES.names(), "all"])] = None
    protocol: Annotated[str, completed(lambda: protocols.PROTOCOLS)] = "default"
    model: Annotated[str | None, completed(stored_models)] = None
    dataset: Annotated[str | None, completed(stored_datasets)] = None
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
    verbose: Annotated[bool, Switch] = False
    overwrite: Annotated[bool, Switch] = False

    def kinds(self) -> list[str]:
        """The requested kinds, without duplicates.

        Raises:
            RequestError: unknown kind, or a flag with a wrong value or in a wrong combination.
        """
        names = protocols.check_kinds(self.protocol, self.kind)
        names = PROBES.names() if names == ["all"] else names
        kinds = list(dict.fromkeys(PROBES.check(name.strip()) for name in names))
        if self.features and (self.model or self.dataset):
            raise RequestError("--features already names the folder; drop --model and --dataset")
        if self.n_jobs == 0:
            raise RequestError("--n-jobs 0: give a number of jobs, or -1 for one per core")
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"--seed {self.seed}: must be from 0 to {MAX_SEED}")
        if self.augment < 1:
            raise RequestError(f"--augment {self.augment}: must be at least 1")
        if self.folds is not None and self.folds < 2:
            raise RequestError(f"--folds {self.folds}: must be at least 2")
        if not self.beta > 0:
            raise RequestError(f"--beta {self.beta:g}: must be above 0, such as 2")
        if self.calibrate not in (None, *METHODS):
            raise unknown("calibration", self.calibrate, METHODS)
        if self.oversample not in (None, *OVERSAMPLING):
            raise unknown("oversampling", self.oversample, OVERSAMPLING)
        if self.val not in VALS:
            raise unknown("val", self.val, VALS)
        seconds(self.budget)
        if self.buffer_km and self.split_by is None and self.protocol != "map":
            raise RequestError(f"--buffer-km {self.buffer_km:g}: only with --split-by or --protocol map")
        if self.protocol == "map" and (self.split_by or self.augment > 1 or self.folds or self.calibrate):
            raise RequestError(
                "--protocol map has folds of its own; drop --split-by, --folds, --calibrate and --augment"
            )
        if self.split_by and self.augment > 1:
            raise RequestError("--split-by and --augment cannot be combined; drop one of them")
        if self.device != "cpu":
            check_device(self.device)
        for name, value in self._head().items():
            flag = f"--{name.replace('_', '-')} {value:g}"
            if "head" not in kinds:
                raise RequestError(f"{flag}: only head uses it; add head to --kind or drop the flag")
            if value <= 0:
                raise RequestError(f"{flag}: must be above 0")
        return kinds

    def check_val(self, shots: bool) -> None:
        """Raise a RequestError for --val without --shots, where val is used whole."""
        if self.val != "matched" and not shots:
            raise RequestError(f"--val {self.val}: only with --shots; without it, all of val is used")

    def with_protocol(self, **more: Any) -> tuple[Self, dict[str, Any]]:
        """These flags and `more` of the command (None where not given), with the values that the protocol sets.

        Raises:
            RequestError: unknown protocol, or a flag contradicts it.
        """
        own = {name: value for name, value in vars(self).items() if name not in ("kind", "protocol")}
        merged = protocols.merged(self.protocol, own | more)
        return replace(self, **{name: merged[name] for name in own}), {name: merged[name] for name in more}

    def seeds_from(self, count: int) -> list[int]:
        """`count` seeds, starting at --seed.

        Raises:
            RequestError: no seed, or one beyond the largest.
        """
        if count < 1:
            raise RequestError(f"--seeds {count}: must be at least 1")
        if self.seed + count - 1 > MAX_SEED:
            raise RequestError(f"--seed {self.seed} --seeds {count}: seeds must be from 0 to {MAX_SEED}")
        return list(range(self.seed, self.seed + count))

    def splits(self) -> "dict[str, FeatureSet]":
        """The features of the splits, checked.

        Raises:
            RequestError: no or several feature sets match, or they cannot be used.
        """
        from data import store  # deferred, as all below: numpy, h5py and scikit-learn slow the start down
        from data.store import child

        child.start()  # before scikit-learn is imported, which takes as long
        from probes import fit, inputs  # noqa: F401 - needed next

        if self.model and "+" in self.model:
            folder = store.fused_folder(self.out, self.model, dataset=self.dataset, views=self.augment)
        else:
            folder = self.features or store.find_features(self.out, model=self.model, dataset=self.dataset)
        if self.protocol == "map":
            from probes.maps import map_splits

            return map_splits(folder, buffer_km=self.buffer_km or None, seed=self.seed)
        if paths.labels_beside(folder).exists():
            raise RequestError(f"{folder} contains features of a scene; add --protocol map, which splits its labels")
        if self.split_by is None:
            return inputs.read_splits(folder, views=self.augment, val=self.folds is None)
        from probes.resplit import resplit

        splits = resplit(
            inputs.read_splits(folder, val=self.folds is None), self.split_by, buffer_km=self.buffer_km, seed=self.seed
        )
        train = splits["train"]
        inputs.check_classes(train.labels, len(train.class_names), f"train, split by {self.split_by},")
        return splits

    def run(self, kind: str, splits: "dict[str, FeatureSet]", *, seed: int, cut: dict[str, Any]) -> "Run":
        """Fit one kind, or reuse its run; progress and one result line go to standard error.

        ``cut`` is ``shots`` or ``fraction`` of `probes.settings.Settings`.
        """
        from probes.fit import finished, plan_probe, run_probe  # deferred, as all below

        plan = plan_probe(kind, splits, self.out, seed=seed, settings=self._settings(kind, splits, cut))
        if not self.overwrite and (run := finished(plan)):
            say(f"{kind}: reused {run.folder}")
            return run
        run = run_probe(plan, splits, n_jobs=self.n_jobs, log=say if self.verbose else None)
        say(result_line(run))
        return run

    def check(self, kinds: list[str], splits: "dict[str, FeatureSet]") -> None:
        """Raise a RequestError for a setting that one of the kinds does not support, before any is fitted."""
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
                    f"--select {select} contradicts --protocol {self.protocol}, which sets --select {own}; drop one of "
                    "them"
                )
            select = own
        blocks = splits["train"].identity["split"].get("blocks")  # with folds of their own, see `probes.maps`
        return Settings(
            protocol=self.protocol,
            select=select,
            tie_breaker=protocol.tie_breaker,
            refit=bool(self.refit) and kind in (protocol.refit or (kind,)),
            folds=max(blocks["folds"]) + 1 if blocks else self.folds,
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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ProbeFlags(FitFlags):
    """All flags of probe.

    Args:
        shots: Number of training samples per class, drawn with --seed; for val see --val. Default: all.
        train_fraction: Fraction of train to fit on, stratified, drawn with --seed. Default: all.
        seeds: Number of seeds, starting at --seed; reports the mean and its interval, and writes tables to OUT/sweeps.
            Default: 1.
    """

    shots: int | None = None
    train_fraction: float | None = None
    seeds: int | None = None

    def planned(self) -> Self:
        """These flags, checked, with the values that the protocol sets.

        Raises:
            RequestError: a flag has a wrong value or contradicts another or the protocol.
        """
        flags, _ = self.with_protocol()
        flags.kinds()
        flags.seeds_from(1 if flags.seeds is None else flags.seeds)
        if flags.shots is not None and flags.train_fraction is not None:
            raise RequestError("--shots and --train-fraction cannot be combined; give one of them")
        if flags.shots is not None and flags.shots < 1:
            raise RequestError(f"--shots {flags.shots}: must be at least 1")
        flags.check_val(flags.shots is not None)
        if flags.train_fraction is not None and not 0 < flags.train_fraction <= 1:
            raise RequestError(f"--train-fraction {flags.train_fraction:g}: must be above 0 and at most 1")
        return flags

    def fit(self) -> "list[Run]":
        """Fit every kind with every seed, or reuse the runs; of flags that `planned` returned.

        Raises:
            RequestError: the features cannot be used, or a setting does not go with a kind.
        """
        kinds, splits = self.kinds(), self.splits()
        self.check(kinds, splits)
        cut = {"shots": self.shots, "fraction": self.train_fraction}
        numbers = self.seeds_from(self.seeds or 1)
        return [self.run(kind, splits, seed=seed, cut=cut) for seed in numbers for kind in kinds]


def result_line(run: "Run") -> str:
    """What was chosen and how long it took, in one line."""
    from probes.search import words  # deferred, as above

    chosen, tried = run.record["chosen"], run.record["candidates"]
    metric = run.record["arguments"]["selection"]
    value = next((one[metric] for one in tried if chosen.items() <= one.items()), None)
    best = f"{words(chosen)} (best of {len(tried)} candidates), " if len(tried) > 1 else ""
    score = "undefined" if value is None else f"{value:.4f}"
    split = "out-of-fold" if "folds" in run.record["chosen_on"] else "val"
    return f"{run.kind}: {best}{split} {metric} {score}, {run.record['seconds']['total']:.1f} s"


def seconds(budget: str | None) -> float | None:
    """A time such as 90s, 10m, 1.5h or 600 in seconds.

    Raises:
        RequestError: it is not a time, or not above 0.
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
    """Raise a RequestError unless this GPU exists."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise RequestError(f"--device {device}: give cpu, cuda or cuda:1")
    import torch  # deferred: only for a GPU

    if not torch.cuda.is_available():
        raise RequestError(f"--device {device}: torch finds no GPU; drop the flag to use the CPU")
    if int(number or 0) >= (count := torch.cuda.device_count()):
        raise RequestError(f"--device {device}: there are {count}, numbered from 0")
