"""How the samples of a user's folder hold their bands: band names and types, the same for all."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.bands import KNOWN, RGB, Band, band_of_file, declared_bands, known_band
from data.class_folders import FOREIGN
from data.declared import Header
from data.errors import RequestError
from data.images import PICTURES, SUFFIXES, read_header

BANDS_FILE = "dataset.json"


@dataclass(frozen=True)
class BandLayout:
    """How the samples of a folder hold their bands; the same for all."""

    bands: tuple[Band, ...]  # the bands, in file order
    first: Path  # the sample that the others must match
    header: Header | None  # its header; None where a sample is a folder of single-band TIFFs
    alpha: bool  # whether the fourth channel of an RGBA picture is one of the bands
    declared: bool  # whether dataset.json names the bands: other files may then lie beside them

    def is_picture(self, path: str) -> bool:
        """Whether a sample is a picture of 8 bits by its name, which has nothing to declare."""
        header = self.header
        plain = header is not None and header.dtype == "uint8" and not any(header.names)
        return plain and os.path.splitext(path)[1].lower() in PICTURES


def layout_of(root: Path, first: str) -> BandLayout:
    declared = declared_bands(root / BANDS_FILE)
    path = root / first
    if path.is_dir():
        found = band_files(path, (), os.listdir(path)) if not declared else ()
        if not declared and not found:
            raise RequestError(f"{path} holds no <anything>_<BAND>.tif of a known band; known are {', '.join(KNOWN)}")
        bands = declared or tuple(band for band in KNOWN.values() if band.name in found)
        return BandLayout(bands, path, None, alpha=False, declared=bool(declared))
    alpha = len(declared) == 4
    header = read_header(path, alpha=alpha)
    if declared and len(declared) != header.count:
        raise RequestError(
            f"{root / BANDS_FILE} names {len(declared)} bands but {path} has {header.count}; name every band, in "
            "file order"
        )
    bands = declared or _bands_of_file(path, header)
    _check_type(path, header, bands)
    return BandLayout(bands, path, header, alpha, declared=bool(declared))


def _check_type(path: Path, header: Header, bands: Sequence[Band]) -> None:
    """Raise a RequestError where the type of the values cannot be that of the bands: encoders scale by the band."""
    eight_bit = header.read_as == "uint8"
    wrong = [band.name for band in bands if eight_bit == (band.sensor in ("S2", "S1")) and band.sensor != "other"]
    if wrong:
        fits = "name them red, green, blue" if eight_bit else "name Sentinel-2 bands B04, B03, B02 in file order"
        raise RequestError(
            f"{path} has {header.read_as} values, which {', '.join(wrong)} cannot have; {fits} in {BANDS_FILE}, or "
            'describe others as {"name": ..., "wavelength_um": ...}'
        )


def _bands_of_file(path: Path, header: Header) -> tuple[Band, ...]:
    bands = [band for band in map(known_band, header.names) if band]
    if len(set(bands)) == header.count:
        return tuple(bands)
    if not bands and header.count == 3 and header.dtype == "uint8":
        return tuple(RGB.values())
    names = ", ".join(name or "unnamed" for name in header.names)
    raise RequestError(
        f"unknown bands in {path} ({header.count} of {header.dtype}: {names}); name them in "
        f'{BANDS_FILE} beside the images, in file order: {{"bands": ["B02", "B03", ...]}}'
    )


def files_of(folder: Path, layout: BandLayout, names: Iterable[str] | None = None) -> dict[str, Path]:
    """File of each band of the layout in a folder of single-band images, which must match the first."""
    found = band_files(folder, layout.bands, os.listdir(folder) if names is None else names)
    names = [band.name for band in layout.bands]
    if absent := [name for name in names if name not in found]:
        raise RequestError(
            f"{folder} holds 0 files *_{absent[0]}.tif, expected 1 as in {layout.first}; restore it or drop the folder"
        )
    more = [name for name in found if name not in names]
    if more and not layout.declared:
        raise RequestError(
            f"{found[more[0]]} is of a band that {layout.first} does not have; all images need the same bands: "
            f"remove it, or name the bands to read in {BANDS_FILE}"
        )
    return {name: found[name] for name in names}


def band_files(folder: Path, declared: Sequence[Band], names: Iterable[str]) -> dict[str, Path]:
    """File of each band in a folder of single-band images, by the band's name."""
    found: dict[str, Path] = {}
    for name in sorted(names):
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or suffix not in (*SUFFIXES, *FOREIGN):
            continue
        if suffix in FOREIGN:
            raise RequestError(f"{folder / name} has an unsupported format; convert it to TIFF or move it away")
        if (band := band_of_file(name, declared)) is None:
            raise RequestError(
                f"{folder / name} matches no band; name it <anything>_<BAND>{suffix} with one of {', '.join(KNOWN)}, "
                f"name its band in {BANDS_FILE}, or move it away"
            )
        if band.name in found:
            raise RequestError(f"{folder} holds two files of {band.name}: {found[band.name].name}, {name}; keep one")
        found[band.name] = folder / name
    return found


def check_like(path: Path, header: Header, layout: BandLayout) -> None:
    first = layout.header
    assert first is not None
    if (header.count, header.dtype, header.names) != (first.count, first.dtype, first.names):
        raise RequestError(
            f"{path} has {_described(header)}, but {layout.first} has {_described(first)}; all images must have the "
            "same bands: convert or remove it"
        )


def _described(header: Header) -> str:
    names = ", ".join(name for name in header.names if name)
    return f"{header.count} bands of {header.dtype}" + (f" ({names})" if names else "")
