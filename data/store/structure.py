"""Checks of an HDF5 file's structure before anything in it is read.

An untrusted file may refer to other files (external links, external storage, virtual datasets), declare terabytes that
it does not hold, or hold types that create Python objects. This program writes none of these.
"""

import json
import math
from typing import Any

import h5py

PLAIN = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
LARGEST_ITEM = 4096  # bytes of an id
LARGEST_TEXT = 2**26  # bytes of an attribute
MOST_MEMBERS = 1000
DEEPEST = 3
COMPRESSION = 100  # arrays may be this many times as large as the file that holds them


class Unfit(ValueError):
    """The file is damaged, or was not written by this program; the message says why."""


def check_structure(source: Any, *, plain: bool = True) -> dict[str, Any]:
    """Check every member of an open file.

    Args:
        source: the file.
        plain: whether arrays must hold numbers or fixed-length text, as ours do; other programs' files may hold more.

    Returns:
        The arrays by name, such as ``features`` or ``test/scores``.

    Raises:
        Unfit: it holds something that this program never writes.
    """
    arrays: dict[str, Any] = {}
    _walk(source, "", arrays)
    size, total = source.id.get_filesize(), 0
    for name, array in arrays.items():
        check_array(name, array, size, plain=plain)
        total += math.prod(array.shape or ()) * array.dtype.itemsize
    if total > COMPRESSION * size:
        raise Unfit(f"its arrays declare {total:,} bytes, the file has {size:,}")
    return arrays


def _walk(group: Any, prefix: str, arrays: dict[str, Any]) -> None:
    if prefix.count("/") >= DEEPEST or len(group) > MOST_MEMBERS:
        raise Unfit("it has more groups than any file of this kind")
    for name in group:
        path = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Unfit(f"'{path}' is a link; arrays must be in the file itself")
        member = group[name]
        if isinstance(member, h5py.Group):
            _walk(member, f"{path}/", arrays)
        elif isinstance(member, h5py.Dataset):
            arrays[path] = member
        else:
            raise Unfit(f"'{path}' is neither a group nor an array")
        if len(arrays) > MOST_MEMBERS:
            raise Unfit("it has more arrays than any file of this kind")


def array_in(group: Any, name: str) -> Any:
    """One array of an open file or group, checked as by `check_structure`.

    Raises:
        KeyError: absent.
        Unfit: a link, no array, or an array that was never filled or is stored in another file.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Unfit(f"'{name}' is a link; arrays must be in the file itself")
    array = group[name]
    if not isinstance(array, h5py.Dataset):
        raise Unfit(f"'{name}' is no array")
    check_array(name, array, group.file.id.get_filesize(), plain=False)
    return array


def check_array(name: str, array: Any, file_size: int, *, plain: bool = True) -> None:
    """Raise Unfit unless an array is in the file itself, as large as declared, and of a supported type."""
    how = array.id.get_create_plist()
    layout = how.get_layout()
    if layout == h5py.h5d.VIRTUAL or how.get_external_count():
        raise Unfit(f"'{name}' is stored in other files; arrays must be in the file itself")
    kind = array.id.get_type()
    if not plain and not array.shape:
        return
    if plain and (kind.get_class() not in PLAIN or array.dtype.kind not in "iufS"):
        raise Unfit(f"'{name}' holds neither numbers nor text of fixed length")
    shape = array.shape
    if not shape or len(shape) > 4:
        raise Unfit(f"'{name}' has shape {shape}; arrays have one to four dimensions")
    if array.dtype.itemsize > LARGEST_ITEM:
        raise Unfit(f"'{name}' holds text of {array.dtype.itemsize:,} bytes per row; the limit is {LARGEST_ITEM:,}")
    logical = math.prod(shape) * array.dtype.itemsize
    if logical > COMPRESSION * file_size:
        raise Unfit(f"'{name}' declares {logical:,} bytes, the file has {file_size:,}")
    if layout == h5py.h5d.CHUNKED:
        chunks = math.prod(-(-side // chunk) for side, chunk in zip(shape, array.chunks, strict=True))
        if array.id.get_num_chunks() != chunks:
            raise Unfit(f"'{name}' has {array.id.get_num_chunks():,} of its {chunks:,} chunks; it was never filled")
        filtered = how.get_nfilters() > int(array.fletcher32)
        if not filtered and array.id.get_storage_size() < logical:
            raise Unfit(f"'{name}' declares {logical:,} bytes, it holds {array.id.get_storage_size():,}")
        if math.prod(array.chunks) * array.dtype.itemsize > max(2**28, 2 * file_size):
            raise Unfit(f"'{name}' has chunks larger than the file")
    elif layout == h5py.h5d.CONTIGUOUS and logical:
        offset = array.id.get_offset()
        if offset is None or offset + logical > file_size:
            raise Unfit(f"'{name}' declares {logical:,} bytes that the file does not hold")


def read_text(source: Any, name: str) -> str:
    """A string attribute of an open file.

    Raises:
        Unfit: it is missing or no single string.
    """
    if name not in source.attrs:
        raise Unfit(f"it has no attribute '{name}'")
    attribute = source.attrs.get_id(name)
    one_text = attribute.get_type().get_class() == h5py.h5t.STRING and attribute.shape == ()
    if not one_text or attribute.get_storage_size() > LARGEST_TEXT:
        raise Unfit(f"its attribute '{name}' is not a string")
    value = source.attrs[name]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        raise Unfit(f"its attribute '{name}' is not a string")
    return value


def read_json(source: Any, name: str, kind: type) -> Any:
    """A string attribute of an open file that holds JSON of a kind, ``dict`` or ``list``.

    Raises:
        Unfit: it is missing or something else.
    """
    try:
        value = json.loads(read_text(source, name))
    except (ValueError, RecursionError) as error:
        raise Unfit(f"its attribute '{name}' is not readable") from error
    if not isinstance(value, kind):
        raise Unfit(f"its attribute '{name}' is not JSON of a {kind.__name__}")
    return value
