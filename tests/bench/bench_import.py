"""Import of a large Parquet file of embeddings, beside reading it whole with pandas and writing it with h5py."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, DIM, GROUP = 1_000_000, 768, 50_000
PLAIN = """
import sys, h5py, numpy as np, pandas as pd
frame = pd.read_parquet(sys.argv[1])
with h5py.File(sys.argv[2], "w") as target:
    target["features"] = np.stack(frame["embedding"].to_numpy()).astype(np.float32)
    target["ids"] = frame["id"].astype("S12").to_numpy().astype("S12")
"""


def bench_import() -> dict:
    """1,000,000 vectors of 768 numbers, with ids, splits and labels, from Parquet: seconds and peak memory.

    `peer` is a plain script that reads the whole file with pandas and writes one HDF5 file, without checks, splits,
    checksums or resuming.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        file = Path(folder, "vectors.parquet")
        _write(file)
        words = ["-m", "featurize", "import", str(file), "--name", "large", "--out", f"{folder}/runs"]
        ours = _run(words)
        vectors = sorted(Path(folder, "runs").rglob("*.h5"))
        size = sum(one.stat().st_size for one in vectors)
        peer = _run(["-c", PLAIN, str(file), f"{folder}/plain.h5"])
    return {
        "unit": "s",
        "ours": ours["seconds"],
        "peer": peer["seconds"],
        "ratio": round(peer["seconds"] / ours["seconds"], 2),
        "peak_gb": ours["peak_gb"],
        "peer_peak_gb": peer["peak_gb"],
        "cpu_s": ours["cpu_s"],
        "peer_cpu_s": peer["cpu_s"],
        "files_gb": round(size / 1e9, 2),
        "splits": len(vectors),
    }


def _write(file: Path) -> None:
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [("id", pa.string()), ("split", pa.string()), ("label", pa.int64()), ("embedding", pa.list_(pa.float32(), DIM))]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, ROWS, GROUP):
            rows = np.arange(start, start + GROUP)
            vectors = pa.array(rng.standard_normal(GROUP * DIM, np.float32))
            writer.write_table(
                pa.table(
                    {
                        "id": [f"tile-{row:07d}" for row in rows],
                        "split": np.array(["train", "train", "val", "test"])[rows % 4],
                        "label": rows % 10,
                        "embedding": pa.FixedSizeListArray.from_arrays(vectors, DIM),
                    },
                    schema=schema,
                )
            )


def _run(words: list[str]) -> dict:
    """Wall-clock seconds, CPU seconds and peak memory of a Python process and its children."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{words[:4]} ended with status {status}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 1e6, 2),
    }
