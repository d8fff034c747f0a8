"""What works on this machine, what does not, and how to fix it: `featurize doctor`."""

import os
import platform
import resource
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from data.machine import cpu_computes_bf16

GB = 1e9
TIMEOUT_S = 5.0
SHARED_MEMORY = Path("/dev/shm")  # reader processes hand over batches there

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str  # what was checked
    found: str  # what is there
    # ``problem`` where the program cannot work as it is, ``note`` where something is slower or missing
    status: Status = "ok"
    fix: str = ""  # what to do about it


def examine(out: Path, data_root: Path, *, online: bool = True) -> list[Check]:
    """Check this machine."""
    return [
        *_packages(),
        *_devices(),
        *_memory(),
        *_disks(out, data_root),
        *([_hub()] if online else []),
        *_cached_weights(),
    ]


def _packages() -> Iterator[Check]:
    yield Check("Python", f"{platform.python_version()}, {sys.executable}")
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("frozen-earth") or ():
        requirement = Requirement(line)
        extra = str(requirement.marker).partition("extra ==")[2].strip(" \"'") if requirement.marker else ""
        if extra == "dev" or requirement.name == "frozen-earth":
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = None
        if installed and requirement.specifier.contains(installed, prereleases=True):
            if not extra:
                continue
            extras.setdefault(extra, [])
        elif extra:
            extras.setdefault(extra, []).append(requirement.name)
        else:
            found = f"{installed or 'missing'}, needs {requirement.specifier}"
            yield Check(requirement.name, found, "problem", f"pip install '{requirement.name}{requirement.specifier}'")
    names = ("torch", "torchgeo", "transformers", "numpy", "h5py", "scikit-learn")
    yield Check("packages", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    for extra, missing in sorted(extras.items()):
        if missing:
            yield Check(f"extra {extra}", f"without {', '.join(missing)}", "note", f"pip install -e '.[{extra}]'")
        else:
            yield Check(f"extra {extra}", "installed")


def _devices() -> Iterator[Check]:
    import torch  # deferred, as it takes seconds

    bf16 = "bf16" if cpu_computes_bf16() else "no bf16"
    yield Check("CPU", f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads, {bf16}")
    if not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        found = f"none that PyTorch can use (it is built for CUDA {built})"
        yield Check("GPU", found, "note", "the CPU is used; for a GPU, install its driver and a PyTorch built for CUDA")
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        full: Status = "note" if free < 2 * GB else "ok"
        name = torch.cuda.get_device_name(number)
        yield Check(f"GPU cuda:{number}", f"{name}, {free / GB:.0f} of {total / GB:.0f} GB free", full)


def _memory() -> Iterator[Check]:
    if sys.platform == "linux":
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        yield _at_least(4 * GB, free, "memory", f"{free / GB:.1f} GB available", "lower --batch-size")
    if SHARED_MEMORY.is_dir():
        free, fix = shutil.disk_usage(SHARED_MEMORY).free, "start the container with --shm-size 2g, or use --workers 0"
        yield _at_least(0.5 * GB, free, "shared memory", f"{free / GB:.1f} GB free", fix)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _at_least(1024, files, "open files", f"at most {files:,}", "ulimit -n 4096")


def _at_least(enough: float, there: float, name: str, found: str, fix: str) -> Check:
    return Check(name, found) if there >= enough else Check(name, found, "note", fix)


def _disks(out: Path, data_root: Path) -> Iterator[Check]:
    for flag, folder in (("--out", out), ("--data-root", data_root)):
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        found = f"{folder}: {free / GB:.0f} GB free" + ("" if there == folder.absolute() else ", does not exist yet")
        if flag == "--data-root":
            yield Check(flag, found)
            continue
        why = _cannot_write(there)
        if why:
            yield Check(flag, f"{folder}: {why}", "problem", "choose another --out")
        elif free < GB:
            yield Check(flag, found, "problem", "free some space or choose another --out")
        else:
            yield Check(flag, found)


def _cannot_write(folder: Path) -> str | None:
    """Why a file cannot be written, flushed to the disk and renamed in a folder; None if it can."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            file = Path(scratch) / "file"
            with file.open("wb") as written:
                written.write(b"frozen earth")
                written.flush()
                os.fsync(written.fileno())
            file.rename(file.with_name("renamed"))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def _hub() -> Check:
    from huggingface_hub import constants, get_token  # deferred, with its HTTP client

    gated = "logged in" if get_token() else "not logged in, so gated weights (dinov3) are not accessible"
    fix = "" if get_token() else "for gated weights: accept their terms on the hub, then hf auth login"
    if constants.HF_HUB_OFFLINE:
        return Check("Hugging Face hub", "HF_HUB_OFFLINE is set: cached weights only", "note", "unset it to download")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except OSError as error:
        why = f"{constants.ENDPOINT} cannot be reached ({getattr(error, 'reason', error)})"
        return Check("Hugging Face hub", why, "note", "copy weights here and give them with --weights PATH")
    return Check("Hugging Face hub", f"{constants.ENDPOINT} reached, {gated}", "ok", fix)


def _cached_weights() -> Iterator[Check]:
    import torch
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id)
    except CacheNotFound:
        found = []
    for repository in found:
        yield Check("cached weights", f"{repository.repo_id}, {repository.size_on_disk / 1e6:,.0f} MB")
    files = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("*.pt*"))
    for file in files:
        yield Check("cached weights", f"{file.name}, {file.stat().st_size / 1e6:,.0f} MB")
    if not found and not files:
        yield Check("cached weights", f"none in {constants.HF_HUB_CACHE}", "note", "downloaded when first used")


def report(checks: list[Check]) -> int:
    """Print the checks; returns 1 if one is a problem, else 0."""
    width = max(len(check.name) for check in checks)
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    for check in checks:
        print(f"{marks[check.status]}  {check.name:{width}}  {check.found}")
        if check.fix and check.status != "ok":
            print(f"{'':{width + 9}}  {check.fix}")
    problems = sum(check.status == "problem" for check in checks)
    print(f"{problems} problems" if problems else "everything needed works here")
    return 1 if problems else 0
