"""A featurize command: opened and run the same way in every process."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import paths
from data.errors import RequestError
from data.flags import DataFlags
from featurize.flags import FeaturizeFlags, ModelFlags, RunFlags

if TYPE_CHECKING:
    from data.dataset import EODataset
    from featurize.encoder import FrozenModel

PATHS = ("packed", "data_root", "cache_dir")  # the flags of data that are paths


@dataclass(frozen=True, kw_only=True)
class Job:
    """The request of a featurize command; picklable, so that other processes can run parts of it."""

    model: ModelFlags  # which encoder
    data: DataFlags  # which samples
    run: RunFlags  # how to run
    augment: int = 1  # views of each training image, the image itself included
    out: Path = paths.DEFAULT_OUT  # where results are kept
    overwrite: bool = False  # recompute features that exist

    @classmethod
    def of(cls, flags: FeaturizeFlags) -> "Job":
        """The job of a featurize command."""
        groups = {"model": flags.part(ModelFlags), "data": flags.part(DataFlags), "run": flags.part(RunFlags)}
        return cls(**groups, augment=flags.augment, out=flags.out, overwrite=flags.overwrite)

    def check(self) -> None:
        """Raise a RequestError if the request itself is wrong, before anything is opened."""
        self.model.check()
        self.run.check()
        if self.augment < 1:
            raise RequestError(f"--augment {self.augment}: must be at least 1")
        if self.augment > 1 and "train" not in self.data.splits():
            raise RequestError(f"--augment {self.augment} --split {self.data.split}: only train is augmented")
        paths.check_local(self.out)

    def targets(self) -> list[tuple[str, int]]:
        """(split, view) of every feature file to make; view 0 is the image itself."""
        return [(split, 0) for split in self.data.splits()] + [("train", view) for view in range(1, self.augment)]

    def open(self, split: str, view: int = 0) -> "EODataset":
        """One split, or an altered view of it; the dataset is opened once with all splits requested."""
        if split not in self._opened:  # not requested, but a model may take something from train
            self._opened.update(self.data.open((split,), bands=self.model.wanted_bands()))
        if not view:
            return self._opened[split]

        from featurize.augment import View  # deferred: numpy

        return View(self._opened[split], view)

    @cached_property
    def encoder(self) -> "FrozenModel":
        """The encoder, on the CPU."""
        return self.model.build(self.open(self.data.splits()[0]), lambda: self.open("train"))

    def file(self, samples: "EODataset", view: int, identity: dict[str, Any]) -> Path:
        """File of the features of one split or view."""
        from data import store  # deferred: h5py

        folder = paths.feature_folder(self.out, store.dataset_slug(identity), store.encoder_slug(identity))
        return paths.view_file(folder, samples.split, view) if view else paths.feature_file(folder, samples.split)

    def asked(self) -> dict[str, Any]:
        """The flags that affect the values, JSON-able; `from_asked` turns them into a job again."""
        return {"model": _plain(asdict(self.model)), "data": _plain(asdict(self.data))}

    @classmethod
    def from_asked(cls, asked: dict[str, Any], split: str, **settings: Any) -> "Job":
        """The job that recomputes one split, from what was recorded with its features.

        Args:
            asked: see `asked`.
            split: the split.
            settings: of the job: ``run``, ``out``, ``overwrite``.

        Raises:
            RequestError: flags that this version does not have: without them the values may be others.
        """
        for group, flags in (("model", ModelFlags), ("data", DataFlags)):
            if later := asked[group].keys() - {field.name for field in fields(flags)}:
                names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(later))
                raise RequestError(f"they were made with {names}, which this version does not have; use a later one")
        data: dict[str, Any] = {name: Path(v) if v and name in PATHS else v for name, v in asked["data"].items()}
        data["split"] = split
        return cls(model=ModelFlags(**asked["model"]), data=DataFlags(**data), **settings)

    @cached_property
    def _opened(self) -> dict[str, "EODataset"]:
        return self.data.open(bands=self.model.wanted_bands())

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened: every process opens its own."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _plain(flags: dict[str, Any]) -> dict[str, Any]:
    """Paths made absolute, as the command may be repeated in another folder, and converted to text."""

    def plain(name: str, value: Any) -> Any:
        is_path = isinstance(value, Path) or (name == "weights" and value and Path(value).exists())
        return str(Path(value).resolve()) if is_path else value

    known = {name: value for name, value in flags.items() if value is not None or name != "normalize_like"}
    return {name: plain(name, value) for name, value in known.items()}
