"""Sizes that a TIFF of any kind may declare: GDAL believes them, and one flipped bit costs minutes and gigabytes."""

import struct
from collections.abc import Iterator

from data.tiff import BITS, COMPRESSION, FORMATS, HEIGHT, LENGTHS, OFFSETS, PLANAR, SAMPLES, STRIP_ROWS, WIDTH, Bytes

TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS = 322, 323, 324, 325
# What a file may declare. Deflate shrinks at most 1,032 times and LZW 1,362, and a small file may hold a larger empty
# image. Zstandard shrinks 32,768 times, LZMA 7,000, and of LERC, WebP and JPEG XL a block of one value is a header;
# blocks that were never written need no bytes: for these there is a limit that is not of the file's size.
LARGEST_RATIO, ALWAYS_ALLOWED = 1400, 2**26
LARGEST_SMALL_RATIO, LARGEST_SMALL = 33_000, 2**31
SHRINKS_MORE = {34887, 34925, 34926, 50000, 50001, 50002}


def check_sizes(data: Bytes) -> int:
    """Raise a ValueError if a TIFF of any kind declares more than its bytes can hold.

    Returns:
        Bytes that its values may take.
    """
    entries = dict(_entries(data))
    values = {tag: first for tag, (_, _, first) in entries.items()}
    width, height, count = values.get(WIDTH, 0), values.get(HEIGHT, 0), values.get(SAMPLES, 1)
    bits = values.get(BITS, 1)
    tiled = TILE_WIDTH in values
    across, down = (
        (values[TILE_WIDTH], values.get(TILE_HEIGHT, 0)) if tiled else (width, values.get(STRIP_ROWS, height))
    )
    down = down if tiled else min(down, height)
    if not (across and down and width and height):
        raise ValueError("its directory is damaged: it declares an image or a block without pixels")
    planes = count if values.get(PLANAR) == 2 else 1
    blocks = -(-width // across) * -(-height // down) * planes
    offsets, lengths = (TILE_OFFSETS, TILE_LENGTHS) if tiled else (OFFSETS, LENGTHS)
    allowed = max(ALWAYS_ALLOWED, LARGEST_RATIO * len(data))
    if _never_written(data, entries, blocks, offsets, lengths):
        allowed = max(allowed, LARGEST_SMALL)
    elif values.get(COMPRESSION) in SHRINKS_MORE:
        allowed = max(allowed, min(LARGEST_SMALL, LARGEST_SMALL_RATIO * len(data)))
    check_declared(width, height, count, -(-bits // 8), len(data), allowed)
    check_declared(across, down, count // planes, -(-bits // 8), len(data), allowed)
    listed = entries[offsets][0] if offsets in entries else 0
    if 0 < listed < blocks:
        raise ValueError(
            f"its directory is damaged: it lists {listed:,} blocks of pixels where {blocks:,} make the image"
        )
    return allowed


def _never_written(data: Bytes, entries: dict[int, tuple[int, tuple[int, int], int]], blocks: int, *lists: int) -> bool:
    """Whether a sparse file's block lists have the length its image needs, and contain only zeros."""
    for tag in lists:
        listed, (start, stop), _ = entries.get(tag, (0, (0, 0), 0))
        if listed != blocks or stop > len(data) or any(data[start:stop]):
            return False
    return True


def check_declared(
    width: int, height: int, count: int, value_bytes: int, size: int, allowed: int = ALWAYS_ALLOWED
) -> None:
    """Raise a ValueError if a file of this size cannot contain that many values."""
    declared = width * height * count * value_bytes
    if declared > max(allowed, LARGEST_RATIO * size):
        raise ValueError(
            f"it declares {width:,} x {height:,} pixels of {count:,} bands, {declared / 1e9:,.1f} GB, in a file of "
            f"{size:,} bytes: its directory is damaged"
        )


def _entries(data: Bytes) -> Iterator[tuple[int, tuple[int, tuple[int, int], int]]]:
    """Count, offsets and first value of each tag of the first image, of any TIFF, sound or damaged."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    head, entry, word = (f"{order}Q", f"{order}HHQ", 8) if big else (f"{order}H", f"{order}HHI", 4)
    pointer = f"{order}Q" if big else f"{order}I"
    try:
        (start,) = struct.unpack_from(pointer, data, 8 if big else 4)
        (number,) = struct.unpack_from(head, data, start)
        step, first = (20, 8) if big else (12, 2)
        for at in range(start + first, start + first + step * min(number, 4096), step):
            tag, kind, count = struct.unpack_from(entry, data, at)
            if kind not in (1, 3, 4, 16) or not count:
                continue
            form = f"{order}{FORMATS[kind]}"
            value = at + 4 + word
            if (size := struct.calcsize(form) * count) > word:
                (value,) = struct.unpack_from(pointer, data, value)
            yield tag, (count, (value, value + size), struct.unpack_from(form, data, value)[0])
    except struct.error:
        return  # GDAL reports what is wrong
