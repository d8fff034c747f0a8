"""Many machines: parts are tasks for workers of a Ray cluster, which load the model once; needs the extra [ray].

Workers and the process that gives the command share a disk with the data, the features and this program. A worker
that dies is replaced and its parts, those that it had not finished, are made again.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data import store
from data.command import terminable
from data.dataset import EODataset
from data.errors import RequestError
from featurize.encoder import Encoder
from featurize.engines.local import identity_hash, make_files, prepared
from featurize.job import Job
from featurize.pipeline import embed_parts
from featurize.plan import Plan
from featurize.stages import Busy

TRIES = 3  # a part that three workers died on is not tried again
GROUPS_A_WORKER = 4  # parts go out in groups: large enough to keep a worker's stages busy, small enough to share out
PARTS_A_GROUP = 8
SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a tool of ours sends nothing to anybody
    "RAY_raylet_start_wait_time_s": "120",  # a machine at work takes longer than Ray's own 15 seconds
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run(job: Job) -> int:
    """Make every feature file of a job on a Ray cluster, or on one started here for it.

    Raises:
        RequestError: Ray is not installed or its cluster cannot be reached.
    """
    try:
        import ray  # deferred: an extra
    except ImportError as error:
        raise RequestError("--engine ray needs Ray; install it with: pip install 'frozen-earth[ray]'") from error
    job = shared(job)
    plan = prepared(replace(job, run=replace(job.run, device="cpu")))  # a GPU may be on the workers only
    connect(ray, job.run.ray_address)
    try:
        with terminable():  # Ray has put its own way of ending in the place of ours
            cluster = Cluster(job, ray)
            make_files(job, replace(plan, **cluster.settings()), cluster.work)
    finally:
        ray.shutdown()
    return 0


def connect(ray: Any, address: str | None) -> None:
    """Connect to a running cluster, or start one of this machine alone.

    Args:
        ray: the module.
        address: of the cluster; None starts one.

    Raises:
        RequestError: there is none, or none can be started.
    """
    # A cluster of this machine alone is for this machine alone: its services listen on loopback.
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    setup = {"worker_process_setup_hook": "featurize.commands.own_packages_first"}  # before a worker unpickles anything
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address=address, runtime_env=setup, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises whatever it likes, a bare Exception among it
        reason = " ".join(str(error).split())[:200]
        if not address:
            raise RequestError(f"Ray cannot start a cluster here ({reason})") from error
        raise RequestError(
            f"--ray-address {address}: no Ray cluster answers there ({reason}); if it runs, it may want its token: "
            "set RAY_AUTH_MODE=token"
        ) from error


def shared(job: Job) -> Job:
    """The job with whole paths, as other processes know them."""

    def whole(path: Path | None) -> Path | None:
        return path and path.resolve()

    data = replace(
        job.data,
        data_root=whole(job.data.data_root),
        cache_dir=whole(job.data.cache_dir),
        packed=whole(job.data.packed),
    )
    weights = job.model.weights
    if weights and Path(weights).exists():
        weights = str(Path(weights).resolve())
    return replace(job, data=data, model=replace(job.model, weights=weights), out=job.out.resolve())


class Worker:
    """What one Ray worker holds: the data and the encoder, opened once.

    Args:
        job: the job.
        name: names this worker's journals.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name, self.plan, self.problem = job, name, None, None
        try:
            self.plan = prepared(job)
        except RequestError as error:  # raised, Ray would take it for a death of the process
            self.problem = str(error)

    def settings(self) -> tuple[dict[str, Any], str | None]:
        """How this worker runs, as fields of a `Plan`, and why it cannot work, if so."""
        if self.plan is None:
            return {}, self.problem
        where = self.plan.device
        name = f"{torch.cuda.get_device_name(where)} (Ray)" if where.type == "cuda" else "cpu (Ray)"
        return {"precision": self.plan.precision, "batch_size": self.plan.batch_size, "elsewhere": name}, None

    def make(
        self, target: tuple[str, int], file: Path, part_rows: int, parts: Sequence[int], encoder: str
    ) -> dict[str, Any]:
        """Make some parts of one split.

        Args:
            target: split and view.
            file: the feature file to publish.
            part_rows: images in a part.
            parts: which to make.
            encoder: hash of the encoder's identity, which must be the same for all.

        Returns:
            ``busy``, seconds by stage, and ``problem``, None when all went well.
        """
        if self.plan is None:
            return {"busy": {}, "problem": self.problem}
        busy, problem, dataset = Busy(), None, self.job.open(*target)
        size = {"rows": len(dataset), "dim": self.job.encoder.dim, "dtype": self.job.encoder.dtype}
        writer = store.PartWriter(file, **size, part_rows=part_rows, writer=self.name)
        try:
            if identity_hash(self.job.encoder, self.plan) != encoder:
                raise RequestError(
                    "a worker's encoder differs from this process's: give all the same weights and data, "
                    f"and name the --precision (the worker's is {self.plan.precision})"
                )
            embed_parts(dataset, self.job.encoder, writer, parts, self.plan, busy, lambda *_: None)
        except RequestError as error:  # raised, it would arrive wrapped in Ray's own
            problem = str(error)
        return {"busy": dict(busy.seconds), "problem": problem}


def processors_each(nodes: Sequence[Mapping[str, float]], count: int, *, gpus: int) -> int:
    """The most processors that each worker can have, for all workers to find a place.

    Args:
        nodes: what each machine has, as Ray counts it.
        count: workers.
        gpus: that each takes.

    Raises:
        RequestError: the machines have too few; a worker that finds no place would never start.
    """
    for each in range(int(sum(node.get("CPU", 0) for node in nodes)) // count, 0, -1):
        places = (min(node.get("CPU", 0) // each, node.get("GPU", 0) // gpus if gpus else count) for node in nodes)
        if sum(places) >= count:
            return each
    have = " + ".join(f"{node.get('CPU', 0):g}" for node in nodes)
    raise RequestError(f"--ray-workers {count}: the machines of the cluster have {have} CPUs; ask for fewer workers")


class Cluster:
    """Hands groups of parts to Ray workers as they become free.

    Args:
        job: with whole paths.
        ray: the module, connected.
    """

    def __init__(self, job: Job, ray: Any) -> None:
        self.job, self.ray, self.started = job, ray, 0
        have = ray.cluster_resources()
        gpus = 0 if job.run.device == "cpu" else int(have.get("GPU", 0))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.count = job.run.ray_workers or gpus or len(nodes)
        self.gpus = 1 if gpus else 0
        if gpus and self.count > gpus:
            raise RequestError(
                f"--ray-workers {self.count}: the cluster has {gpus} GPUs; one worker a GPU, or --device cpu"
            )
        self.cpus = processors_each(nodes, self.count, gpus=self.gpus)
        self.workers = [self.start() for _ in range(self.count)]

    def start(self) -> Any:
        """Start a worker: a process with its share of the cluster's processors."""
        remote = self.ray.remote(
            num_gpus=self.gpus, num_cpus=self.cpus, runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.cpus)}}
        )(Worker)
        self.started += 1
        return remote.remote(self.job, f"ray-{os.getpid()}-{self.started}")

    def settings(self) -> dict[str, Any]:
        """How the workers run, as fields of a `Plan`: what the first one says.

        Raises:
            RequestError: the worker cannot start.
        """
        try:
            settings, problem = self.result(self.workers[0].settings.remote())
        except self.ray.exceptions.RayActorError as error:  # its process died, or its code failed at the start
            settings, problem = {}, " ".join(str(error).split())[-300:]
        if problem:
            raise RequestError(f"a Ray worker cannot start: {problem}")
        return settings

    def result(self, reference: Any) -> Any:
        """What a worker returned.

        Raises:
            RequestError: the worker's code failed; a death of its process is Ray's own exception.
        """
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, RequestError) else error
            raise RequestError(f"a Ray worker failed: {' '.join(str(cause).split())[-300:]}") from error

    def work(
        self,
        dataset: EODataset,
        encoder: Encoder,
        writer: store.PartWriter,
        parts: Sequence[int],
        plan: Plan,
        busy: Busy,
        advance: Callable[..., None],
    ) -> None:
        """See `featurize.pipeline.embed_parts`."""
        target = (dataset.split, (dataset.altered or {}).get("view", 0))
        hashed, deaths = identity_hash(encoder, plan), dict.fromkeys(parts, 0)
        size = max(1, min(PARTS_A_GROUP, len(parts) // (self.count * GROUPS_A_WORKER)))
        waiting = deque([*parts[at : at + size]] for at in range(0, len(parts), size))
        free, running = list(self.workers), {}
        while waiting or running:
            while waiting and free:
                worker, group = free.pop(), waiting.popleft()
                running[worker.make.remote(target, writer.file, writer.part_rows, group, hashed)] = (worker, group)
            (done, *_), _ = self.ray.wait(list(running), num_returns=1)
            worker, group = running.pop(done)
            try:
                outcome = self.result(done)
            except self.ray.exceptions.RayActorError as error:
                self.workers.remove(worker)
                worker = self.start()
                self.workers.append(worker)
                lost = [part for part in writer.missing() if part in group]
                for part in lost:
                    deaths[part] += 1
                if worst := [part for part in lost if deaths[part] == TRIES]:
                    raise RequestError(
                        f"{TRIES} Ray workers died on part {worst[0]} of {writer.file}; finished parts are kept; "
                        "look for the reason (out of memory?) in Ray's logs"
                    ) from error
                waiting.extendleft([part] for part in lost)  # alone: a part that kills its worker takes no other along
                group, outcome = [part for part in group if part not in lost], {"busy": {}, "problem": None}
            if outcome["problem"]:
                raise RequestError(outcome["problem"])
            for stage, seconds in outcome["busy"].items():
                busy.seconds[stage] += seconds / self.count
            advance(sum(stop - start for start, stop in map(writer.bounds, group)), busy.bottleneck())
            free.append(worker)
