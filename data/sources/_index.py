"""What takes long to find out about many files, kept in an index while their names, sizes and times stay the same."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from data.archives import cache_folder
from data.cached import array_for, keep_array
from data.command import progress
from data.flags import DatasetRequest
from data.images import read_header
from data.places import lonlat_of


def indexed(
    request: DatasetRequest, stem: str, name: str, digest: str, make: Callable[[], Shaped[np.ndarray, "..."]]
) -> Shaped[np.ndarray, "..."]:
    """An array from its index, or made now and kept there.

    Args:
        request: for ``--cache-dir`` and the data root, beside which the index lies otherwise.
        stem: of the index's file name.
        name: of the array in it.
        digest: of the files that the array is made from.
        make: makes it.
    """
    index = cache_folder(request.root, cache_dir=request.options.cache_dir) / f"{stem}-{digest[:10]}.npz"
    array = array_for(index, name, digest=digest)
    if array is None:
        array = make()
        keep_array(index, name, array, digest=digest)
    return array


def read_centres(files: Sequence[str], where: str) -> Float64[np.ndarray, "files 2"]:
    """Longitude and latitude of the images' centers in degrees; NaN where a dataset has none."""
    headers = []
    with progress("reading locations", len(files), "images") as advance:
        for file in files:
            headers.append(read_header(Path(file)))
            advance(1)
    lonlat = lonlat_of(headers, where=where)
    return np.full((len(files), 2), np.nan) if lonlat is None else lonlat
