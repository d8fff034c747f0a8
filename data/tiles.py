"""Sentinel-2's tiles on the map: where a tile of a given name lies."""

from functools import cache

# Letters of the Military Grid Reference System, which has no I and no O (NGA.STND.0037).
LATITUDE_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # 8 degrees each, from 80 degrees south
COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")  # of 100 km, from 100 km east, by the zone's number modulo 3
ROWS = "ABCDEFGHJKLMNPQRSTUV"  # of 100 km, from the equator; even zones begin five letters later
ROWS_REPEAT_M = 2_000_000
PIXEL_GRID_M = 60  # tiles begin on the grid of the coarsest band


@cache
def tile_corner(tile: str) -> tuple[str, int, int] | None:
    """Upper left corner of a tile of the northern hemisphere.

    Each tile covers a 100 km square of the grid, and begins at the point of the 60 m grid that is next to the
    square's upper left corner on the outside.

    Args:
        tile: such as ``33UUP``.

    Returns:
        (coordinate system, easting, northing) such as ``("EPSG:32633", 300000, 5400000)``, in meters; None for what
        is no such name.
    """
    zone, band, column, row = tile[:-3], tile[-3:-2], tile[-2:-1], tile[-1:]
    if not zone.isdecimal() or not 1 <= int(zone) <= 60 or band not in LATITUDE_BANDS[10:] or not band:
        return None
    columns = COLUMNS[int(zone) % 3]
    if not column or column not in columns or not row or row not in ROWS:
        return None
    left = (columns.index(column) + 1) * 100_000
    top = ((ROWS.index(row) - (0 if int(zone) % 2 else 5)) % len(ROWS) + 1) * 100_000
    south = (LATITUDE_BANDS.index(band) - 10) * 8 * 110_500  # meters per degree, rounded down
    while top < south:
        top += ROWS_REPEAT_M
    return f"EPSG:{32600 + int(zone)}", left // PIXEL_GRID_M * PIXEL_GRID_M, -(-top // PIXEL_GRID_M) * PIXEL_GRID_M
