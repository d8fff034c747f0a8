"""One process per device, on one machine or several: each makes ``parts[rank::world]``, the first joins them.

Under ``torchrun`` each process it starts is a rank. Otherwise ``featurize --device cuda:0,cuda:1`` starts the ranks
itself, on this machine. Ranks share the folder of features and nothing else; see `featurize.ranks`.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import torch

from data.asked import current_words
from data.command import Terminated, shell_flags
from data.errors import RequestError
from data.files import short_hash
from featurize.engines.local import make_files, prepare
from featurize.job import Job
from featurize.ranks import DidNotStartError, Ranks, RunEndedError

POLL_S = 0.1
GRACE_S = 60.0  # for ranks to end when another has died, before they are interrupted, terminated and killed
ALONE_S = 10.0  # before they are interrupted, once the first is gone: one that starts late would wait for it in vain
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT)  # exit codes of ranks that were asked to stop
TOKEN = "FROZEN_EARTH_RUN"
# What names a run of ranks that this program did not start: by torchrun, Slurm or hand.
RUN_NAMES = (
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def run(job: Job) -> int:
    """Make every feature file of a job with all ranks; starts them unless they are running."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return start_ranks(job.run.device)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    token = os.environ.get(TOKEN) or short_hash([os.environ.get(name) for name in RUN_NAMES])
    try:
        with Ranks(job.out, token, rank, world) as ranks:
            runtime = prepare(job, device=device_of(job.run.device, int(os.environ.get("LOCAL_RANK", 0))))
            if rank == 0:
                make_files(job, runtime, ranks.work)
                ranks.wait_for_start()
            else:
                ranks.follow(job, runtime)
    except RunEndedError:
        pass
    except RequestError as error:
        if rank == 0 or isinstance(error, DidNotStartError):
            raise
        return 2  # the first rank reports it
    return 0


def device_of(asked: str, local_rank: int) -> str:
    """The device of one rank: its own of those listed, else the GPU of its number, else what was asked for."""
    if "," in asked:
        listed = asked.split(",")
        if local_rank >= len(listed):
            raise RequestError(f"--device {asked} lists {len(listed)} devices; start as many processes per machine")
        return listed[local_rank].strip()
    if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()):
        return f"cuda:{local_rank}"
    return asked


def start_ranks(device: str) -> int:
    """Start this same command once per device, on this machine, and wait for all.

    Returns:
        The first rank's exit code.
    """
    count = len(device.split(",")) if "," in device else torch.cuda.device_count()
    if count < 2:
        raise RequestError(
            f"--engine torchrun --device {device}: {count} GPUs here; name several devices, such as "
            "--device cuda:0,cuda:1, or start it with torchrun"
        )
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), TOKEN: secrets.token_hex(8)}
    environment = os.environ | shared
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "featurize", *current_words(), *shell_flags]
    shell_flags.clear()  # the first rank prints the line of JSON
    ranks: list[subprocess.Popen] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=environment | own))
        return wait_for(ranks)
    finally:
        for process in ranks:  # which are still running only if this process was terminated
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()


def wait_for(ranks: Sequence[subprocess.Popen]) -> int:
    """Wait for all ranks to end; once one has died, the others are asked ever more urgently.

    Returns:
        The first rank's exit code.
    """
    ways, patience = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], GRACE_S
    died: tuple[int, int] | None = None
    while running := [process for process in ranks if process.poll() is None]:
        try:
            ended = ((rank, process.returncode) for rank, process in enumerate(ranks) if process.returncode)
            died = died or next(ended, None)
            patience -= POLL_S if died else 0.0
            if len(ways) == 3 and ranks[0].returncode and ranks[0].returncode not in STOPPED:
                patience = min(patience, ALONE_S)
            if patience < 0 and ways:
                way, patience = ways.pop(0), GRACE_S
                for process in running:
                    process.send_signal(way)
            time.sleep(POLL_S)
        except Terminated:
            for process in ranks:
                process.terminate()
            raise
        except KeyboardInterrupt:
            continue  # the ranks received it too: they finish their parts and end
    code = ranks[0].returncode
    if died and died[1] not in STOPPED and code != 2 and (died[0] or code < 0):
        raise RequestError(
            f"the process of rank {died[0]} died (exit code {died[1]}); finished parts are kept: run the command again"
        )
    return 128 + signal.SIGINT if code == -signal.SIGINT else code
