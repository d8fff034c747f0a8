"""How a model runs: device, precision, batch size and reader processes, as asked for or chosen by the hardware."""

import os
from dataclasses import dataclass

import torch

from data.dataset import EODataset
from data.errors import RequestError
from featurize.encoder import FrozenModel

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Below this many images, starting reader processes costs more than they save.
IMAGES_WORTH_WORKERS = 2000


@dataclass(frozen=True)
class Runtime:
    """How to run; changes values by rounding at most.

    Args:
        device: where the model is.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: images read and embedded together; a CPU shares them out among its cores.
        workers: reader processes; 0 reads in this one; None leaves it to the number of images.
        part_rows: images in a part; a kill loses at most one part.
        compile: whether to compile the model first.
        elsewhere: name of the hardware, if it is not this process's device; for the record.
    """

    device: torch.device
    precision: str
    batch_size: int
    workers: int | None
    part_rows: int
    compile: bool = False
    elsewhere: str | None = None

    def computes_on(self) -> str:
        """Name of the hardware that computes."""
        here = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return self.elsewhere or here


def choose_device(name: str) -> torch.device:
    """The device asked for; ``auto`` takes a GPU if there is one.

    Raises:
        RequestError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda:0" if name == "cuda" else name)
    except RuntimeError as error:
        raise RequestError(f"--device {name}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"--device {name}: use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs; use --device cpu")
    return device


def choose_precision(name: str, device: torch.device, encoder: FrozenModel) -> str:
    """The precision asked for; ``auto`` takes bf16 on GPUs and on CPUs that compute in it, else fp32.

    Raises:
        RequestError: unknown, or lower than fp32 for a model that runs in fp32 only.
    """
    if name not in ("auto", *PRECISIONS):
        raise RequestError(f"--precision {name}: use auto, {', '.join(PRECISIONS)}")
    if not encoder.autocast:
        if name not in ("auto", "fp32"):
            raise RequestError(f"--precision {name}: {encoder.name} runs in fp32 only; leave the flag out")
        return "fp32"
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_computes_bf16() else "fp32"


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by itself (AVX512-BF16 or AMX)."""
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))


def choose_batch_size(device: torch.device) -> int:
    """Initial batch size: enough to fill a GPU, or for a CPU's cores to end at nearly the same time.

    Memory running out halves what is embedded at once.
    """
    return 256 if device.type == "cuda" else min(256, 32 * torch.get_num_threads())


def choose_workers(asked: int | None, dataset: EODataset, images: int) -> int:
    """Reader processes: as asked, else none for small sets, else one per core, at most 8.

    A packed file is read in this process: sending its images between processes takes longer than reading them.
    """
    if asked is not None:
        if asked < 0:
            raise RequestError(f"--workers {asked}: must be 0 or more")
        return asked
    if images < IMAGES_WORTH_WORKERS or dataset.read_from:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # absent on macOS
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
