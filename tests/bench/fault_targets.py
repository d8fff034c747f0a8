"""What faults damage: every kind of file that is kept, and what reads it."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

WHOLE_COMMAND_EVERY = 25  # faults: the command itself is run, not only the function that reads the file


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy of a file's bytes with one fault: a bit, a byte, a sector, its end, all of it."""
    kind, at = rng.integers(9), int(rng.integers(max(1, len(content))))
    changed = bytearray(content)
    if kind <= 2 and changed:
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 3 and changed:
        changed[at] = int(rng.integers(256))
    elif kind == 4:
        changed[at : at + 64] = bytes(len(changed[at : at + 64]))
    elif kind == 5:
        changed[at : at + 64] = rng.bytes(len(changed[at : at + 64]))
    elif kind == 6:
        del changed[at:]
    elif kind == 7:
        changed[at:at] = changed[at : at + 64]
    else:
        changed = bytearray() if rng.integers(3) == 0 else changed + bytearray(rng.bytes(100))
    return bytes(changed)


def run_command(app: Any, *words: Any) -> tuple[int, str]:
    """Exit code and standard error of a command run here; an exception is for the caller."""
    from data import command

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        return command.run(app, [str(word) for word in words]), stderr.getvalue()


def make(root: Path) -> None:
    """Features, a packed file, a run and an unfinished split, made by the commands."""
    from featurize.cli import app as featurize
    from probes.cli import app as probe

    made = ["--dataset", "simulated", "--limit", 120, "--bands", "B04,B08", "--workers", 0]
    assert run_command(featurize, "--model", "stats", *made, "--split", "all", "--out", root / "out")[0] == 0
    assert run_command(featurize, "pack", *made[:6], "--split", "all", "--to", root / "p.h5", "--workers", 0)[0] == 0
    assert run_command(probe, "--kind", "linear", "--out", root / "out")[0] == 0


class Target:
    """Something to damage: files, and what reads them."""

    def __init__(self, root: Path, place: Path) -> None:
        self.root, self.place = root, place
        shutil.rmtree(place, ignore_errors=True)
        self.prepare()
        self.files = {file: file.read_bytes() for file in self.choose()}
        self.whole = self.read()

    def prepare(self) -> None:
        shutil.copytree(self.root / "out", self.place)

    def choose(self) -> list[Path]:
        raise NotImplementedError

    def read(self) -> Any:
        """All that a user gets of the files."""
        raise NotImplementedError

    def command(self) -> tuple[int, str] | None:
        """The command that reads them, where its exit code can be judged by itself."""
        return None

    def fault(self, number: int) -> tuple[str, str]:
        from data.errors import RequestError

        rng = np.random.default_rng([number, len(self.files)])
        file = list(self.files)[int(rng.integers(len(self.files)))]
        content = damaged(self.files[file], rng)
        file.write_bytes(content)
        try:
            try:
                same = self.read() == self.whole
                kept = file.exists() and file.read_bytes() == content
                outcome = ("harmless" if kept else "mended") if same else "silent"
                told = f"fault {number}, {file.name}"
            except RequestError as error:
                outcome, told = "refused" if "\n" not in str(error) else "traceback", str(error)
            if number % WHOLE_COMMAND_EVERY == 0 and (answer := self.command()):
                code, told = answer
                if code == 0 and outcome == "refused":
                    outcome = "silent"
                if code not in (0, 1, 2) or "Traceback" in told:
                    outcome = "traceback"
            return outcome, told
        finally:
            self.restore()

    def restore(self) -> None:
        for file, content in self.files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


class _Features(Target):
    def choose(self) -> list[Path]:
        return sorted((self.place / "features").rglob("*.h5"))

    def read(self) -> Any:
        from probes import inputs

        splits = inputs.read_splits(next(iter((self.place / "features").glob("*/*"))))
        return [
            (name, one.features[:].tobytes(), one.labels.tobytes(), one.ids, one.identity, inputs.split_identity(one))
            for name, one in splits.items()
        ]

    def command(self) -> tuple[int, str] | None:
        from featurize.cli import app

        return run_command(app, "verify", "--out", self.place)


class _Run(Target):
    name = ""

    def choose(self) -> list[Path]:
        return sorted((self.place / "probes").rglob(self.name))

    def run(self) -> Any:
        from data import runs

        return runs.read_run(next(iter((self.place / "probes").glob("*/*/*"))))

    def command(self) -> tuple[int, str] | None:
        from probes.cli import app

        return run_command(app, "verify", "--out", self.place)


class _Record(_Run):
    name = "run.json"

    def read(self) -> Any:
        return self.run().record


class _Predictions(_Run):
    name = "predictions.h5"

    def read(self) -> Any:
        found = [self.run().predictions(split) for split in ("val", "test")]
        return [(one.ids, one.labels.tobytes(), one.scores.tobytes()) for one in found]


class _Model(_Run):
    name = "model.skops"

    def read(self) -> Any:
        from probes import prediction

        table = self.place / "scores.csv"
        features = next(iter((self.place / "features").glob("*/*/test.h5")))
        table.unlink(missing_ok=True)
        prediction.predict(self.run(), features, table)
        return table.read_bytes()


class _Reuse(_Run):
    name = "*.*"

    def read(self) -> Any:
        from data import runs
        from data.errors import RequestError

        run = runs.intact(next(iter((self.place / "probes").glob("*/*/*"))))
        if run is None:
            raise RequestError("not reused")
        return self.run().record, self.run().predictions("test").scores.tobytes(), run.model_sha256


class _Packed(Target):
    def prepare(self) -> None:
        self.place.mkdir()
        shutil.copy(self.root / "p.h5", self.place)

    def choose(self) -> list[Path]:
        return [self.place / "p.h5"]

    def read(self) -> Any:
        from data.packed import PackedSplit

        found = []
        for split in ("train", "val", "test"):
            samples = PackedSplit(self.place / "p.h5", split)
            pixels = [stack.tobytes() for _, stack in samples.read_stacks(range(len(samples)), samples.bands)]
            about = (samples.bands, samples.statistics, samples.class_names, samples.provenance, samples.files_digest)
            found.append((samples.ids, samples.labels.tobytes(), about, pixels))
        return found

    def command(self) -> tuple[int, str] | None:
        from featurize.cli import app

        return run_command(app, "verify", self.place / "p.h5")


class _Parts(Target):
    """A split that was stopped after two of four parts; what is there counts only if it is what was written."""

    names = ("plan.json", "journal.jsonl")

    def prepare(self) -> None:
        from data import store

        source = store.read_features(next(iter((self.root / "out" / "features").glob("*/*/train.h5"))))
        self.features, self.identity = source.features, source.identity
        with self.writer() as writer:
            for part in (0, 2):
                writer.write_part(part, self.features[slice(*writer.bounds(part))])

    def writer(self) -> Any:
        from data import store

        rows, dim = self.features.shape
        size = {"rows": rows, "dim": dim, "dtype": self.features.dtype.name, "part_rows": -(-rows // 4)}
        return store.FeatureWriter(self.place / "train.h5", self.identity, **size)

    def choose(self) -> list[Path]:
        return [file for file in sorted(self.place.rglob("*")) if file.name in self.names]

    def read(self) -> Any:
        from data.store.reader import open_hdf5

        with self.writer() as writer:
            blocks = []
            for part in range(4):
                if part in writer.missing():
                    writer.write_part(part, self.features[slice(*writer.bounds(part))])
                with open_hdf5(writer._part_file(part)) as source:
                    blocks.append(source["features"][:])
        return np.concatenate(blocks).tobytes()

    def restore(self) -> None:
        shutil.rmtree(self.place)
        self.prepare()
        super().restore()


class _Part(_Parts):
    names = ("part-00000.h5", "part-00002.h5")


class _Lock(Target):
    def prepare(self) -> None:
        from data.lock import Lock

        self.place.mkdir()
        lock = Lock(self.place / "train.lock")
        lock.acquire()
        lock._ended.set()  # its heartbeat stops, and the lock stays
        text = json.loads(lock.path.read_text()) | {"pid": 2**22 - 1}  # of a dead process
        lock.path.write_text(json.dumps(text))

    def choose(self) -> list[Path]:
        return [self.place / "train.lock"]

    def read(self) -> Any:
        from data.lock import Lock

        with Lock(self.place / "train.lock"):
            return True


class _Cache(Target):
    def prepare(self) -> None:
        self.points = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def choose(self) -> list[Path]:
        self.read()
        return sorted(self.place.rglob("*.npz"))

    def read(self) -> Any:
        from analysis.projection import project

        return project(self.points, neighbors=5, min_dist=0.1, seed=0, cache=self.place).tobytes()


TARGETS: dict[str, type[Target]] = {
    "features": _Features, "packed": _Packed, "run.json": _Record, "predictions.h5": _Predictions,
    "model.skops": _Model, "reuse": _Reuse, "plan and journal": _Parts, "part": _Part, "lock": _Lock, "cache": _Cache,
}  # fmt: skip
