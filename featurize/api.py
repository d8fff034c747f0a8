"""The Python interface of featurize: the command as a function."""

from dataclasses import dataclass

from data.errors import RequestError
from data.pairs import several
from data.python import Shown, taking
from data.scene.flags import LabelFlags
from data.store import FeatureSet, read_features
from featurize.cli import app, run_job
from featurize.flags import FeaturizeFlags
from featurize.job import Job


@dataclass(frozen=True, kw_only=True)
class _Flags(Shown, FeaturizeFlags):
    """The parameters of `featurize`."""


@taking(app, _Flags)
def featurize(flags: FeaturizeFlags) -> dict[str, FeatureSet]:
    """Extract the features of one dataset with one model, or reuse them if they exist with the same settings.

    Returns:
        The features by split.

    Raises:
        RequestError: the request is wrong, such as an unknown model or missing data; it has the command's message.

    Examples:
        >>> import featurize
        >>> sets = featurize.featurize(model="stats", dataset="simulated", limit=60)
        >>> sets["train"].X.shape
        (60, 56)
    """
    if several(flags.model, flags.dataset):
        raise RequestError("one model and one dataset per call; call featurize once for each pair")
    job = Job.of(flags)
    if job.run.engine == "ray":
        raise RequestError("--engine ray works from the command line only; leave it out, or run the command featurize")
    if run_job(job, flags.part(LabelFlags)):
        raise RequestError("a process of featurize failed; its message is above")
    from featurize.engines.local import make_task  # deferred: torch

    runtime = job.run.runtime(job.encoder, device=job.run.device.partition(",")[0])
    tasks = [make_task(job, runtime, split, 0) for split in job.data.splits()]
    return {task.dataset.split: read_features(job.file(task.dataset, 0, task.identity)) for task in tasks}
