"""TIFFs read here and by rasterio."""

from tests.bench.pairs import SHARED
from tests.bench.tiffs import differential, mutations, shared_tiffs, variants

MUTATIONS = 3000


def bench_tiff_differential() -> dict:
    """TIFFs read here and by rasterio: shared data, variants written by GDAL, 3,000 with one byte changed."""
    measured = {}
    if SHARED.is_dir():
        measured["files"] = differential(shared_tiffs(SHARED / "data"), may_refuse=False).told()
    measured["variants"] = differential(variants(), may_refuse=False).told()
    measured["mutations"] = differential(mutations(MUTATIONS), may_refuse=True).told()
    measured["disagreements"] = sum(one["disagreements"] for one in measured.values())
    return measured
