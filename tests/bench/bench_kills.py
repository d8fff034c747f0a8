"""Every command killed, and given failing and full disks, at many moments: nothing lost, nothing half-written.

One process imports everything and forks for each command, so that a fault takes the time of the command alone.
"""

import errno
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import rasterio
from PIL import Image

from data import checksums, packed, runs, store
from data.problems import Kind
from tests.bench.pairs import PROJECT

KILLS = 30
KILLED = -9
MAKE_SCENE = "featurize --model stats --dataset scene --tile 32 --workers 0 --data-root scene.tif --labels points.gpkg"
HEAD = ["--model", "stats", "--split", "all", "--workers", "0", "--part-rows", "12", "--batch-size", "6"]


@dataclass(frozen=True)
class Trial:
    """A command to disturb.

    Args:
        words: of its command line, relative to the trial's folder.
        before: files below ``out`` that it finds, from the prepared folders.
        spoil: damages them, where the command is there to mend.
    """

    words: list[str]
    before: tuple[str, ...] = ()
    spoil: Callable[[Path], None] = field(default=lambda _: None)


def bench_kills() -> dict:
    """Faults by command: lost, half-written and left-over files, tracebacks, wrong exit codes; all should be 0.

    SIGKILL at 30 boundaries (opening, renaming, linking, removing a file below --out, making a folder; for featurize
    also the end of each stage of a batch) spread over the command, at random moments where there are fewer, and 30
    errors (EIO and ENOSPC in turn) at such
    boundaries and at fsync, fallocate, pread and pwrite. After each: every file that was there before is there and
    sound, every published file is sound; the same command again ends with 0 and leaves exactly the files of an
    undisturbed run. Names of commands in FAULTS_ONLY, separated by commas, restrict it: "repair,overwrite (probe)".
    FAULTS sets another number than 30.
    """
    sys.path.insert(0, str(PROJECT / "tests"))
    from forked import forks

    only = [name.strip() for name in os.environ.get("FAULTS_ONLY", "").split(",") if name.strip()]
    count = int(os.environ.get("FAULTS", KILLS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "outputs").mkdir()
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        views, maps = (not only or bool(some & {*only}) for some in ({"table", "umap", "report"}, {"map"}))
        with forks(folder / "outputs", "all", *(["views"] if views else [])) as fork:
            prepared = _prepare(fork, folder / "prepared", views=views, maps=maps)
            table, commands = {}, trials(prepared)
            if absent := sorted({*only} - commands.keys()):
                raise SystemExit(f"FAULTS_ONLY: no {', '.join(absent)}; choose from {', '.join(commands)}")
            for name, trial in commands.items():
                if only and name not in only:
                    continue
                table[name] = _disturb(fork, trial, prepared, folder / name, count)
                print(json.dumps({name: table[name]}), file=sys.stderr, flush=True)
    return {"by_command": table, "faults": sum(row["kills"] + row["errors"] for row in table.values())}


def trials(prepared: Path) -> dict[str, Trial]:
    """The commands, by the name they have in the table."""

    def words(text: str) -> list[str]:
        return text.split()

    (features,) = (prepared / "out" / "features").glob("*/*")
    test = str((features / "test.h5").relative_to(prepared))
    (run,) = (prepared / "out" / "probes").glob("*/*/linear-*")
    where = ("features", "probes")
    of_scene = [str(one.relative_to(prepared)) for one in (prepared / "out" / "maps" / "probes").glob("*/*/*")]
    made = ["featurize", *HEAD, "--packed", str(prepared / "out" / "p.h5"), "--out", "out"]
    probe = ["probe", "--kind", "linear", "--out", "out"]
    return {
        "featurize": Trial(made),
        "pack": Trial(words("featurize pack --dataset simulated --limit 12 --bands B04,B08 --workers 0 --to out/q.h5")),
        "repair": Trial(["featurize", "verify", "--repair", "out/features"], ("features", "p.h5"), spoil_features),
        "probe": Trial(probe, ("features",)),
        "overwrite (featurize)": Trial([*made, "--overwrite"], ("features",)),
        "overwrite (probe)": Trial([*probe, "--overwrite"], where),
        "sweep": Trial(words("probe sweep --kind linear --shots 2,all --seeds 2 --out out"), ("features",)),
        "predict": Trial(["probe", "predict", str(run.relative_to(prepared)), test, "--to", "out/scores.csv"], where),
        "map": Trial(["probe", "predict", *of_scene, "--to", "out/map.tif"], ("maps",)),
        "export": Trial(["featurize", "export", test, "--to", "parquet"], ("features",)),
        "table": Trial(words("analyze table --out out"), where),
        "umap": Trial(words("analyze umap --out out"), where),
        "report": Trial(words("analyze report --pictures 0 --out out"), (*where, "analysis", "report")),
    }  # fmt: skip


def _prepare(fork, folder: Path, *, views: bool, maps: bool) -> Path:
    """What the commands find: a packed file, features, a run, a run on a scene, an earlier report."""
    folder.mkdir()
    if maps:
        from made_scene import make_points, make_scene

        _, truth = make_scene(folder, side=256)
        make_points(folder / "points.gpkg", truth, 60)
    for words in (
        "pack --dataset simulated --limit 36 --bands B04,B08 --workers 0 --to out/p.h5",
        f"{' '.join(HEAD)} --packed {folder}/out/p.h5 --out out",
        "probe --kind linear --out out",
        *([f"{MAKE_SCENE} --out out/maps", "probe --kind linear --protocol map --out out/maps"] if maps else []),
        *(["analyze umap --out out", "analyze report --pictures 0 --out out"] if views else []),
    ):
        code, output = fork.run(words.split(), cwd=folder)
        assert code == 0, output
    shutil.rmtree(
        folder / "out" / "analysis" / "umap", ignore_errors=True
    )  # the layout stays in its cache: it takes longest
    return folder


def spoil_features(out: Path) -> None:
    """Flip a byte of the features of train."""
    (file,) = out.rglob("train.h5")
    with h5py.File(file) as source:
        chunk = source["features"].id.get_chunk_info(0)
    with file.open("r+b") as target:
        target.seek(chunk.byte_offset + 9)
        byte = target.read(1)[0]
        target.seek(-1, 1)
        target.write(bytes([byte ^ 1]))


def _disturb(fork, trial: Trial, prepared: Path, folder: Path, count: int) -> dict:
    """Disturb a command at evenly spread boundaries; how often what went wrong."""
    wrong: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def note(what: str, about: str) -> None:
        wrong[what] += 1
        examples.setdefault(what, about)

    done, rng = {"kills": 0, "errors": 0}, random.Random(0)
    for kind, faults in (("kills", [0]), ("errors", [errno.EIO, errno.ENOSPC])):
        whole = _fresh(trial, prepared, folder)
        start = time.monotonic()
        code, output = fork.run(trial.words, cwd=whole, under="out", fault=faults[0], die_at=10**9)
        seconds = time.monotonic() - start
        assert code == 0, f"undisturbed: {output}"
        expected = names(whole)
        boundaries = int(output.split()[-1])
        places = np.linspace(1, boundaries, min(count, boundaries * len(faults))).round().astype(int).tolist()
        for number, at in enumerate([*places, *[0] * (count - len(places) if kind == "kills" else 0)]):
            fault = faults[number % len(faults)]
            place = _fresh(trial, prepared, folder)
            before = names(place)
            if at:
                code, output = fork.run(trial.words, cwd=place, under="out", fault=fault, die_at=at)
            else:  # few boundaries: the rest at any moment
                pid = fork.start(trial.words, cwd=place, under="out")
                time.sleep(rng.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)  # not waited for yet: the number is still its own
                code, output = fork.wait(pid)
            about = f"{kind} at {at} of {boundaries}{f' ({errno.errorcode[fault]})' if fault else ''}: "
            done[kind] += 1
            lines = [line for line in output.splitlines() if not line.startswith("boundaries")]
            if "Traceback" in output:
                note("traceback", about + output[-1500:])
            elif code not in ((KILLED, 0) if kind == "kills" else (0, 1 if "--repair" in trial.words else 2, 2)):
                note("exit code", about + f"{code} {lines[-1:]}")
            elif kind == "errors" and code == 0 and (missing := expected - names(place)):
                note("exit 0 with something missing", about + str(sorted(missing)[:3]))
            if lost := sorted(before - names(place)):
                note("lost", about + str(lost[:3]))
            if "--repair" not in trial.words:  # what is to be mended is not sound before
                for problem in unsound(place):
                    note("half-written", about + problem)
            code, output = fork.run(trial.words, cwd=place)
            if code != 0 and not (code == 2 and "exists; give --overwrite" in output):  # predict had finished
                note("next run failed", about + f"{code} {output[-300:]}")
            if left := sorted(every(place) - every(whole)):
                note("left over", about + str(left[:3]))
            if missing := sorted(expected - names(place)):
                note("missing in the end", about + str(missing[:3]))
            for problem in unsound(place):
                note("unsound in the end", about + problem)
    shutil.rmtree(folder, ignore_errors=True)
    kinds = ("lost", "half-written", "left over", "traceback", "exit code", "exit 0 with something missing")
    kinds += ("next run failed", "missing in the end", "unsound in the end")
    return done | {what: wrong[what] for what in kinds} | ({"examples": examples} if examples else {})


def _fresh(trial: Trial, prepared: Path, folder: Path) -> Path:
    """A new folder with what the command finds."""
    folder.mkdir(exist_ok=True)
    number = len(list(folder.iterdir()))
    place = folder / str(number)
    (place / "out").mkdir(parents=True)
    for name in trial.before:
        source = prepared / "out" / name
        if source.is_dir():
            shutil.copytree(source, place / "out" / name)
        elif source.exists():
            shutil.copy2(source, place / "out" / name)
    trial.spoil(place / "out")
    return place


def every(place: Path) -> set[str]:
    """Relative names of all files and folders."""
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def names(place: Path) -> set[str]:
    """Relative names of all published files: those that are neither hidden, temporary, locks nor parts."""
    files = {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
    return {
        str(path)
        for path in files
        if ".tmp-" not in path.name
        and ".lock" not in path.name
        and not any(part.startswith(".") or part.endswith(".parts") for part in path.parts)
    }


def unsound(place: Path) -> Iterator[str]:
    """Published files that are not whole."""
    for name in sorted(names(place)):
        file = place / name
        try:
            problem = _problem(file)
        except Exception as error:  # whatever a reader raises, the file is not whole
            problem = f"{type(error).__name__}: {error}"
        if problem:
            yield f"{name}: {problem}"


def _problem(file: Path) -> str | None:
    match file.suffix:
        case ".h5" if file.name == "predictions.h5":
            run = runs.read_run(file.parent)
            for split in ("val", "test"):
                assert len(run.predictions(split).ids)
        case ".h5":
            is_packed = packed.is_packed(file)
            problems = packed.verify_packed(file) if is_packed else store.verify_features(file).problems
            problems = [one for one in problems if one.kind != Kind.COLLAPSED]  # statistics of a small scene
            return "; ".join(map(str, problems))
        case ".tif":
            with rasterio.open(file) as source:
                source.read()
        case ".sha256":  # published before the map itself
            found = checksums.verify_signed(file.with_suffix(""))
            return "; ".join(str(one) for one in found if one.kind != Kind.MISSING)
        case ".json":
            json.loads(file.read_text())
        case ".csv":
            assert len(pd.read_csv(file)) and file.read_text().endswith("\n")
        case ".parquet":
            assert len(pd.read_parquet(file))
        case ".png":
            with Image.open(file) as image:
                image.load()
        case ".npz":
            with np.load(file) as arrays:
                assert all(arrays[name] is not None for name in arrays)
        case ".html" | ".svg":
            assert file.read_text().rstrip().endswith(("</html>", "</svg>"))
        case ".skops":
            importlib.import_module("zipfile").ZipFile(file).testzip()
        case _:
            assert file.stat().st_size
    return None
