"""The `featurize` command; imports of torch and numpy wait until there is work, so that --help is quick."""

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from data import command, paths
from data.errors import RequestError, unknown
from data.flags import ANY, DEFAULT_DATASET, DataFlags, ImportFlags
from data.pairs import own_values, run_pairs, several
from data.problems import Kind, Problem
from data.registry import DATASETS
from data.scene.flags import LabelFlags
from featurize.card import MODELS
from featurize.catalogue import catalogue
from featurize.flags import ENGINES, HERE, FeaturizeFlags, ModelFlags, RunFlags
from featurize.job import Job

if TYPE_CHECKING:
    from data.store import VerifiedFeatures
    from data.store.exchange.stac import Origin

app = command.new_app(
    "featurize",
    "Run satellite patches once through a frozen foundation model and store the embeddings in HDF5.\n\n"
    f"Models: {', '.join(MODELS.names())}.\nDatasets: {', '.join(DATASETS.names())}.",
)

Switch = Parameter(negative="")
OWN_OF_MODEL = ("bands", "pooling", "normalize", "weights", "variant", "layer")  # in lists, each may have its own
OWN_OF_DATA = ("dataset_variant", "partition")


@app.default
def featurize(*, flags: FeaturizeFlags, dry_run: Annotated[bool, Switch] = False) -> int:
    """Extract features, or reuse them if they exist with the same settings; an interrupted run resumes.

    --model and --dataset accept lists, such as --model dofa,stats --dataset eurosat,folder: every pair is computed in
    turn, one that fails does not stop the others, and a table lists what was made, reused and failed. --variant,
    --weights, --bands, --pooling, --normalize, --layer, --dataset-variant and --partition then take one value for all,
    or one for each: --variant dinov2=small,galileo=nano; names without a value use their default.

    Args:
        flags: Which encoder, which samples, and how to run.
        dry_run: Only print what would be computed, resumed and reused, how long it takes and how much disk it needs.
    """
    job, labels = Job.of(flags), flags.part(LabelFlags)
    if not several(flags.model, flags.dataset):
        return forecast(job) if dry_run else run_job(job, labels)
    if job.run.chosen_engine() == "torchrun":
        raise RequestError("lists of models or datasets need --engine local or ray; give one command per pair")
    models = own_values("--model", flags.model, {name: getattr(flags, name) for name in OWN_OF_MODEL})
    datasets = own_values("--dataset", flags.dataset, {name: getattr(flags, name) for name in OWN_OF_DATA})
    for name in models:
        MODELS.check(str(name))
    for name in datasets:
        DATASETS.check(name or DEFAULT_DATASET)

    def one(model: str | None, dataset: str | None) -> int:
        own = {"model": replace(job.model, model=str(model), **models[model])}
        pair = replace(job, **own, data=replace(job.data, dataset=dataset, **datasets[dataset]))
        return forecast(pair) if dry_run else run_job(pair, labels)

    def written() -> list[Path]:
        return [file for folder in paths.feature_folders(flags.out) for file in folder.glob("*.h5")]

    return run_pairs("featurize", flags.model, flags.dataset, one, written)


def run_job(job: Job, labels: LabelFlags) -> int:
    """Make the features of one model on one dataset."""
    job.check()
    labels.check(job.data.dataset)
    if labels.labels:
        labels.record(job.open("test"), job.out)
    return ENGINES.load(job.run.chosen_engine()).run(job)  # imports torch, which takes seconds


def forecast(job: Job) -> int:
    """Print what a job would do."""
    job.check()
    from featurize.forecast import forecasts  # deferred: torch

    for one in forecasts(job):
        print(one)
        command.record(**asdict(one))
    return 0


@app.command
def pack(
    *,
    to: Path,
    data: DataFlags = ANY,
    bands: str = "all",
    workers: int | None = None,
    overwrite: Annotated[bool, Switch] = False,
) -> int:
    """Write the bands of a dataset to one packed file, which featurize --packed reads many times faster.

    Args:
        to: Packed file to write; its name ends in .h5.
        data: Which samples.
        bands: Band set (rgb, s2-9, s2-10, s2-12, s2-13, s1, s1s2, all) or names such as B04,B08.
        workers: Number of reader processes. Default: depends on the number of images.
        overwrite: Replace a packed file that has different contents.
    """
    opened = data.open(bands=[bands])

    from data.bands import choose_bands  # deferred, as these import numpy and h5py
    from data.packing import pack as write_packed

    first = next(iter(opened.values()))
    chosen = choose_bands(first.bands, bands, where=first.where)
    try:
        done = write_packed(to, opened, chosen, limit=data.recorded_limit(), workers=workers, overwrite=overwrite)
    except KeyboardInterrupt as how:
        return command.stopped("featurize", how, f"{to} was not written")
    print(done)
    return 0


@app.command
def bench(*, model: ModelFlags, data: DataFlags = ANY, run: RunFlags = HERE, out: Path = paths.DEFAULT_OUT) -> int:
    """Benchmark models on this machine: images/s forward only and end to end, and the upper bound of the hardware.

    --model, --device and --precision accept lists, such as --model dinov2,dofa --device cpu,cuda; with --compile, each
    model is measured with and without compilation. Weights are random unless --weights is given; speed does not depend
    on them.

    Args:
        model: Which encoders.
        data: Which samples; all of the first split asked for are read.
        run: How to run.
        out: Output folder; analyze speed makes tables and figures of the results.
    """
    if run.engine or run.ray_address or run.ray_workers:
        raise RequestError("featurize bench measures one process; leave --engine and --ray-... out")
    for name in model.model.split(","):
        MODELS.check(name)
    run.check_numbers()

    from featurize import bench as speed  # torch

    return speed.run(Job(model=model, data=data, run=run, out=out))


@app.command
def doctor(
    *, out: Path = paths.DEFAULT_OUT, data_root: Path | None = None, offline: Annotated[bool, Switch] = False
) -> int:
    """Check packages, GPU, memory, disk and access to weights; report what does not work and how to fix it.

    Args:
        out: Output folder.
        data_root: Folder of the data. Default: the environment variable EO_DATA_ROOT, else datasets.
        offline: Do not try to reach the Hugging Face hub.
    """
    from featurize.doctor import examine, report  # deferred: torch

    return report(examine(out, paths.data_root(data_root), online=not offline))


@app.command(name="list")
def list_(*name: str, out: Path | None = None) -> None:
    """List models and datasets with variants, dimensions, bands, input sizes, weights, licenses and citations.

    Args:
        name: Models or datasets to show. Default: all.
        out: List the feature sets in this output folder instead, with sizes and ages.
    """
    if out is None:
        print(catalogue(name))
        return
    if name:
        raise RequestError(f"{name[0]} --out {out}: give names of models and datasets, or an output folder")

    from data.stored import stored_features  # deferred: numpy and h5py

    print(stored_features(out))


@app.command
def prune(*, out: Path = paths.DEFAULT_OUT, yes: Annotated[bool, Switch] = False) -> int:
    """Delete what an output folder no longer needs: parts of interrupted runs, and cached UMAP projections of deleted
    features or from other package versions.

    Parts that a running process writes are kept. Deleted parts are computed again when their featurize command runs.

    Args:
        out: Output folder.
        yes: Do not ask.
    """
    from data.stored import delete, left_over, size_of, words_of_size  # deferred: numpy and h5py

    found = left_over(out)
    for path in found:
        print(f"{words_of_size(size_of(path)):>9}  {path}")
    if not found:
        print(f"nothing to delete in {out}")
        return 0
    if not yes and not command.confirmed(f"delete these {len(found)} items?"):
        print("nothing was deleted")
        return 0
    for path in found:
        delete(path)
        command.record(deleted=path)
    print(f"deleted {len(found)}")
    return 0


@app.command
def verify(*path: Path, out: Path = paths.DEFAULT_OUT, repair: Annotated[bool, Switch] = False) -> int:
    """Verify feature files (checksums, row counts, ids, NaN, collapse), runs and maps; exits with 1 on a problem.

    Unfinished splits are listed with their progress, and their parts are verified too.

    Args:
        path: Feature files, packed files, run folders, maps, or folders that contain them. Default: all features and
            runs below --out.
        out: Output folder.
        repair: Recompute the features of damaged images only.
    """
    from data import checksums, runs, store  # deferred: numpy and h5py

    files: list[Path] = []
    unfinished: list[Path] = []
    for one in path or (paths.feature_root(out),):
        if not one.exists() and path:
            raise RequestError(f"nothing at {one} to verify; name a feature file or folder")
        unfinished += sorted([one] if one.suffix == ".parts" else one.rglob("*.parts"))
        files += sorted(one.rglob("*.h5")) if not one.is_file() else [one]
    below = [one.parent if one.name in runs.FILES else one for one in path or (paths.probe_root(out),)]
    finished = runs.folders_of_runs(below)
    signed = checksums.signed_files(path)
    files = [file for file in files if file.parent.suffix != ".parts" and file.name not in runs.FILES]
    files = [file for file in files if file not in signed]
    if not files and not unfinished and not finished and not signed:
        raise RequestError(f"no feature files below {', '.join(map(str, path)) or paths.feature_root(out)}")
    wrong = 0
    for file in files:
        found, repairable = _verified(file)
        if found.problems and repair and repairable:
            print("\n".join(map(str, found.problems)), flush=True)

            from featurize.repair import repair as make_whole  # torch

            try:
                make_whole(file)
                found = store.verify_features(file)
            except RequestError as error:  # the next file may still be repairable
                found = replace(found, problems=(Problem(Kind.DAMAGED, file, str(error)),))
        if repair and repairable and not found.problems:
            store.clear_finished(file)
        wrong += bool(found.problems)
        rank = "" if found.effective_rank is None else f"; effective rank {found.effective_rank:.1f} of {found.dim:,}"
        print("\n".join(map(str, found.problems)) if found.problems else f"{file}: good{rank}")
    if files or not (finished or signed):
        print(f"{len(files) - wrong} of {len(files)} files are good")
    for folder in unfinished:
        if not folder.exists():  # of a repair that is finished now
            continue
        split = store.verify_parts(folder)
        wrong += bool(split.problems)
        print("\n".join(map(str, [*split.problems, split])))
    if finished:
        damaged = runs.report_verified(finished)
        print(f"{len(finished) - damaged} of {len(finished)} runs are good")
        wrong += damaged
    wrong += checksums.report_signed(signed)
    return 1 if wrong else 0


def _verified(file: Path) -> "tuple[VerifiedFeatures, bool]":
    """What is wrong with a feature file or a packed file, and whether it may be repaired."""
    from data import packed, store  # deferred: numpy and h5py

    try:
        if packed.is_packed(file):
            return store.VerifiedFeatures(file, packed.verify_packed(file)), False
        return store.verify_features(file), True
    except RequestError as error:  # the next file may still be readable
        return store.VerifiedFeatures(file, (Problem(Kind.UNREADABLE, file, str(error)),)), False


@app.command(name="import")
def import_(file: Path, *, flags: ImportFlags, out: Path = paths.DEFAULT_OUT) -> None:
    """Import embeddings computed elsewhere as a feature set for probe and analyze.

    Args:
        file: Parquet or GeoParquet (a list column, or one column per dimension), .npy, .npz or HDF5; with --format
            alphaearth or tessera, a raster or a folder of rasters.
        flags: How to read it.
        out: Output folder.
    """
    from data.store.exchange.importing import import_features  # deferred: numpy, pandas, pyarrow

    for written in import_features(file, flags, out):
        print(f"wrote {written}")


@app.command
def export(
    path: Path,
    *,
    to: str = "parquet",
    pca: int | None = None,
    quantize: Literal["int8"] | None = None,
    stac: Annotated[bool, Switch] = False,
) -> None:
    """Export a feature file for other tools; the export is written next to it.

    Args:
        path: Feature file.
        to: parquet (id, labels and one column per dimension), geoparquet (one list column and geometries, for
            GeoPandas, QGIS and DuckDB; extra geo) or npz (the arrays).
        pca: Principal components to keep (geoparquet); what this costs a linear probe is measured and printed.
        quantize: int8 stores each dimension as 8-bit integers with a scale and an offset (geoparquet); its cost is
            measured too.
        stac: Write a STAC item and collection next to the GeoParquet.
    """
    formats = ("parquet", "geoparquet", "npz")
    if to not in formats:
        raise unknown("format", to, formats)

    from data import store  # deferred: numpy and h5py
    from data.store.exchange.export import export as write_export  # pyarrow too

    origins = _origins(store.read_identity(path)[0]) if stac else None
    for written in write_export(path, to, pca=pca, quantize=quantize, origins=origins):
        print(f"wrote {written}")


def _origins(identity: dict[str, Any]) -> "tuple[Origin, Origin]":
    """The model and the dataset of features, as their cards cite them."""
    from data.store.exchange.stac import Origin

    found = []
    for name, registry in ((identity["encoder"]["name"], MODELS), (identity["dataset"]["name"], DATASETS)):
        card = registry.card(name) if name.partition(":")[0] in registry.names() else None
        cited = re.search(r"(arXiv:|doi:)([\w./()-]*\w)", card.citation) if card else None
        host = {"arXiv:": "https://arxiv.org/abs/", "doi:": "https://doi.org/"}[cited[1]] if cited else "urn:name:"
        found.append(Origin(name, f"{host}{cited[2] if cited else name}", card.license if card else "unknown"))
    return found[0], found[1]


def main() -> None:
    """Entry point of the command."""
    sys.exit(command.run(app))
