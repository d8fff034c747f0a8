"""The flags that say what to fit: shared by probe and probe sweep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from data import paths
from data.errors import RequestError
from data.registry import PROBES

if TYPE_CHECKING:
    from data.runs import Run
    from data.store import FeatureSet

MAX_SEED = 2**32 - 1
Switch = Parameter(negative="")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FitFlags:
    """Which probes on which features, and how.

    Args:
        kind: Probe kinds, comma-separated, or 'all'; see probe list.
        model: Model whose features to use; needed where several feature sets exist.
        dataset: Dataset whose features to use; needed where several feature sets exist.
        features: Folder with train.h5, val.h5 and test.h5, in place of --model and --dataset.
        out: Output folder; features are looked for here too.
        seed: Random seed.
        augment: Views of each training image to learn from, made by featurize --augment; 1 is the image itself.
        learning_rate: Of head. Default: 1e-4.
        batch_size: Of head, images a step. Default: 32.
        epochs: Of head. Default: 10.
        n_jobs: Trees or candidates fitted at a time, -1 for one a core; does not change the result.
        overwrite: Fit again where the run exists.
    """

    kind: str
    model: str | None = None
    dataset: str | None = None
    features: Path | None = None
    out: Path = paths.DEFAULT_OUT
    seed: int = 0
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
        asked = PROBES.names() if self.kind == "all" else self.kind.split(",")
        kinds = list(dict.fromkeys(PROBES.check(kind.strip()) for kind in asked))
        if self.features and (self.model or self.dataset):
            raise RequestError("--features names the folder already; drop --model and --dataset")
        if self.n_jobs == 0:
            raise RequestError("--n-jobs 0: give a number of jobs, or -1 for one a core")
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"--seed {self.seed}: must be from 0 to {MAX_SEED}")
        if self.augment < 1:
            raise RequestError(f"--augment {self.augment}: must be at least 1")
        for name, value in self._head().items():
            flag = f"--{name.replace('_', '-')} {value:g}"
            if "head" not in kinds:
                raise RequestError(f"{flag}: only head has it; add head to --kind or drop the flag")
            if value <= 0:
                raise RequestError(f"{flag}: must be above 0")
        return kinds

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

        folder = self.features or store.find_features(self.out, model=self.model, dataset=self.dataset)
        return inputs.read_splits(folder, views=self.augment)

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
        from probes.search import Settings

        options = self._head() if kind == "head" else {}
        settings = Settings(views=self.augment, options=options, **cut)
        more = {"n_jobs": self.n_jobs, "overwrite": self.overwrite, "report": report}
        return fit_run(kind, splits, self.out, seed=seed, settings=settings, **more)

    def _head(self) -> dict[str, float]:
        given = {"learning_rate": self.learning_rate, "batch_size": self.batch_size, "epochs": self.epochs}
        return {name: value for name, value in given.items() if value is not None}
