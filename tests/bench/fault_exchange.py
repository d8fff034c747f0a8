"""What faults damage, continued: exports, imports, scenes and maps."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.store.exchange.export import export
from data.store.exchange.stac import Origin
from tests.bench.fault_targets import Target, run_command
from tests.bench.pairs import PROJECT

SCENE = ["--model", "stats", "--dataset", "scene", "--tile", "32", "--device", "cpu", "--workers", "0"]


def make(root: Path) -> None:
    """A small scene with labels, its features, a run on them, and a table of vectors made elsewhere."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from made_scene import make_points, make_scene

    from featurize.cli import app as featurize
    from probes.cli import app as probe

    folder = root / "scene"
    _, truth = make_scene(folder, side=256)
    make_points(folder / "points.gpkg", truth, 60)
    assert run_command(featurize, *_scene(folder))[0] == 0
    assert run_command(probe, "--kind", "linear", "--protocol", "map", "--out", folder / "runs")[0] == 0
    rng = np.random.default_rng(0)
    ids, vectors = [str(row) for row in range(90)], list(rng.normal(size=(90, 12)).astype(np.float32))
    pd.DataFrame({"id": ids, "embedding": vectors}).to_parquet(root / "vectors.parquet")
    rows = [f"{row},{'abc'[row % 3]},{('train', 'val', 'test')[row % 3]}" for row in range(90)]
    (root / "table.csv").write_text("id,name,part\n" + "\n".join(rows) + "\n")


def _scene(folder: Path) -> list[Any]:
    """The words that featurize a scene with its labels."""
    return [*SCENE, "--data-root", folder / "scene.tif", "--labels", folder / "points.gpkg", "--out", folder / "runs"]


def _sets(files: list[Path]) -> list[tuple]:
    """All that a user gets of some feature files."""
    from data import store

    found = []
    for file in files:
        one = store.read_features(file)
        where = None if one.lonlat is None else one.lonlat.tobytes()
        found.append((one.ids, one.features[:].tobytes(), one.labels.tobytes(), one.class_names, where))
    return found


class _Export(Target):
    """An exported feature file, and `featurize import`, which reads it back."""

    to = ""
    compact: dict[str, Any] = {}  # noqa: RUF012 - not changed
    of = "scene/runs"

    def prepare(self) -> None:
        source = next((self.root / self.of / "features").glob("*/*/test.h5"))
        shutil.copytree(source.parent, self.place)  # of all splits: train fits the scales and the PCA
        export(self.place / "test.h5", self.to, **self.compact)

    def choose(self) -> list[Path]:
        return [self.place / f"test.{self.to}"]

    def read(self) -> Any:
        from data.flags import ImportFlags
        from data.store.exchange.importing import import_features

        out = self.place / "imported"
        shutil.rmtree(out, ignore_errors=True)
        flags = ImportFlags(name="again")
        return _sets(import_features(self.place / f"test.{self.to}", flags, out))


class _GeoParquet(_Export):
    to = "geoparquet"


class _Compact(_GeoParquet):
    of = "out"
    compact = {  # noqa: RUF012 - not changed
        "pca": 4, "quantize": "int8", "origins": (Origin("m", "urn:name:m"), Origin("d", "urn:name:d"))
    }  # fmt: skip


class _Parquet(_Export):
    to = "parquet"


class _Npz(_Export):
    to = "npz"


class _Import(Target):
    """Vectors and a table made elsewhere, without checksums: another file must give a set of another identity."""

    def prepare(self) -> None:
        self.place.mkdir()
        for name in ("vectors.parquet", "table.csv"):
            shutil.copy(self.root / name, self.place)

    def choose(self) -> list[Path]:
        return [self.place / "vectors.parquet", self.place / "table.csv"]

    def read(self) -> Any:
        from data.flags import ImportFlags
        from data.store.exchange.importing import import_features

        out, table = self.place / "out", self.place / "table.csv"
        shutil.rmtree(out, ignore_errors=True)
        flags = ImportFlags(name="elsewhere", table=table, id="id", label="name", split="part")
        files = import_features(self.place / "vectors.parquet", flags, out)
        self.folders = {file.parent.relative_to(out) for file in files}
        return _sets(files)

    def fault(self, number: int) -> tuple[str, str]:
        outcome, told = super().fault(number)
        return ("another", told) if outcome == "silent" and not self.folders & self.original else (outcome, told)

    def __init__(self, root: Path, place: Path) -> None:
        super().__init__(root, place)
        self.original = self.folders  # of the set that the whole files give; its name holds the identity


class _Imported(Target):
    """The feature files of an imported set."""

    def prepare(self) -> None:
        from data.flags import ImportFlags
        from data.store.exchange.importing import import_features

        self.place.mkdir()
        flags = ImportFlags(name="elsewhere", table=self.root / "table.csv", id="id", label="name", split="part")
        import_features(self.root / "vectors.parquet", flags, self.place)

    def choose(self) -> list[Path]:
        return sorted(self.place.rglob("*.h5"))

    def read(self) -> Any:
        return _sets(sorted(self.place.rglob("*.h5")))

    def command(self) -> tuple[int, str] | None:
        from featurize.cli import app

        return run_command(app, "verify", "--out", self.place)


class _Scene(Target):
    """The raster that features were made from: the next command must notice that its pixels changed."""

    name = "scene.tif"

    def prepare(self) -> None:
        shutil.copytree(self.root / "scene", self.place, copy_function=shutil.copy2)
        self.command_line()

    def choose(self) -> list[Path]:
        return [self.place / self.name]

    def command_line(self) -> tuple[int, str]:
        """Featurize again."""
        from featurize.cli import app

        return run_command(app, *_scene(self.place))

    def read(self) -> Any:
        from data.errors import RequestError

        code, told = self.command_line()
        if code or "changed" in told:
            raise RequestError((told.strip().splitlines() or [f"exit code {code}"])[-1])
        files = sorted((self.place / "runs" / "features").rglob("*.h5"))
        return _sets(files), self.pixels()

    def pixels(self) -> bytes:
        """What the damaged file itself holds now."""
        import rasterio
        from rasterio.errors import RasterioError

        try:
            with rasterio.open(self.place / self.name) as source:
                return source.read().tobytes() + str(source.transform).encode()
        except RasterioError:
            return b"unreadable"

    def restore(self) -> None:
        shutil.rmtree(self.place)
        self.prepare()


class _Labels(Target):
    """What is kept beside a scene's features of its labels: the next probe reads it."""

    def prepare(self) -> None:
        shutil.copytree(self.root / "scene", self.place, copy_function=shutil.copy2)

    def choose(self) -> list[Path]:
        from data import paths

        return [paths.labels_beside(next((self.place / "runs" / "features").glob("*/*/")))]

    def read(self) -> Any:
        from probes.maps import map_splits

        splits = map_splits(next((self.place / "runs" / "features").glob("*/*/")), buffer_km=None, seed=0)
        return [(one.ids, one.labels.tobytes(), one.class_names) for one in splits.values()]


class _Map(Target):
    """A map with its probabilities and checksums, and `probe verify`: other programs read it."""

    to = "map.tif"
    run = "scene/runs"
    features: tuple[str, ...] = ()

    def prepare(self) -> None:
        from probes.cli import app

        (run,) = (self.root / self.run / "probes").glob("*/*/*")
        given = [self.root / self.run / "features" / run.parent.relative_to(run.parents[2]) / n for n in self.features]
        assert run_command(app, "predict", run, *given, "--to", self.place / self.to)[0] == 0

    def choose(self) -> list[Path]:
        return sorted(file for file in self.place.rglob("*") if file.is_file())

    def read(self) -> Any:
        from data.checksums import verify_signed
        from data.errors import RequestError

        if problems := verify_signed(self.place / self.to):
            raise RequestError(str(problems[0]))
        return [file.read_bytes() for file in self.choose() if file.suffix != ".sha256"]

    def command(self) -> tuple[int, str] | None:
        from probes.cli import app

        return run_command(app, "verify", self.place / self.to)


class _Mosaic(_Map):
    to = "map.vrt"


class _Polygons(_Map):
    to = "map.gpkg"


class _PolygonTable(_Map):
    to = "map.parquet"


class _Scores(_Map):
    to, run, features = "scores.parquet", "out", ("test.h5",)


class _ScoresText(_Scores):
    to = "scores.csv"


TARGETS: dict[str, type[Target]] = {
    "geoparquet": _GeoParquet, "parquet": _Parquet, "npz": _Npz, "import": _Import, "imported": _Imported,
    "scene raster": _Scene, "scene labels": _Labels, "compact export": _Compact, "map.tif": _Map, "map.vrt": _Mosaic,
    "map.gpkg": _Polygons, "map.parquet": _PolygonTable, "scores.parquet": _Scores, "scores.csv": _ScoresText,
}  # fmt: skip
