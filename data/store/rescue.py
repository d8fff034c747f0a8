"""Damaged feature files: the sound rows kept as finished parts."""

from pathlib import Path

from data.store.contained import Damaged, inspected
from data.store.reader import open_hdf5
from data.store.writer import FeatureWriter


def salvage(file: Path) -> tuple[int, int]:
    """Take what is sound of a damaged feature file as finished parts, so that featurize makes only the rest again.

    Rows are told sound by the checksum that HDF5 keeps of each chunk; the damaged file stays until it is replaced.
    Parts of the same identity that are finished already, such as those of a repair that was killed, are kept.

    Args:
        file: a feature file in which `verify` found damage.

    Returns:
        Rows kept, and rows in all.

    Raises:
        RequestError: the file does not even say what it holds, or another process is writing it.
    """
    again = "give its featurize command again with --overwrite"
    try:
        found = inspected(file, "sound")
    except Damaged as error:
        raise Damaged(f"{error}; it is too damaged to repair: {again}") from error
    rows, sound = found["rows"], {tuple(bounds) for bounds in found["sound"]}
    size = {"rows": rows, "dim": found["dim"], "dtype": found["dtype"], "part_rows": found["step"]}
    with FeatureWriter(file, found["identity"], **size, overwrite=True) as writer, open_hdf5(file) as source:
        known = found["sources"] and "sources" in source  # a damaged record of the images counts as none
        for part in writer.missing():
            start, stop = writer.bounds(part)
            if any(first <= start and stop <= last for first, last in sound):
                made_from = source["sources"][start:stop] if known else None
                writer.write_part(part, source["features"][start:stop], made_from)  # read by the child without harm
        return rows - sum(stop - start for start, stop in map(writer.bounds, writer.missing())), rows
