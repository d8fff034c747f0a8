"""Checksums beside files that other programs read: ``map.tif.sha256``, in the format of ``sha256sum -c``."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.files import explained, published, sha256_of_file, write_text
from data.problems import Kind, Problem

SUFFIX = ".sha256"


def checksums_of(path: Path) -> Path:
    """The list of checksums beside a file."""
    return path.with_name(path.name + SUFFIX)


@contextmanager
def published_signed(path: Path, beside: Sequence[Path] = ()) -> Iterator[Path]:
    """As `data.files.published`, with a list of checksums.

    The list is published first, so that `verify_signed` reports what a killed command leaves behind.

    Args:
        path: the file.
        beside: other files of the list, in the same folder or below it, published before.
    """
    with published(path) as temporary:
        yield temporary
        digests = {path: sha256_of_file(temporary)} | {one: sha256_of_file(one) for one in beside}
        lines = [f"{digest}  {one.relative_to(path.parent).as_posix()}\n" for one, digest in digests.items()]
        write_text(checksums_of(path), "".join(lines))


def verify_signed(path: Path) -> list[Problem]:
    """Problems of a file that was published with checksums, and of the other files in its list."""
    listing, again = checksums_of(path), "make it again with probe predict --overwrite"
    try:
        rows = [line.split("  ", 1) for line in listing.read_text(encoding="utf-8").splitlines()]
        expected = {path.parent / name: digest for digest, name in rows}
    except (OSError, ValueError):
        expected = {}
    if path not in expected:
        return [Problem(Kind.DAMAGED, listing, f"{listing} is damaged: it has no checksum of {path.name}; {again}")]
    problems = []
    for file, digest in expected.items():
        try:
            if sha256_of_file(file) != digest:
                text = f"{file} does not match its checksum in {listing.name}; {again}"
                problems.append(Problem(Kind.DAMAGED, file, text))
        except FileNotFoundError:
            problems.append(Problem(Kind.MISSING, file, f"{file} is missing; {again}"))
        except OSError as error:
            problems.append(Problem(Kind.UNREADABLE, file, str(explained(error, file))))
        except ValueError:  # a name that no file can have
            problems.append(Problem(Kind.DAMAGED, listing, f"{listing} is damaged; {again}"))
    return problems


def signed_files(places: Collection[Path]) -> list[Path]:
    """Files with a list of checksums: those named, and all in and below the folders; older maps have no list."""
    named = {place for place in places if checksums_of(place).exists()}
    return sorted(named | {found.with_suffix("") for place in places for found in place.rglob(f"*{SUFFIX}")})


def report_signed(files: Iterable[Path]) -> int:
    """Verify files and print what was found; returns how many are damaged."""
    wrong = 0
    for file in files:
        problems = verify_signed(file)
        wrong += bool(problems)
        print("\n".join(map(str, problems)) if problems else f"{file}: good")
    return wrong
