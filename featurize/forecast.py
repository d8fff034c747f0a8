"""What a featurize command would do (--dry-run): splits it computes, resumes or reuses, time and disk space."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import paths, store
from data.errors import RequestError
from data.stored import words_of_size
from featurize.engines.local import make_task, prepare
from featurize.job import Job


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What would happen to one split or view.

    Args:
        file: the feature file.
        images: N.
        todo: images still to be embedded.
        size_bytes: of the features.
        seconds: at the rate last measured for this model and size; None where none was.
        problem: why the file that is there could not be reused.
    """

    file: Path
    images: int
    todo: int
    size_bytes: int
    seconds: float | None = None
    problem: str = ""

    def __str__(self) -> str:
        """One line."""
        if self.problem:
            return f"would stop: {self.problem}"
        if not self.todo:
            return f"would reuse {self.file} ({self.images:,} images)"
        verb = "resume" if self.todo < self.images else "compute"
        time = "time unknown: never measured here" if self.seconds is None else f"about {self.seconds:,.0f} s"
        done = f", {self.images - self.todo:,} already done" if self.todo < self.images else ""
        return f"would {verb} {self.file} ({self.images:,} images{done}; {time}; {words_of_size(self.size_bytes)})"


def forecasts(job: Job) -> Iterator[Forecast]:
    """What a job would do, split by split; opens the data and builds the encoder, but embeds nothing.

    Raises:
        RequestError: the request is wrong, the data are missing, or the weights are not available.
    """
    runtime = prepare(job, device=job.run.device.partition(",")[0])
    for split, view in job.targets():
        task = make_task(job, runtime, split, view)
        file = job.file(task.dataset, view, task.identity)
        images, dim, kind = len(task.dataset), task.encoder.dim, np.dtype(task.encoder.dtype)
        todo, problem = images, ""
        if file.exists() and not job.overwrite:
            found, _ = store.read_identity(file)
            fields = store.differing_fields(found, task.identity)
            todo, problem = 0, f"{file} differs from this request in {', '.join(fields)}" if fields else ""
        elif (parts := paths.parts_folder(file)).is_dir():
            done = store.verify_parts(parts)
            todo = images - min(images, (done.done or 0) * runtime.part_rows)
        rate = last_rate(job.out, task.identity["encoder"], runtime.computes_on())
        seconds = todo / rate if rate else None
        yield Forecast(
            file=file, images=images, todo=todo, size_bytes=todo * dim * kind.itemsize, seconds=seconds, problem=problem
        )


def last_rate(out: Path, encoder: dict, device: str) -> float | None:
    """Images per second of the newest features of this model, variant and image size on this hardware."""
    found = []
    for file in paths.feature_root(out).glob(f"*/{paths.slug(encoder['name'])}*/*.h5"):
        try:
            identity, about = store.read_identity(file)
        except RequestError:  # damaged: verify reports it
            continue
        same = all(identity["encoder"].get(key) == encoder[key] for key in ("name", "variant", "image_size"))
        if same and about.get("device") == device and about.get("images_per_s"):
            found.append((about["created"], about["images_per_s"]))
    return max(found)[1] if found else None
