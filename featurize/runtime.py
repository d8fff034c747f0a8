"""How a model runs: device, precision, batch size and reader processes, as asked for or chosen by the hardware."""

import os
from dataclasses import dataclass

import torch

from data.dataset import EODataset
from data.errors import RequestError
from data.machine import cpu_computes_bf16
from featurize.encoder import FrozenModel

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Below this many images, starting reader processes costs more than they save.
IMAGES_WORTH_WORKERS = 2000


@dataclass(frozen=True)
class Runtime:
    """How to run; changes values by rounding at most."""

    device: torch.device  # where the model is
    precision: str  # ``fp32``, ``bf16`` or ``fp16``
    batch_size: int  # images read and embedded together; a CPU shares them out among its cores
    workers: int | None  # reader processes; 0 reads in this one; None leaves it to the number of images
    part_rows: int  # images in a part; a kill loses at most one part
    compile: bool = False  # whether to compile the model first
    elsewhere: str | None = None  # name of the hardware, if it is not this process's device; for the record

    def computes_on(self) -> str:
        """Name of the hardware that computes."""
        here = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return self.elsewhere or here


def choose_device(name: str) -> torch.device:
    """The device asked for; ``auto`` takes a GPU if there is one."""
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
    """The precision asked for; ``auto`` takes bf16 on GPUs and on CPUs that compute in it, else fp32."""
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
