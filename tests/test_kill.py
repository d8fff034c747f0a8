"""Featurizing killed at any moment and started again ends as if nothing had happened."""

import os
import random
import re
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import paths, store

ROWS, PART_ROWS = 96, 12
KILLS = 30
MOST_BOUNDARIES = 30  # tried by the suite, evenly spread; FULL_KILLS=1 tries each
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def packed(fork, tmp_path_factory):
    """Simulated images, packed: simulating them takes longer than all the rest."""
    file = tmp_path_factory.mktemp("packed") / "packed.h5"
    words = ["pack", "--to", str(file), "--dataset", "simulated", "--split", "train", "--bands", "B04,B08"]
    code, output = fork.run([*words, "--limit", str(ROWS), "--workers", "0"])
    assert code == 0, output
    return file


def words(packed: Path, out: Path, *, part_rows: int = PART_ROWS) -> list[str]:
    flags = ["--model", "stats", "--packed", str(packed), "--split", "train", "--out", str(out)]
    return [*flags, "--part-rows", str(part_rows), "--batch-size", str(part_rows // 2), "--workers", "0"]


@pytest.fixture(scope="module")
def whole(fork, packed, tmp_path_factory):
    """What a run that nobody disturbed makes: the file, seconds and boundaries."""
    out, start = tmp_path_factory.mktemp("whole"), time.monotonic()
    code, output = fork.run(words(packed, out), under=out)
    assert code == 0, output
    return only_file(out), time.monotonic() - start, boundaries(output)


def boundaries(output: str) -> int:
    return int(re.search(r"boundaries (\d+)", output).group(1))


def only_file(out: Path) -> Path:
    (file,) = out.rglob("train.h5")
    return file


def assert_same(file: Path, other: Path) -> None:
    with h5py.File(file) as one, h5py.File(other) as two:
        for name in ("features", "labels", "ids"):
            assert one[name][:].tobytes() == two[name][:].tobytes(), name
    assert [path.name for path in file.parent.iterdir()] == [file.name], "something was left behind"


def finished_parts(out: Path, dim: int) -> set[int]:
    """Parts that would not be made again; all of them once the file is published."""
    for file in out.rglob("train.h5"):
        assert store.verify_features(file).problems == (), "a file under the final name must be whole"
        return set(range(-(-ROWS // PART_ROWS)))
    for plan in out.rglob("plan.json"):
        file = plan.parent.with_name("train.h5")
        assert plan.parent == paths.parts_folder(file)
        writer = store.PartWriter(file, rows=ROWS, dim=dim, dtype="float32", part_rows=PART_ROWS)
        return set(range(-(-ROWS // PART_ROWS))) - set(writer.missing())
    return set()


def test_a_kill_at_every_boundary_loses_no_finished_part(tmp_path, fork, packed):
    part_rows = ROWS // 2  # two parts: every kind of boundary
    code, output = fork.run(words(packed, tmp_path / "whole", part_rows=part_rows), under=tmp_path / "whole")
    assert code == 0, output
    count = boundaries(output)
    assert count > 30
    step = 1 if os.environ.get("FULL_KILLS") else -(-count // MOST_BOUNDARIES)
    for at in range(1, count + 1, step):
        out = tmp_path / str(at)
        code, _ = fork.run(words(packed, out, part_rows=part_rows), die_at=at, under=out)
        assert code == KILLED or at >= count - 2, "threads may need an event more or less"
        journal = [line for file in out.rglob("journal*.jsonl") for line in file.read_text().splitlines() if line]
        code, output = fork.run(words(packed, out, part_rows=part_rows), under=out)
        assert code == 0, f"after a kill at boundary {at}: {output}"
        kept = sum(json_rows(line) for line in journal)
        assert not kept or f"{kept:,} already done" in output or "reused" in output, (
            f"after a kill at boundary {at}: {output}"
        )
        assert_same(only_file(out), only_file(tmp_path / "whole"))


def json_rows(line: str) -> int:
    start, stop = (int(re.search(rf'"{word}":(\d+)', line).group(1)) for word in ("start", "stop"))
    return stop - start


def test_thirty_kills_at_random_moments_change_no_byte(tmp_path, fork, packed, whole):
    file, seconds, count = whole
    with h5py.File(file) as source:
        dim = source["features"].shape[1]
    rng, hits, partial, kept = random.Random(0), 0, 0, set()
    for number in range(4 * KILLS):
        if number % 2:  # at any boundary, also where a machine at work is too slow for the right moment
            code, _ = fork.run(words(packed, tmp_path), die_at=rng.randint(1, count), under=tmp_path)
        else:
            pid = fork.start(words(packed, tmp_path))
            time.sleep(rng.uniform(0.1, 0.8) * seconds)
            os.kill(pid, signal.SIGKILL)  # not waited for yet: the number is still its own
            code, _ = fork.wait(pid)
        hits += code == KILLED
        now = finished_parts(tmp_path, dim)
        assert kept <= now, "a finished part was lost"
        partial += 0 < len(now) < -(-ROWS // PART_ROWS)
        kept = now
        for published in tmp_path.rglob("train.h5"):
            published.unlink()  # finished before it was hit: begin again
            kept = set()
        if hits == KILLS:
            break
    code, output = fork.run(words(packed, tmp_path))
    assert code == 0, output
    assert hits == KILLS and partial >= KILLS // 4, f"{hits} kills, {partial} left parts behind"
    assert_same(only_file(tmp_path), file)


def stop(fork, packed: Path, out: Path, kind: signal.Signals) -> tuple[int, str]:
    """Exit code and output of a run that gets a signal when it has begun to write parts."""
    pid = fork.start(words(packed, out))
    deadline = time.monotonic() + 60
    while not list(out.rglob("part-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, kind)
    return fork.wait(pid)


@pytest.mark.parametrize("kind, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_asked_to_stop_gives_the_lock_back_and_says_how_to_go_on(tmp_path, fork, packed, whole, kind, exit_code):
    """SIGTERM is what clusters send before they kill: on another machine a lock left behind would stand."""
    code, output = stop(fork, packed, tmp_path, kind)
    assert code == exit_code and "stopped" in output and "Traceback" not in output
    assert not list(tmp_path.rglob("*.lock*"))
    code, output = fork.run(words(packed, tmp_path))
    assert code == 0 and "already done" in output
    assert_same(only_file(tmp_path), whole[0])


def test_a_part_cut_short_anywhere_is_made_again(tmp_path, fork, packed, whole):
    rng = np.random.default_rng(0)
    code, _ = fork.run(words(packed, tmp_path), die_at=whole[2] * 2 // 3, under=tmp_path)
    parts = sorted(tmp_path.rglob("part-*.h5"))
    assert code == KILLED and len(parts) >= 2
    for part in parts[:2]:
        os.truncate(part, int(rng.integers(0, part.stat().st_size)))
    code, output = fork.run(words(packed, tmp_path))
    assert code == 0, output
    assert_same(only_file(tmp_path), whole[0])


def test_a_bit_flipped_in_the_journal_costs_one_part_and_no_byte(tmp_path, fork, packed, whole):
    rng = np.random.default_rng(1)
    code, _ = fork.run(words(packed, tmp_path), die_at=whole[2] * 2 // 3, under=tmp_path)
    assert code == KILLED
    (journal,) = tmp_path.rglob("journal.jsonl")
    content = bytearray(journal.read_bytes())
    content[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
    journal.write_bytes(content)
    code, output = fork.run(words(packed, tmp_path))
    assert code == 0, output
    assert_same(only_file(tmp_path), whole[0])
