"""Repair of damaged feature files: intact rows are kept, the others are embedded again."""

from pathlib import Path

from data import store
from data.errors import RequestError
from featurize.changes import check_rows, check_unchanged
from featurize.engines import local
from featurize.flags import RunFlags
from featurize.job import Job


def repair(file: Path) -> None:
    """Make the damaged rows of a feature file again, with the flags recorded in it."""
    again = "run its featurize command again with --overwrite"
    try:
        about = store.inspected(file, "identity")
    except store.Damaged as error:
        raise store.Damaged(f"{error}; it is too damaged to repair: {again}") from error
    identity, environment = about["identity"], about["environment"]
    if isinstance(asked := environment.get("asked"), str):
        raise RequestError(f"{file} was imported; run its command again with --overwrite: {asked}")
    if not asked or identity["split"].get("altered"):
        raise RequestError(f"{file} does not record the command that made it; {again}")
    resolved = file.resolve()
    if len(resolved.parents) < 4:
        raise RequestError(f"{file} is not where featurize put it, below an --out folder; {again}")
    run = RunFlags(precision=identity["encoder"]["precision"])
    out = resolved.parents[3]  # out/features/<dataset>/<encoder>/<split>.h5
    job = Job.from_asked(asked, identity["split"]["name"], run=run, out=out, overwrite=True)
    runtime = local.prepare(job)
    task = local.make_task(job, runtime, identity["split"]["name"], 0)
    samples, fields = task.dataset, store.differing_fields(identity, task.identity)
    other_times = samples.digest_of_times and store.TIMES_FIELD in fields
    if fields := [field for field in fields if not (other_times and field == store.TIMES_FIELD)]:
        raise RequestError(f"{file} differs in {', '.join(fields)} from what its command computes now; {again}")
    if (usual := job.file(samples, 0, task.identity)) != resolved:
        raise RequestError(f"{file} is not where featurize put it, {usual}; move it there, or {again}")
    found = store.inspected(file, "sound")
    rows = sorted(set(range(len(samples))) - {row for first, last in found["sound"] for row in range(first, last)})
    if other_times:  # what is kept was made from these images too
        if not found["sources"] or not store.knows_all_pixels(file):
            raise RequestError(f"{file} differs in {store.TIMES_FIELD} from what its command computes now; {again}")
        check_unchanged(task, file, same_times=False)
    if found["sources"]:
        check_rows(task, file, rows)
    else:
        print(f"{file}: its record of the source images is damaged and is discarded", flush=True)
    kept, rows = store.salvage(file)
    print(f"{file}: {kept:,} of {rows:,} images are intact; recomputing the rest", flush=True)
    local.make_files(job, runtime)
