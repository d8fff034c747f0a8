"""TIFFs read from their bytes and by GDAL: as rasterio reads them, and damage in bounded time and memory.

All of it: ``python -m tests.bench --only tiff_differential``.
"""

import importlib.util
import itertools
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from made_tiffs import constant, write_tif

from data import tiff, tiff_limits
from data.errors import RequestError
from data.images import read_bands, read_header, read_values

SHARED = Path(os.environ.get("EO_SHARED", Path(__file__).parents[1].parent / "shared"))
FILE = Path(__file__).parent / "bench" / "tiffs.py"
spec = importlib.util.spec_from_file_location("tiffs", FILE)
tiffs = importlib.util.module_from_spec(spec)
sys.modules["tiffs"] = tiffs  # dataclasses look their module up
spec.loader.exec_module(tiffs)


def agreeing(files, *, may_refuse):
    tally = tiffs.differential(files, may_refuse=may_refuse)
    assert tally.disagreements == []
    assert tally.longest_s < tiffs.MOST_SECONDS
    assert tally.largest_mb < tiffs.MOST_MB
    return tally


def test_variants_that_gdal_writes_read_as_by_rasterio():
    tally = agreeing(tiffs.variants(step=41), may_refuse=False)
    assert tally.same > 50


def test_a_changed_byte_gives_the_pixels_that_rasterio_gives_or_a_refusal():
    tally = agreeing(tiffs.mutations(200, seed=1), may_refuse=True)
    assert tally.same > 50
    assert tally.refused > 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data; set EO_SHARED")
def test_real_files_read_as_by_rasterio():
    tally = agreeing(itertools.islice(tiffs.shared_tiffs(SHARED / "data"), 0, None, 12), may_refuse=False)
    assert tally.same > 50


def test_the_comparison_sees_other_pixels_and_other_nodata(tmp_path, monkeypatch):
    files = [("x", tiffs.written(np.arange(192, dtype=np.uint16).reshape(3, 8, 8), nodata=5))]
    right = tiff.pixels_of
    monkeypatch.setattr("data.images.pixels_of", lambda data, layout: right(data, layout) + 1)
    assert len(tiffs.differential(iter(files), may_refuse=False).disagreements) == 1
    monkeypatch.undo()
    monkeypatch.setattr("data.declared._possible", lambda value, dtype: None)
    tiff._KNOWN.clear()
    assert len(tiffs.differential(iter(files), may_refuse=False).disagreements) == 1
    tiff._KNOWN.clear()


def with_tag(content, tag, value):
    """A little-endian TIFF with another first value of a tag that is in its directory."""
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", content, at) == (tag,):
            changed = bytearray(content)
            struct.pack_into("<HII", changed, at + 2, 4, 1, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}, {"compress": "lzw"}, {"compress": "zstd"}])
@pytest.mark.parametrize(("tag", "value"), [(tiff.HEIGHT, 2**31), (tiff.WIDTH, 2**30), (tiff.HEIGHT, 10**7)])
def test_a_damaged_size_is_refused_before_anything_so_large_is_made(tmp_path, options, tag, value):
    write_tif(tmp_path / "x.tif", constant(1, 2, 3, size=8), **options)
    (tmp_path / "x.tif").write_bytes(with_tag((tmp_path / "x.tif").read_bytes(), tag, value))
    found, seconds, megabytes = tiffs._measured(tmp_path / "x.tif")
    assert isinstance(found, RequestError)
    assert "damaged" in str(found)
    assert seconds < tiffs.MOST_SECONDS
    assert megabytes < 64


def test_a_file_whose_blocks_were_never_written_is_read_however_small_it_is(tmp_path):
    about = {"driver": "GTiff", "width": 2048, "height": 2048, "count": 13, "dtype": "uint16", "nodata": 0}
    for name, more in (("strips", {"compress": "deflate"}), ("tiles", {"tiled": True}), ("big", {"BIGTIFF": "YES"})):
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", **about, **more, sparse_ok=True):
            pass
        assert path.stat().st_size < 2**20
        assert read_header(path).count == 13
    ((pixels, invalid),) = read_values(tmp_path / "strips.tif", [3], count=13)
    assert not pixels.any() and invalid is not None and invalid.all()
    path.write_bytes(with_tag((tmp_path / "strips.tif").read_bytes(), tiff.WIDTH, 2**20))
    with pytest.raises(RequestError, match="damaged"):
        read_header(path)


@pytest.mark.parametrize("compress", ["zstd", "lzw"])
def test_a_constant_image_is_read_however_well_it_is_compressed(tmp_path, compress):
    path = tmp_path / "x.tif"
    shape = {"height": 8192, "width": 8192}  # 67 MB
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", **shape, compress=compress, tiled=True,
                       blockxsize=4096, blockysize=4096) as target:  # fmt: skip
        target.write(np.full((1, 8192, 8192), 7, np.uint8))
    assert (read_bands(path, [0], count=1)[0][::512] == 7).all()


def test_a_damaged_tile_is_refused(tmp_path):
    write_tif(tmp_path / "x.tif", constant(1, size=32), tiled=True, blockxsize=16, blockysize=16)
    content = with_tag((tmp_path / "x.tif").read_bytes(), tiff_limits.TILE_WIDTH, 2**24)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(RequestError, match="damaged"):
        read_header(tmp_path / "x.tif")


def test_reversed_bits_are_for_gdal(tmp_path):
    write_tif(tmp_path / "x.tif", constant(1, size=8, dtype=np.uint8))
    plain = (tmp_path / "x.tif").read_bytes()
    assert tiff.plain_tiff(plain) is not None
    content = bytearray((tmp_path / "x.tif").read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    sample = next(at for at in range(start + 2, len(content), 12) if struct.unpack_from("<H", content, at) == (277,))
    rows = next(at for at in range(start + 2, len(content), 12) if struct.unpack_from("<H", content, at) == (273,))
    content[sample : sample + 12] = content[rows : rows + 12]  # one band need not be said: its place is free
    content[rows : rows + 12] = struct.pack("<HHIHH", tiff.FILL_ORDER, 3, 1, 2, 0)
    (tmp_path / "x.tif").write_bytes(content)
    assert tiff.plain_tiff(bytes(content)) is None
    assert (read_bands(tmp_path / "x.tif", [0], count=1)[0] == 128).all()
