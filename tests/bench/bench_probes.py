"""Probes at BigEarthNet's size: 237,871 training features of 768 values, its real labels and splits, a known signal."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tests.bench import known_signal
from tests.bench.pairs import PROJECT, SHARED

METADATA = SHARED / "data" / "bigearthnet-v2" / "metadata.parquet"
WORK = Path(tempfile.gettempdir()) / "frozen-earth-known-signal"  # 740 MB of features, kept for the next benchmark
SMALL = 0.05  # share of the rows at which scikit-learn's own way ends within minutes
CORES = "2"


def bench_probe_linear() -> dict:
    """`probe --kind linear`, 12 values of C, at full size: seconds and peak memory."""
    return _full_size("linear")


def bench_probe_knn() -> dict:
    """`probe --kind knn`, every val and test sample against every training sample: seconds and peak memory."""
    return _full_size("knn")


def bench_probe_knn_quarter() -> dict:
    """`probe --kind knn --train-fraction 0.25`: seconds and peak memory."""
    return _full_size("knn", "--train-fraction", "0.25")


def bench_knn_search() -> dict:
    """CPU seconds to find 50 neighbors of 512 val samples among 237,871: ours against scikit-learn's brute force.

    Peak memory is that of a process with all of train, ours as float16; the peer's is less than one that scores val.
    """
    if not METADATA.exists():
        return _skipped()
    known_signal.write(folder := WORK / "full", METADATA)
    with get_context("spawn").Pool(1) as pool:
        ours = pool.apply(_search_ours, (folder, 512))
    with get_context("spawn").Pool(1) as pool:
        peer = pool.apply(_search_peer, (folder, 64))
    return {
        "unit": "samples/CPU s",
        "ours": round(ours["rate"], 2),
        "peer": round(peer["rate"], 2),
        "ratio": round(ours["rate"] / peer["rate"], 2),
        "peak_gb": {"ours": ours["peak_gb"], "peer": peer["peak_gb"]},
        "same_neighbours": float((ours["near"][:64] == peer["near"]).mean()),
    }


def _search_ours(folder: Path, count: int) -> dict:
    from data import store
    from probes import inputs
    from probes.kinds.knn import Neighbours

    train, val = (store.read_features(folder / f"{split}.h5", lazy=True) for split in ("train", "val"))
    probe = Neighbours(inputs.in_memory([train.features], dtype=np.float16), train.labels, 50, "euclidean")
    return _searched(probe.neighbours, val.features[:count].astype(np.float32))


def _search_peer(folder: Path, count: int) -> dict:
    from sklearn.neighbors import NearestNeighbors

    from data import store
    from probes import inputs

    train, val = (store.read_features(folder / f"{split}.h5", lazy=True) for split in ("train", "val"))
    peer = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(inputs.in_memory([train.features]))
    return _searched(lambda asked: peer.kneighbors(asked)[1], val.features[:count].astype(np.float32))


def _searched(search: Callable[[np.ndarray], np.ndarray], asked: np.ndarray) -> dict:
    """Rate by CPU time, peak memory of this process and the neighbors, with one thread."""
    with threadpool_limits(1):
        start = time.process_time()
        near = search(asked)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # KiB on Linux
    return {"rate": len(asked) / seconds, "peak_gb": round(peak, 2), "near": near}


def bench_probe_rf() -> dict:
    """`probe --kind rf --budget 1m`: seconds and peak memory; tells how many candidates were tried."""
    return _full_size("rf", "--budget", "1m")


def bench_probe_mlp() -> dict:
    """`probe --kind mlp --budget 2m`: seconds and peak memory; tells how many candidates were tried."""
    return _full_size("mlp", "--budget", "2m")


def bench_probe_head() -> dict:
    """`probe --kind head`, ten epochs of batches of 32: seconds and peak memory."""
    return _full_size("head")


def bench_probe_prior() -> dict:
    """`probe --kind prior`: seconds and peak memory; what reading, checking and judging alone cost."""
    return _full_size("prior")


def bench_linear_path() -> dict:
    """Seconds for 12 values of C judged on val: our path against `OneVsRestClassifier(LogisticRegression)`.

    The peer's scores at the chosen C differ from ours since it stops early: see `bench_linear_scores`.
    """
    if not METADATA.exists():
        return _skipped()
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import StandardScaler

    from probes import fit, inputs
    from probes.kinds.linear import C_VALUES
    from probes.selection import judge

    rows = known_signal.write(folder := WORK / f"share-{SMALL:g}", METADATA, share=SMALL)
    splits = inputs.read_splits(folder)
    with tempfile.TemporaryDirectory() as out:
        plan = fit.plan_probe("linear", splits, Path(out), seed=0)
        start = time.perf_counter()
        run = fit.run_probe(plan, splits, n_jobs=int(CORES))
        ours = run.record["seconds"]["search"]
        whole = time.perf_counter() - start
        test_scores = run.predictions("test").scores

    start = time.perf_counter()
    scaler = StandardScaler()
    train = scaler.fit_transform(splits["train"].features[:].astype(np.float32))
    val, test = (scaler.transform(splits[split].features[:].astype(np.float32)) for split in ("val", "test"))
    values, theirs = {}, {}
    with threadpool_limits(1, user_api="blas"):  # one process per core already, as ours has one thread per core
        for c in C_VALUES:
            peer = OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000), n_jobs=int(CORES))
            peer.fit(train, splits["train"].labels)
            scores = peer.predict_proba(val).astype(np.float32)
            values[c] = judge(splits["val"].labels.astype(bool), scores, "map_macro", multilabel=True).value
            theirs[c] = peer
    peer_s = time.perf_counter() - start
    chosen = run.record["chosen"]["C"]
    away = np.abs(theirs[chosen].predict_proba(test) - test_scores)
    return {
        "rows": rows,
        "dim": train.shape[1],
        "unit": "s",
        "ours": round(ours, 1),
        "ours_with_test_intervals_and_files": round(whole, 1),
        "peer": round(peer_s, 1),
        "ratio": round(peer_s / ours, 2),
        "chosen_c": chosen,
        "peer_chosen_c": max(values, key=lambda c: values[c]),
        "test_scores_differ_at_most": float(away.max()),
        "test_map_macro": run.record["metrics"]["test"]["half"]["map_macro"],
    }


def bench_linear_scores() -> dict:
    """How far test scores at the val-best C are from scikit-learn's optimum (Newton's method to 1e-9), at most."""
    if not METADATA.exists():
        return _skipped()
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import StandardScaler

    from probes import fit, inputs

    rows = known_signal.write(folder := WORK / f"share-{SMALL:g}", METADATA, share=SMALL)
    splits = inputs.read_splits(folder)
    with tempfile.TemporaryDirectory() as out:
        plan = fit.plan_probe("linear", splits, Path(out), seed=0)
        run = fit.run_probe(plan, splits, n_jobs=int(CORES))
        ours = run.predictions("test").scores
    chosen = run.record["chosen"]["C"]
    scaler = StandardScaler()
    train = scaler.fit_transform(splits["train"].features[:].astype(np.float64))
    test = scaler.transform(splits["test"].features[:].astype(np.float64))
    scores = {}
    settings = {"optimum": {"solver": "newton-cholesky", "tol": 1e-9}, "default": {"max_iter": 1000}}
    with threadpool_limits(1, user_api="blas"):
        for name, setting in settings.items():
            peer = OneVsRestClassifier(LogisticRegression(C=chosen, **setting), n_jobs=int(CORES))
            scores[name] = peer.fit(train, splits["train"].labels).predict_proba(test)
    return {
        "rows": rows,
        "dim": train.shape[1],
        "unit": "probability",
        "chosen_c": chosen,
        "ours": float(np.abs(ours - scores["optimum"]).max()),
        "peer": float(np.abs(scores["default"] - scores["optimum"]).max()),
    }


def _full_size(kind: str, *flags: str) -> dict:
    """One run of the command in a process of its own."""
    if not METADATA.exists():
        return _skipped()
    rows = known_signal.write(folder := WORK / "full", METADATA)
    with tempfile.TemporaryDirectory() as out:
        words = ["--kind", kind, "--features", str(folder), "--out", out, "--n-jobs", CORES, *flags]
        limits = {"OMP_NUM_THREADS": CORES, "OPENBLAS_NUM_THREADS": CORES}
        start = time.perf_counter()
        command = subprocess.Popen([sys.executable, "-m", "probes", *words], cwd=PROJECT, env=os.environ | limits)
        _, status, used = os.wait4(command.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"probe {' '.join(words)} failed")
        (file,) = Path(out).rglob("run.json")
        record = json.loads(file.read_text())
    tried = record["candidates"]
    test = record["metrics"]["test"]
    return {
        "rows": rows,
        "dim": record["dim"],
        "unit": "s",
        "ours": round(seconds, 1),
        "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
        "seconds": {name: round(value, 1) for name, value in record["seconds"].items()},
        "tried": f"{len(tried)} of {len(record['arguments']['candidates'])}",
        "chosen": record["chosen"] | {name: value for name, value in record["history"].items() if name == "trees"},
        "test_map_macro": test["half"]["map_macro"],
        "test_f2_macro": {rule: test[rule]["f2_macro"] for rule in ("half", "tuned")},
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
    }


def _skipped() -> dict:
    return {"skipped": f"no {METADATA.name} of BigEarthNet v2; set EO_SHARED"}
