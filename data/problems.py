"""What verification found: one typed entry per problem, put into words where it is shown."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What is wrong with a file."""

    UNREADABLE = "unreadable"  # HDF5, JSON or the disk fails, or nothing answers
    DAMAGED = "damaged"  # not what was written: a checksum or the identity does not match
    MISSING = "missing"
    DUPLICATE_IDS = "duplicate ids"
    NOT_FINITE = "not finite"  # NaN or infinity
    COLLAPSED = "collapsed"  # features that hardly vary


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file."""

    kind: Kind  # what callers act on
    file: Path  # the file or folder
    text: str  # one line for people that names the file

    def __str__(self) -> str:
        return self.text
