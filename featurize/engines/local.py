"""One process makes every part."""

from dataclasses import asdict

from data import command, store
from data.errors import RequestError
from data.problems import Kind
from featurize.job import Job
from featurize.pipeline import Work, embed_parts, featurize_split
from featurize.runtime import Runtime
from featurize.task import Task


def run(job: Job) -> int:
    """Make every feature file of a job in this process."""
    make_files(job, prepare(job))
    return 0


def prepare(job: Job, *, device: str | None = None) -> Runtime:
    """Open the data, build the encoder and choose how to run, so that errors in any of them surface first."""
    for key in job.targets():
        job.open(*key)
    return job.run.runtime(job.encoder, device=device)


def make_task(job: Job, runtime: Runtime, split: str, view: int) -> Task:
    """The task of one split or view."""
    limit, asked = job.data.recorded_limit(), job.asked()
    dataset = job.open(split, view)
    job.encoder.check_locations(dataset.lonlat)
    return Task(dataset=dataset, encoder=job.encoder, runtime=runtime, limit=limit, asked=asked)


def make_files(job: Job, runtime: Runtime, work: Work = embed_parts) -> None:
    """Make every feature file of a job, or reuse it, and verify those written."""
    for split, view in job.targets():
        task = make_task(job, runtime, split, view)
        file = job.file(task.dataset, view, task.identity)
        summary = featurize_split(task, file, overwrite=job.overwrite, work=work)
        command.say(str(summary), result=True)
        command.record(split=split, view=view, **asdict(summary))
        if summary.reused:  # verified when it was written
            continue
        for problem in store.verify_features(file).problems:
            if problem.kind is not Kind.COLLAPSED:
                raise RequestError(f"{problem}; use --overwrite to recompute it")
            command.warn("featurize", f"{problem}; a probe can learn almost nothing from these features")
