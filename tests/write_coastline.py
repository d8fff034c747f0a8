"""Write `analysis/report/coastline.npz` from Natural Earth's 1:110m countries: python -m tests.write_coastline FILE.

FILE is ``ne_110m_admin_0_countries.shp`` (public domain; naturalearthdata.com, Downloads, 1:110m Cultural Vectors) or
any other file of polygons that GDAL reads. Give it again only when the outlines themselves are to change.
"""

import sys
from pathlib import Path

import numpy as np
import pyogrio
import shapely

TARGET = Path(__file__).parent.parent / "analysis" / "report" / "coastline.npz"


def rings(file: Path) -> list[np.ndarray]:
    """The rings of every polygon of a file, (n, 2) longitude and latitude in degrees each."""
    _, _, geometries, _ = pyogrio.raw.read(file, columns=[])
    polygons = shapely.get_parts(shapely.from_wkb(geometries))
    return [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygons)]


def main() -> None:
    """Write hundredths of a degree as int16, which is finer than the outlines are."""
    found = rings(Path(sys.argv[1]))
    points = np.round(np.concatenate(found) * 100).astype(np.int16)
    np.savez_compressed(TARGET, hundredths=points, lengths=np.array([len(ring) for ring in found], np.int32))
    print(f"{TARGET}: {len(found)} rings, {len(points)} points, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
