"""One process makes every part."""

import sys

from data import store
from data.errors import RequestError
from data.files import short_hash
from data.problems import Kind
from featurize.encoder import Encoder
from featurize.job import Job
from featurize.pipeline import Work, embed_parts, featurize_split
from featurize.plan import Plan


def run(job: Job) -> int:
    """Make every feature file of a job in this process."""
    make_files(job, prepared(job), embed_parts)
    return 0


def prepared(job: Job, *, device: str | None = None) -> Plan:
    """Open the data, build the encoder, and choose how to run: what is wrong with any of them shows here.

    Args:
        job: the job.
        device: instead of ``--device``.
    """
    for key in job.targets():
        job.open(*key)
    return job.run.plan(job.encoder, device=device)


def identity_hash(encoder: Encoder, plan: Plan) -> str:
    """What must be the same in all processes for their parts to belong together."""
    return short_hash(encoder.identity(plan.precision))


def make_files(job: Job, plan: Plan, work: Work) -> None:
    """Make every feature file of a job, or find it made, and verify it.

    Args:
        job: the job.
        plan: how to run.
        work: makes the parts.
    """
    limit = job.data.recorded_limit()
    for split, view in job.targets():
        samples = job.open(split, view)
        file = job.file(samples, view, store.make_identity(samples, job.encoder.identity(plan.precision), limit=limit))
        _, line = featurize_split(
            samples, job.encoder, file, plan, limit=limit, overwrite=job.overwrite, work=work, asked=job.asked()
        )
        print(line, flush=True)
        for problem in store.verify_features(file).problems:
            if problem.kind is not Kind.COLLAPSED:
                raise RequestError(f"{problem}; use --overwrite to make it anew")
            print(f"featurize: warning: {problem}; a probe can learn next to nothing from them", file=sys.stderr)
