"""Files of embeddings made elsewhere: Parquet, GeoParquet, NumPy and HDF5, and the products people publish."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Num, Shaped

from data.cached import UNUSABLE
from data.errors import RequestError, unknown
from data.files import sha256_of_file
from data.places import on_earth
from data.scene.grid import transformed
from data.store.child import inspected
from data.store.reader import open_hdf5

BLOCK_ROWS = 8192
PARQUET = (".parquet", ".gpq", ".geoparquet", ".pq")
VECTORS = ("embedding", "embeddings", "features", "vector", "X")  # usual names, tried in this order
IDS = ("id", "unique_id", "tile_id", "chip_id", "sample_id", "ids")
LONLAT = (("lon", "lat"), ("longitude", "latitude"), ("centre_lon", "centre_lat"), ("centroid_lon", "centroid_lat"))


@dataclass(frozen=True)
class Product:
    """Columns of a published product."""

    columns: tuple[str, ...]  # all of these must be there for a file to be of this product
    embedding: str  # column of the vectors
    id: str  # column of the ids
    model: str  # what made the vectors, where the file does not say


PRODUCTS = {
    "clay": Product(("source_url", "embeddings", "geometry"), "embeddings", "source_url", "clay-v0"),
    "earth-index": Product(("id", "embedding", "geometry"), "embedding", "id", "earth-index"),
    "major-tom": Product(
        ("unique_id", "embedding", "grid_cell", "product_id", "centre_lat", "centre_lon"),
        "embedding", "unique_id", "major-tom",
    ),
    "geovibes": Product(("tile_id", "embedding", "geometry"), "embedding", "tile_id", "geovibes"),
}  # fmt: skip


ToLonlat = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors of a file, read block by block, and its other columns, read whole."""

    file: Path  # where they are
    rows: int  # N
    dim: int  # D
    dtype: str  # type to keep, ``float16`` or ``float32``
    columns: pd.DataFrame  # the other columns, N rows
    id_column: str | None  # column of the ids; None if none has a usual name
    # pairs of columns that may hold longitude and latitude
    lonlat_columns: tuple[tuple[str | None, str | None], ...] = LONLAT
    model: str | None = None  # name of the model that made them, if known
    metadata: dict[str, Any] = field(default_factory=dict)  # recorded in the file
    pooling: str = "as-imported"  # how pixels became vectors, if known

    def digest(self) -> str:
        """sha256 of what the vectors were read from."""
        return sha256_of_file(self.file)

    def blocks(self) -> Iterator[tuple[int, Num[np.ndarray, "rows dim"]]]:
        """Yield first row and (n, D) vectors of each block; NaN for one that is missing or of another length."""
        raise AssertionError("defined by each kind of file")

    def unusable(self) -> Bool[np.ndarray, " samples"]:
        """Rows whose vector is missing, of another length, or holds NaN or infinity."""
        bad = np.zeros(self.rows, bool)
        for start, block in self.blocks():
            bad[start : start + len(block)] = ~np.isfinite(block.astype(self.dtype)).all(axis=1)
        return bad

    @property
    def shapes(self) -> tuple[Shaped[np.ndarray, " samples"], ToLonlat] | None:
        """Geometries, and what turns their coordinates, (n, 2), into WGS 84 degrees; None without geometries."""
        return None

    def centres(self) -> Float[np.ndarray, "samples 2"] | None:
        """Longitudes and latitudes of the geometries; None without geometries."""
        if self.shapes is None:
            return None
        import shapely  # deferred: only for geometries

        shapes, to_lonlat = self.shapes
        centroids = shapely.centroid(shapes)
        lonlat = np.column_stack([shapely.get_x(centroids), shapely.get_y(centroids)])
        return on_earth(to_lonlat(lonlat), where=self.file.name)

    def geometries(self) -> Shaped[np.ndarray, " samples"] | None:
        """Geometries in WGS 84 as hexadecimal WKB; None where there are none, or points only."""
        if self.shapes is None:
            return None
        import shapely

        shapes, to_lonlat = self.shapes
        if (shapely.get_type_id(shapes) <= shapely.GeometryType.POINT).all():  # also where there is none
            return None
        return shapely.to_wkb(shapely.transform(shapes, to_lonlat), hex=True)


def open_embeddings(file: Path, product: str | None, embedding: str | None) -> Embeddings:
    """Open a file of embeddings.

    Args:
        file: see the module.
        product: name of `PRODUCTS` that the file must be; None accepts any.
        embedding: column or array of the vectors, or what the names of their columns begin with.

    Raises:
        RequestError: absent, of no known kind, damaged, empty, or without vectors.
    """
    if product is not None and product not in PRODUCTS:
        raise unknown("format", product, (*PRODUCTS, "alphaearth", "tessera"))
    if not file.is_file():
        raise RequestError(f"no file at {file}; give Parquet, GeoParquet, .npy, .npz or HDF5")
    suffix = file.suffix.lower()
    if product and suffix not in PARQUET:
        raise RequestError(f"--format {product}: that product is Parquet, and {file} is not; leave --format out")
    with readable(file):
        if suffix in PARQUET:
            return _open_parquet(file, product, embedding)
        if suffix == ".npy":
            return _arrays(file, None, {"": np.load(file, mmap_mode="r", allow_pickle=False)}, "")
        if suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return _arrays(file, embedding, dict(arrays))
        if suffix in (".h5", ".hdf5"):
            inspected(file, "foreign")
            with open_hdf5(file) as source:
                arrays = {name: node for name, node in source.items() if isinstance(node, h5py.Dataset)}
                return _arrays(file, embedding, arrays)
    raise RequestError(f"{file}: unknown kind '{suffix}'; give Parquet, GeoParquet, .npy, .npz or HDF5")


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Raise whatever a reader raises for a damaged file as one RequestError that names the file."""
    try:
        yield
    except (*UNUSABLE, AttributeError, IndexError, pa.ArrowException) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{file} cannot be read: {why}; make or download it again") from error


# --------------------------------------------------------------------------------------------- Parquet


@dataclass(frozen=True, kw_only=True)
class _Parquet(Embeddings):
    vectors: tuple[str, ...]  # one list column, or one column for every dimension
    linear: tuple[np.ndarray, ...] = ()  # scale and offset, (D,) each, of vectors that are quantized

    def blocks(self) -> Iterator[tuple[int, Num[np.ndarray, "rows dim"]]]:
        """See `Embeddings.blocks`."""
        start = 0
        with _parquet(self.file) as source:
            for group in range(source.num_row_groups):  # in one call, all groups read stay in memory
                for batch in source.iter_batches(BLOCK_ROWS, row_groups=[group], columns=list(self.vectors)):
                    block = self._matrix(batch)
                    if self.linear:
                        block = block * self.linear[0] + self.linear[1]
                    yield start, block
                    start += len(block)

    def _matrix(self, batch: pa.RecordBatch) -> np.ndarray:
        if len(self.vectors) > 1:
            return np.column_stack([_floats(batch.column(name)) for name in self.vectors])
        column = batch.column(0)
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        values = _floats(column.drop_null().flatten())
        if (lengths == self.dim).all():
            return values.reshape(-1, self.dim)
        matrix = np.full((len(column), self.dim), np.nan, values.dtype)
        good = lengths == self.dim
        matrix[good] = values[np.repeat(good, lengths)].reshape(-1, self.dim)
        return matrix

    @cached_property
    def shapes(self) -> tuple[Shaped[np.ndarray, " samples"], ToLonlat] | None:
        """See `Embeddings.shapes`; of the column that the ``geo`` metadata names."""
        geo = self.metadata.get("geo")
        if not geo:
            return None
        import shapely  # deferred: only for geometries
        from pyproj import CRS
        from pyproj.exceptions import ProjError

        name = geo.get("primary_column", "geometry")
        with _parquet(self.file) as source:
            if name not in source.schema_arrow.names:
                return None
            column = source.read(columns=[name]).column(0).to_numpy()
        crs = geo.get("columns", {}).get(name, {}).get("crs")  # absent means WGS 84
        try:
            system = CRS.from_user_input(crs) if crs else None
        except ProjError:
            return None
        projected = system is not None and not system.is_geographic
        change = partial(transformed, source=system, target="EPSG:4326") if projected else np.asarray
        return shapely.from_wkb(column, on_invalid="ignore"), change


def _floats(values: pa.Array) -> np.ndarray:
    """Numbers of any type as float32, or float64 where they do not fit; NaN where there is none."""
    if not pa.types.is_float32(values.type):
        values = values.cast(pa.float64())
    return values.fill_null(np.nan).to_numpy(zero_copy_only=False)


def _parquet(file: Path) -> pq.ParquetFile:
    """An open file; pages are checked where it has their checksums, as those exported here do."""
    return pq.ParquetFile(file, page_checksum_verification=True)


def _open_parquet(file: Path, product: str | None, embedding: str | None) -> Embeddings:
    with _parquet(file) as source:
        schema, rows = source.schema_arrow, source.metadata.num_rows
    about = schema.metadata or {}
    metadata = {name: json.loads(about[name.encode()]) for name in ("geo", "emb") if name.encode() in about}
    names = schema.names
    known = PRODUCTS[product] if product else next((p for p in PRODUCTS.values() if set(p.columns) <= set(names)), None)
    if product and (missing := [name for name in PRODUCTS[product].columns if name not in names]):
        raise RequestError(f"--format {product}: {file} has no column {', '.join(missing)}; it has {', '.join(names)}")
    vectors = _vector_columns(file, schema, embedding or (known.embedding if known else None))
    if not rows:
        raise RequestError(f"{file} has no rows: it holds columns {', '.join(names)}, but no embeddings")
    heavy = {*vectors, metadata.get("geo", {}).get("primary_column", "geometry")}
    with _parquet(file) as source:
        columns = source.read(columns=[name for name in names if name not in heavy]).to_pandas()
        dim = len(vectors) if len(vectors) > 1 else _list_length(source, next(iter(vectors)))
    kinds = {schema.field(name).type for name in vectors}
    half = all(pa.types.is_float16(getattr(kind, "value_type", kind)) for kind in kinds)
    usual = next((name for name in IDS if name in names), None)
    quantized = metadata.get("emb", {}).get("emb:quantization", {})
    linear = [np.array(quantized[key], float) for key in ("scale", "offset") if key in quantized]
    if quantized and (quantized.get("method") != "linear" or [one.shape for one in linear] != [(dim,)] * 2):
        raise RequestError(f"{file} is quantized, but not linearly with a scale and an offset for each dimension")
    return _Parquet(
        file=file, rows=rows, dim=dim, dtype="float16" if half else "float32", columns=columns,
        id_column=known.id if known else usual, model=_model(metadata) or (known.model if known else None),
        metadata=metadata, vectors=vectors, linear=tuple(linear),
    )  # fmt: skip


def _vector_columns(file: Path, schema: pa.Schema, embedding: str | None) -> tuple[str, ...]:
    """The list column of the vectors, or the columns that are their dimensions, in the order of their numbers."""
    lists = [f.name for f in schema if _is_list(f.type)]
    if embedding is not None and embedding in lists:
        return (embedding,)
    if embedding is None:
        usual = [name for name in VECTORS if name in lists]
        if usual or len(lists) == 1:
            return ((usual or lists)[0],)
        if len(lists) > 1:
            raise RequestError(f"{file} has several list columns ({', '.join(lists)}); name one with --embedding")
    numbered: dict[str, list[tuple[int, str]]] = {}
    for one in schema:
        match = re.fullmatch(r"(.*?)(\d+)", one.name)
        if match and (pa.types.is_floating(one.type) or pa.types.is_integer(one.type)):
            numbered.setdefault(match[1], []).append((int(match[2]), one.name))
    found = numbered.get(embedding or "", []) if embedding is not None else max(numbered.values(), key=len, default=[])
    if len(found) < 2:
        what = f"no column or numbered columns '{embedding}'" if embedding else "no column of vectors"
        raise RequestError(f"{file} has {what}; it has {', '.join(schema.names)}; name them with --embedding")
    numbers, columns = zip(*sorted(found), strict=True)
    for at, (number, following) in enumerate(pairwise(numbers)):
        if following > number + 1:
            raise RequestError(
                f"{file} has no column between {columns[at]} and {columns[at + 1]}: export or download it again, or "
                "number the columns without a gap"
            )
    return columns


def _is_list(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _list_length(source: pq.ParquetFile, name: str) -> int:
    """D: the length that most of the first vectors have."""
    batch = next(source.iter_batches(BLOCK_ROWS, row_groups=[0], columns=[name]))
    lengths = batch.column(0).value_lengths().drop_null().to_numpy()
    if not len(lengths) or not lengths.max():
        raise RequestError(f"column {name} holds no vectors in its first {len(batch)} rows")
    return int(np.bincount(lengths).argmax())


def _model(metadata: dict[str, Any]) -> str | None:
    """The model's name by the ``emb`` metadata of the STAC embedding proposal."""
    model = metadata.get("emb", {}).get("model")
    name = model.get("id") or model.get("name") if isinstance(model, dict) else model
    return str(name) if name else None


# --------------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True, kw_only=True)
class _Arrays(Embeddings):
    array: str | None  # name in an .npz or HDF5 file

    @cached_property
    def _vectors(self) -> Any:
        if self.file.suffix.lower() == ".npy":
            return np.load(self.file, mmap_mode="r", allow_pickle=False)
        if self.file.suffix.lower() == ".npz":
            with np.load(self.file, allow_pickle=False) as arrays:
                return arrays[self.array]
        return open_hdf5(self.file)[self.array]

    def blocks(self) -> Iterator[tuple[int, Num[np.ndarray, "rows dim"]]]:
        """See `Embeddings.blocks`."""
        for start in range(0, self.rows, BLOCK_ROWS):
            yield start, np.asarray(self._vectors[start : start + BLOCK_ROWS])


def _arrays(file: Path, embedding: str | None, arrays: dict[str, Any], name: str | None = None) -> Embeddings:
    usual = [one for one in ((embedding,) if embedding else VECTORS) if one in arrays]
    matrices = [one for one, a in arrays.items() if a.ndim == 2 and a.dtype.kind in "fiu" and a.shape[1] > 2]
    name = name if name is not None else next(iter(usual), matrices[0] if len(matrices) == 1 else None)
    if name is None:
        raise RequestError(f"{file} has the arrays {', '.join(arrays)}; name that of the vectors with --embedding")
    vectors = arrays[name]
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise RequestError(f"{file}: {name or 'its array'} is {vectors.shape} {vectors.dtype}; expected N x D numbers")
    rows, dim = vectors.shape
    if not rows:
        raise RequestError(f"{file} has no rows")
    columns: dict[str, Any] = {}
    for other, array in arrays.items():
        if other == name or not array.ndim or len(array) != rows:
            continue
        values = array[()] if isinstance(array, h5py.Dataset) else array
        if values.ndim == 1:
            columns[other] = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
        elif other == "lonlat" and values.shape[1] == 2:
            columns["lon"], columns["lat"] = values.T
        elif other == "labels" and values.ndim == 2:
            columns["labels"] = [[str(k) for k in np.flatnonzero(row)] for row in values]
    frame = pd.DataFrame(columns, index=range(rows))
    return _Arrays(
        file=file, rows=rows, dim=dim, dtype="float16" if vectors.dtype == np.float16 else "float32", columns=frame,
        id_column=next((one for one in IDS if one in frame), None), array=name or None,
    )  # fmt: skip
