"""Spectral bands: the Sentinel-1 and Sentinel-2 tables, plain colors, and named band sets."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import RequestError, unknown


@dataclass(frozen=True)
class Band:
    """One band of an image.

    Args:
        name: unique within a dataset, such as ``B04``, ``VV`` or ``red``.
        sensor: ``S2``, ``S1``, ``RGB`` (an 8-bit picture) or ``other`` (described by the user).
        wavelength_um: physical center wavelength in micrometers; None if unknown. A model trained with other
            wavelengths has its own table.
        gsd_m: ground sampling distance in meters; None if unknown.
        colour: ``red``, ``green``, ``blue`` where the band is one of them.
    """

    name: str
    sensor: str
    wavelength_um: float | None = None
    gsd_m: float | None = None
    colour: str | None = None


# ESA's Sentinel-2 user handbook: center wavelengths (DOFA's, Xiong et al. 2024, arXiv:2403.15356) and resolutions.
SENTINEL2 = {
    band.name: band
    for band in (
        Band("B01", "S2", 0.443, 60),
        Band("B02", "S2", 0.490, 10, "blue"),
        Band("B03", "S2", 0.560, 10, "green"),
        Band("B04", "S2", 0.665, 10, "red"),
        Band("B05", "S2", 0.705, 20),
        Band("B06", "S2", 0.740, 20),
        Band("B07", "S2", 0.783, 20),
        Band("B08", "S2", 0.842, 10),
        Band("B8A", "S2", 0.865, 20),
        Band("B09", "S2", 0.945, 60),
        Band("B10", "S2", 1.375, 60),
        Band("B11", "S2", 1.610, 20),
        Band("B12", "S2", 2.190, 20),
    )
}
# Sentinel-1 is a C band radar of 5.405 GHz, and the speed of light 299.79 m/us: 5.5466 cm.
SENTINEL1 = {band.name: band for band in (Band("VV", "S1", 55_466.0, 10), Band("VH", "S1", 55_466.0, 10))}
RGB = {
    band.name: band
    for band in (
        Band("red", "RGB", 0.665, None, "red"),
        Band("green", "RGB", 0.560, None, "green"),
        Band("blue", "RGB", 0.490, None, "blue"),
    )
}
KNOWN = SENTINEL2 | SENTINEL1 | RGB

# DOFA was pretrained with the nine bands of s2-9 and loses accuracy with all (DOFA paper, section 3).
BAND_SETS = {
    "rgb": ("red", "green", "blue"),
    "s2-9": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"),
    "s2-10": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    "s2-12": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "s2-13": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "s1": ("VV", "VH"),
}
BAND_SETS["s1s2"] = BAND_SETS["s1"] + BAND_SETS["s2-12"]


def known_band(name: str | None) -> Band | None:
    """The Sentinel band or color of a name; files, folders, tables and flags all use this rule.

    Any case, with or without the zero, with or without a resolution: ``B02``, ``b2``, ``B8a``, ``vv``, ``Red``,
    ``B02_10m``. None for any other name.
    """
    word = re.sub(r"_\d+m$", "", (name or "").strip().lower())
    if match := re.fullmatch(r"b0?(\d\d?)(a?)", word):
        word = f"B{match[1]}A" if match[2] else f"B{int(match[1]):02}"
    return KNOWN.get(word.upper()) or KNOWN.get(word)


def band_of_file(name: str, declared: Sequence[Band] = ()) -> Band | None:
    """The band that a file of one band holds: its name ends in ``<BAND>.tif`` or ``<BAND>_10m.tif``.

    Anything may come before it, separated by ``_``, ``.`` or ``-``: ``B02.tif``, ``patch_1_B2.TIF``,
    ``tile.b8a_20m.tiff``. None if the name does not end in a band's.
    """
    stem = name.rpartition(".")[0] or name
    for band in sorted(declared, key=lambda band: -len(band.name)):
        if re.search(rf"(^|[_.-]){re.escape(band.name)}(_\d+m)?$", stem, re.IGNORECASE):
            return band
    match = re.search(r"([^_.-]+)(_\d+m)?$", stem, re.IGNORECASE)
    return known_band(match[1]) if match else None


def choose_bands(available: Sequence[Band], spec: str, *, where: str = "this dataset") -> tuple[Band, ...]:
    """Choose bands by the name of a set, ``all``, or a comma-separated list, in the requested order.

    Args:
        available: the dataset's bands.
        spec: ``rgb``, ``s2-9``, ``all``, ``B04,b8``... Colors also find the band of that color.
        where: name of the dataset in error messages.
    """
    if spec == "all":
        return tuple(available)
    by_name = {band.colour: band for band in available if band.colour} | {band.name: band for band in available}
    wanted = BAND_SETS.get(spec) or tuple(part.strip() for part in spec.split(","))
    known = {name: band.name for name in wanted if name not in by_name and (band := known_band(name))}
    wanted = [known[name] if known.get(name) in by_name else name for name in wanted]
    absent = [name for name in wanted if name not in by_name]
    if absent and len(wanted) == 1:
        raise unknown("band or band set", spec, ["all", *BAND_SETS, *(band.name for band in available)])
    if absent:
        have = ", ".join(band.name for band in available)
        raise RequestError(f"--bands {spec}: {where} has no {', '.join(absent)}; it has {have}")
    chosen = tuple(by_name[name] for name in wanted)
    if len(set(chosen)) < len(chosen):
        raise RequestError(f"--bands {spec}: a band is named twice; name each band once")
    return chosen


def shown_bands(bands: Sequence[Band]) -> list[Band]:
    """Bands of a picture: red, green and blue where there are all three, else the first band as gray."""
    by_colour = {band.colour: band for band in bands}
    colours = BAND_SETS["rgb"]
    return [by_colour[colour] for colour in colours] if by_colour.keys() >= set(colours) else [bands[0]]


def require_bands(model: str, bands: Sequence[Band], wanted: Sequence[str]) -> None:
    """Raise a RequestError unless the bands are the wanted ones, in order; it names the difference."""
    names = [band.name for band in bands]
    if absent := [name for name in wanted if name not in names]:
        raise RequestError(
            f"{model} needs {', '.join(absent)}, which it was trained with; it takes {', '.join(wanted)}"
        )
    if foreign := [name for name in names if name not in wanted]:
        raise RequestError(f"{model} does not take {', '.join(foreign)}; it takes {', '.join(wanted)}")
    if names != list(wanted):
        raise RequestError(f"{model} takes its bands in the order {','.join(wanted)}; pass --bands in that order")


def require_whole_groups(model: str, bands: Sequence[Band], groups: Iterable[Sequence[str]]) -> None:
    """Raise a RequestError unless the bands are complete groups of the model; it names the difference."""
    names, groups = [band.name for band in bands], list(groups)
    known = [name for members in groups for name in members]
    if foreign := [name for name in names if name not in known]:
        raise RequestError(f"{model} does not take {', '.join(foreign)}; it takes {', '.join(known)}")
    for members in groups:
        absent = [name for name in members if name not in names]
        if absent and len(absent) < len(members):
            raise RequestError(
                f"{model} takes {', '.join(members)} together or not at all; missing: {', '.join(absent)}"
            )


def name_bands(bands: Sequence[Band]) -> str:
    """Short readable name of the chosen bands for folder names: the name of a set, else the joined names."""
    names = tuple(band.name for band in bands)
    colours = tuple(band.colour for band in bands)
    for set_name, members in BAND_SETS.items():
        if names == members or (set_name == "rgb" and colours == members):
            return set_name
    return "+".join(names) if len(names) <= 4 else f"{len(names)}bands"


def declared_bands(file: Path) -> tuple[Band, ...]:
    """Bands named in a file ``dataset.json``, in order; none without that file.

    Raises:
        RequestError: it cannot be read, or names no band, an unknown one, or one twice.
    """
    if not file.exists():
        return ()
    form = 'expected {"bands": ["B02", "B03", {"name": "nir", "wavelength_um": 0.842}]}'
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["bands"]
        bands = tuple(_declared_band(entry, file) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"cannot read bands from {file} ({error}); {form}") from error
    if not bands or len({band.name for band in bands}) < len(bands):
        raise RequestError(f"{file} names no band, or one twice; {form}")
    return bands


def _declared_band(entry: str | dict, file: Path) -> Band:
    if isinstance(entry, dict):
        return Band(entry["name"], "other", entry.get("wavelength_um"), entry.get("gsd_m"), entry.get("colour"))
    if (band := known_band(entry)) is None:
        raise RequestError(
            f"{file}: unknown band '{entry}'; known are {', '.join(KNOWN)}; describe another as "
            f'{{"name": "{entry}", "wavelength_um": ...}}'
        )
    return band
