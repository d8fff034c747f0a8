"""Many machines: parts are tasks for workers of a Ray cluster, which load the model once; needs the extra [ray].

Workers and the process that gives the command share a disk with the data, the features and this program. A worker
that dies is replaced and its parts, those that it had not finished, are made again.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from data import store
from data.command import terminable
from data.errors import RequestError
from featurize.engines.local import make_files, prepare
from featurize.job import Job
from featurize.ranks import Assignment
from featurize.stages import Meter
from featurize.task import Task

TRIES = 3  # a part that three workers died on is not tried again
POLL_S = 2.0  # how often the journals are read, for progress
SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no usage statistics
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than Ray's own 15 seconds
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run(job: Job) -> int:
    """Make every feature file of a job on a Ray cluster, or on one started here for it."""
    try:
        import ray  # deferred: an extra
    except ImportError as error:
        raise RequestError("--engine ray needs Ray; install it with: pip install 'frozen-earth[ray]'") from error
    same = {"run": job.run, "augment": job.augment, "out": job.out.resolve(), "overwrite": job.overwrite}
    job = Job.from_asked(job.asked(), job.data.split, **same)  # with whole paths, as other processes know them
    runtime = prepare(replace(job, run=replace(job.run, device="cpu")))  # only the workers may have a GPU
    connect(ray, job.run.ray_address)
    try:
        with terminable():  # Ray replaced our signal handler
            cluster = Cluster(job, ray)
            make_files(job, replace(runtime, **cluster.settings()), cluster.work)
    finally:
        ray.shutdown()
    return 0


def connect(ray: Any, address: str | None) -> None:
    """Connect to a running cluster, or start one of this machine alone."""
    # A cluster of this machine alone is for this machine alone: its services listen on loopback.
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    setup = {"worker_process_setup_hook": "featurize.commands.own_packages_first"}  # before a worker unpickles anything
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address=address, runtime_env=setup, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises many kinds, a bare Exception among them
        reason = " ".join(str(error).split())[:200]
        if not address:
            raise RequestError(f"Ray cannot start a cluster here ({reason})") from error
        raise RequestError(
            f"--ray-address {address}: no Ray cluster answers there ({reason}); if the cluster requires a token, "
            "set RAY_AUTH_MODE=token"
        ) from error


class Worker:
    """What one Ray worker holds: the data and the encoder, opened once."""

    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name, self.runtime, self.problem = job, name, None, None
        try:
            self.runtime = prepare(job)
        except RequestError as error:  # raised, Ray would take it for a death of the process
            self.problem = str(error)

    def settings(self) -> tuple[dict[str, Any], str | None]:
        """How this worker runs, as fields of a `Runtime`, and why it cannot work, if so."""
        if self.runtime is None:
            return {}, self.problem
        device = self.runtime.device
        name = f"{torch.cuda.get_device_name(device)} (Ray)" if device.type == "cuda" else "cpu (Ray)"
        return {"precision": self.runtime.precision, "batch_size": self.runtime.batch_size, "elsewhere": name}, None

    def make(self, assignment: Assignment, parts: Sequence[int]) -> tuple[dict[str, float], str | None]:
        """Make some parts of an assignment.

        Returns:
            Seconds by stage, and the problem, None when all went well.
        """
        meter = Meter()
        if self.runtime is None:
            return {}, self.problem
        try:
            assignment.make(self.job, self.runtime, self.name, parts, meter)
        except RequestError as error:  # raised, it would arrive wrapped in Ray's own
            return {}, str(error)
        return dict(meter.seconds), None


def processors_each(nodes: Sequence[Mapping[str, float]], count: int, *, gpus: int) -> int:
    """The most processors that each worker can have, so that all workers can be placed."""
    for each in range(int(sum(node.get("CPU", 0) for node in nodes)) // count, 0, -1):
        places = (min(node.get("CPU", 0) // each, node.get("GPU", 0) // gpus if gpus else count) for node in nodes)
        if sum(places) >= count:
            return each
    have = " + ".join(f"{node.get('CPU', 0):g}" for node in nodes)
    raise RequestError(f"--ray-workers {count}: the machines of the cluster have {have} CPUs; ask for fewer workers")


class Cluster:
    """Starts Ray workers, each of which makes ``parts[number::count]``, and replaces those that die."""

    def __init__(self, job: Job, ray: Any) -> None:
        self.job, self.ray, self.started = job, ray, 0
        have = ray.cluster_resources()
        gpus = 0 if job.run.device == "cpu" else int(have.get("GPU", 0))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.count = job.run.ray_workers or gpus or len(nodes)
        self.gpus = 1 if gpus else 0
        if gpus and self.count > gpus:
            raise RequestError(
                f"--ray-workers {self.count}: the cluster has {gpus} GPUs; use one worker per GPU, or --device cpu"
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
        """How the workers run, as fields of a `Runtime`: what the first one says."""
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

    def work(self, task: Task, writer: store.PartWriter, parts: Sequence[int], meter: Meter) -> None:
        """Make parts: each worker its share; see `featurize.pipeline.embed_parts`."""
        assignment, deaths, done = Assignment.of(task, writer, parts), Counter[int](), set[int]()
        shares = {number: list(parts[number :: self.count]) for number in range(self.count)}
        running = {self.workers[number].make.remote(assignment, share): number for number, share in shares.items()}
        while running:
            ended, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for part in (recorded := writer.recorded() & {*parts}) - done:
                start, stop = writer.bounds(part)
                meter.advance(stop - start)
            done |= recorded
            for reference in ended:
                number = running.pop(reference)
                try:
                    seconds, problem = self.result(reference)
                except self.ray.exceptions.RayActorError as error:
                    missing = [part for part in writer.missing() if part in shares[number]]
                    deaths.update(missing[:1])  # a worker makes its parts in order: it died on the first one missing
                    if missing and deaths[missing[0]] == TRIES:
                        raise RequestError(
                            f"{TRIES} Ray workers died on part {missing[0]} of {writer.file}; finished parts are kept; "
                            "look for the reason (out of memory?) in Ray's logs"
                        ) from error
                    self.workers[number] = self.start()
                    running[self.workers[number].make.remote(assignment, missing)] = number
                    continue
                if problem:
                    raise RequestError(problem)
                for stage in seconds:  # workers run side by side: what counts is the slowest
                    meter.seconds[stage] = max(meter.seconds[stage], seconds[stage])
