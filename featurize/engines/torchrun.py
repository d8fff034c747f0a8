"""A process a device, on one machine or several: ranks make contiguous shares of the parts, the first rank joins them.

Under ``torchrun`` each process it starts is a rank. Otherwise ``featurize --device cuda:0,cuda:1`` starts the ranks
itself, on this machine. Ranks share nothing but the folder of features; orders and outcomes go over gloo.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from data import store
from data.command import Terminated
from data.dataset import EODataset
from data.errors import RequestError
from featurize.encoder import Encoder
from featurize.engines.local import identity_hash, make_files, prepared
from featurize.job import Job
from featurize.pipeline import embed_parts
from featurize.plan import Plan
from featurize.stages import Busy

PATIENCE = timedelta(days=7)  # how long a rank that is done waits for one that is not
MEETING = timedelta(minutes=10)  # how long ranks wait for each other at the start
POLL_S = 0.1
GRACE_S = 60.0  # for the first rank to end when another has died, before it is asked to finish its part and end
# Where ranks that this program started meet: a port of this machine, and the open socket that listens there.
PORT, HANDLE = "FROZEN_EARTH_PORT", "FROZEN_EARTH_HANDLE"
_ranks: Any = None  # the group of all of them, once they have met


def run(job: Job) -> int:
    """Make every feature file of a job with all ranks; starts them where nobody has."""
    if "RANK" not in os.environ:
        return start_ranks(job.run.device)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", 0))
    try:
        plan = prepared(job, device=device_of(job.run.device, local_rank))
        problem = None
    except RequestError as error:
        plan, problem = None, str(error)
    try:
        meet()
        problems = gather(problem)
        if plan is None or any(problems):
            raise RequestError(next(filter(None, problems)))
        if rank:
            follow(job, plan)
            return 0
        try:
            make_files(job, plan, lead(job))
        finally:
            with suppress(LostRankError):
                tell(None)
        return 0
    except RequestError:
        if rank:
            return 2  # the first rank says why
        raise
    except LostRankError as error:
        if rank:
            return 2
        raise RequestError(
            "a process of another rank died or never came; finished parts are kept, give the command again"
        ) from error
    finally:
        with suppress(AssertionError, RuntimeError, ValueError):  # the ranks have not met, or the others are gone
            dist.destroy_process_group()


class LostRankError(Exception):
    """The other end of a connection between ranks is gone."""


def device_of(asked: str, local_rank: int) -> str:
    """The device of one rank: its own of those listed, else the GPU of its number, else what was asked for."""
    if "," in asked:
        listed = asked.split(",")
        if local_rank >= len(listed):
            raise RequestError(f"--device {asked} names {len(listed)} devices; start as many processes a machine")
        return listed[local_rank].strip()
    if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()):
        return f"cuda:{local_rank}"
    return asked


# ------------------------------------------------------------------------------------------- first rank


def lead(job: Job) -> Callable[..., None]:
    """Work for the first rank: hands out shares, makes its own, and waits for the others'."""

    def work(
        dataset: EODataset,
        encoder: Encoder,
        writer: store.PartWriter,
        parts: Sequence[int],
        plan: Plan,
        busy: Busy,
        advance: Callable[..., None],
    ) -> None:
        order = {
            "target": (dataset.split, (dataset.altered or {}).get("view", 0)),
            "file": writer.file,
            "part_rows": writer.part_rows,
            "parts": list(parts),
            "encoder": identity_hash(encoder, plan),
        }
        tell(order)
        problem, interrupted, world = None, None, dist.get_world_size()

        def advance_all(rows: int, bottleneck: str | None) -> None:
            advance(rows * world, bottleneck)  # the other ranks are taken to keep pace

        try:
            embed_parts(dataset, encoder, writer, share(parts), plan, busy, advance_all)
        except RequestError as error:
            problem = str(error)
        except BaseException as error:  # an interrupt, or a fault of ours: raised once the others know
            interrupted = error
        try:
            outcomes = gather({"problem": problem, "busy": dict(busy.seconds)})
        except LostRankError:
            if interrupted:
                raise interrupted from None
            raise
        for stage in busy.seconds:  # ranks work side by side: what counts is the one that worked longest
            busy.seconds[stage] = max(outcome["busy"].get(stage, 0.0) for outcome in outcomes)
        if interrupted:
            raise interrupted
        if problems := [outcome["problem"] for outcome in outcomes if outcome["problem"]]:
            raise RequestError(problems[0])

    return work


# ------------------------------------------------------------------------------------------ other ranks


def follow(job: Job, plan: Plan) -> None:
    """Make this rank's share of every order of the first rank, until there are no more."""
    while (order := told()) is not None:
        busy, dataset = Busy(), job.open(*order["target"])
        writer = store.PartWriter(
            order["file"],
            rows=len(dataset),
            dim=job.encoder.dim,
            dtype=job.encoder.dtype,
            part_rows=order["part_rows"],
            writer=f"rank-{dist.get_rank()}",
        )
        problem = None
        try:
            if identity_hash(job.encoder, plan) != order["encoder"]:
                raise RequestError(
                    f"the encoder of rank {dist.get_rank()} on {socket.gethostname()} differs from the first rank's; "
                    "give all the same weights, data and hardware, or name the --precision"
                )
            embed_parts(dataset, job.encoder, writer, share(order["parts"]), plan, busy, lambda *_: None)
        except RequestError as error:
            problem = str(error)
        except Terminated:
            raise
        except KeyboardInterrupt:
            problem = None
        except Exception as error:  # a fault of ours: seen here, and the other ranks end too
            traceback.print_exc()
            problem = f"rank {dist.get_rank()} on {socket.gethostname()} failed: {error!r}; finished parts are kept"
        gather({"problem": problem, "busy": dict(busy.seconds)})


def meet() -> None:
    """Connect the ranks; after that they have all the time they need.

    Raises:
        LostRankError: not all have come in `MEETING`.
    """
    global _ranks
    if int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == int(os.environ["WORLD_SIZE"]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())  # all ranks are on this machine
    with _over_gloo():
        if PORT in os.environ:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group("gloo", store=_own_store(), timeout=MEETING, rank=rank, world_size=world)
        else:
            dist.init_process_group("gloo", timeout=MEETING)
        _ranks = dist.new_group(timeout=PATIENCE, backend="gloo")


def loopback() -> str:
    """Name of the interface that no other machine reaches."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _own_store() -> TCPStore:
    """Where ranks that `start_ranks` started meet: the first listens on the socket that it was given."""
    handle = int(os.environ[HANDLE]) if os.environ["RANK"] == "0" else None
    return TCPStore(
        "127.0.0.1",
        int(os.environ[PORT]),
        int(os.environ["WORLD_SIZE"]),
        is_master=handle is not None,
        timeout=MEETING,
        master_listen_fd=handle,
    )


def share(parts: Sequence[int]) -> list[int]:
    """The contiguous share of the parts that falls to this rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return list(parts[len(parts) * rank // world : len(parts) * (rank + 1) // world])


def tell(order: Any) -> None:
    """Send something from the first rank to all."""
    with _over_gloo():
        dist.broadcast_object_list([order], src=0, group=_ranks)


def told() -> Any:
    """What the first rank sent."""
    box = [None]
    with _over_gloo():
        dist.broadcast_object_list(box, src=0, group=_ranks)
    return box[0]


def gather(mine: Any) -> list[Any]:
    """What every rank has to say, in the order of ranks."""
    everyone: list[Any] = [None] * dist.get_world_size()
    with _over_gloo():
        dist.all_gather_object(everyone, mine, group=_ranks)
    return everyone


@contextmanager
def _over_gloo() -> Iterator[None]:
    """Tell gloo's errors from those of models: both are RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError from error


# ---------------------------------------------------------------------------------------------- starting


def start_ranks(device: str) -> int:
    """Start this same command once a device, on this machine, and wait for all.

    Args:
        device: ``--device``; without a comma, all GPUs.

    Returns:
        The first rank's exit code.

    Raises:
        RequestError: there are not at least two devices to use.
    """
    count = len(device.split(",")) if "," in device else torch.cuda.device_count()
    if count < 2:
        raise RequestError(
            f"--engine torchrun --device {device}: {count} GPUs here; name several devices, such as "
            "--device cuda:0,cuda:1, or start it with torchrun"
        )
    meeting = socket.socket()  # a store that is left to find its own listens to every machine
    meeting.bind(("127.0.0.1", 0))
    meeting.listen(count)
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    surroundings = os.environ | size | {PORT: str(meeting.getsockname()[1]), HANDLE: str(meeting.fileno())}
    surroundings.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "featurize", *sys.argv[1:]]
    ranks: list[subprocess.Popen] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            given = () if rank else (meeting.fileno(),)
            ranks.append(subprocess.Popen(command, env=surroundings | own, pass_fds=given))
        meeting.close()
        return wait_for(ranks)
    finally:
        meeting.close()
        for process in ranks:
            end(process)


def end(process: subprocess.Popen) -> None:
    """Wait a little for a process to end by itself, then make it."""
    for ask in (lambda: None, process.terminate, process.kill):
        ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


def wait_for(ranks: Sequence[subprocess.Popen]) -> int:
    """Wait for the first rank to end; where another has died, it is asked to finish its part and end too.

    Returns:
        The first rank's exit code.

    Raises:
        RequestError: a rank died, and the first ended only when asked to.
    """
    first, patience, died, asked = ranks[0], GRACE_S, None, False
    while True:
        try:
            if first.poll() is not None:
                break
            died = next((rank for rank, process in enumerate(ranks) if process.poll()), None)
            patience -= POLL_S if died is not None else 0.0
            if patience < 0 and not asked:
                first.send_signal(signal.SIGINT)
                asked = True
            time.sleep(POLL_S)
        except Terminated:
            for process in ranks:
                process.terminate()
            raise
        except KeyboardInterrupt:
            continue  # the ranks heard it too: they finish their parts and end
    if died is not None and asked:
        code = ranks[died].returncode
        raise RequestError(f"the process of rank {died} died (exit code {code}); finished parts are kept, try again")
    return first.returncode
