"""Archives are unpacked once, whole or not at all, into a folder that says what it was made from."""

import errno
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from data import archives, extraction
from data.errors import RequestError


@pytest.fixture(autouse=True)
def own_user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    return make_zip(tmp_path / "data" / "Tiny.zip", {"a/1.txt": b"one", "a/2.txt": b"two" * 1000})


def folders_beside(archive):
    return sorted(path.name for path in archive.parent.iterdir() if path.is_dir())


def test_unpacks_beside_the_archive_and_only_once(archive, monkeypatch):
    folder = archives.unpacked(archive, cache_dir=None)
    assert folder.parent == archive.parent
    assert (folder / "a" / "1.txt").read_bytes() == b"one"
    monkeypatch.setattr(archives, "_unpack", None)  # a second unpacking would call None
    assert archives.unpacked(archive, cache_dir=None) == folder


def test_cache_dir_is_used_and_made(archive, tmp_path):
    folder = archives.unpacked(archive, cache_dir=tmp_path / "deep" / "cache")
    assert folder.parent == tmp_path / "deep" / "cache"
    assert folders_beside(archive) == []


def test_another_archive_of_the_same_name_is_another_folder(archive):
    first = archives.unpacked(archive, cache_dir=None)
    make_zip(archive, {"a/1.txt": b"changed"})
    second = archives.unpacked(archive, cache_dir=None)
    assert second != first
    assert (second / "a" / "1.txt").read_bytes() == b"changed"


def test_read_only_folder_falls_back_to_the_users_cache_and_says_so(archive, tmp_path, capsys):
    archive.parent.chmod(0o555)
    folder = archives.unpacked(archive, cache_dir=None)
    archive.parent.chmod(0o755)
    assert folder.parent == tmp_path / "xdg" / "frozen-earth"
    (line,) = capsys.readouterr().err.splitlines()
    assert "is read-only: unpacking Tiny.zip into" in line
    assert folders_beside(archive) == []


def test_nowhere_to_write_names_cache_dir(archive, tmp_path, monkeypatch):
    (tmp_path / "xdg").write_text("a file where the cache folder should be")
    archive.parent.chmod(0o555)
    with pytest.raises(RequestError, match="--cache-dir"):
        archives.unpacked(archive, cache_dir=None)
    archive.parent.chmod(0o755)


def test_kill_in_the_middle_leaves_nothing_that_looks_whole(archive):
    killed = (
        "import os\n"
        "from pathlib import Path\n"
        "from data import archives, extraction\n"
        "real = extraction.write_file\n"
        "def write(file, content, mtime):\n"
        "    if file.name == '2.txt': os._exit(9)\n"  # as a SIGKILL: no clean-up runs
        "    return real(file, content, mtime)\n"
        "extraction.write_file = write\n"
        f"archives.unpacked(Path({str(archive)!r}), cache_dir=None)\n"
    )
    project = Path(archives.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", killed], cwd=project).returncode == 9
    (leftover,) = folders_beside(archive)
    assert ".tmp-" in leftover
    folder = archives.unpacked(archive, cache_dir=None)
    assert (folder / "a" / "2.txt").read_bytes() == b"two" * 1000
    assert folders_beside(archive) == [folder.name]  # and the leftover is gone


def test_two_processes_at_once_both_get_the_whole_folder(archive):
    code = (
        "from pathlib import Path; from data import archives\n"
        f"print((archives.unpacked(Path({str(archive)!r}), cache_dir=None) / 'a' / '2.txt').stat().st_size)"
    )
    project = Path(archives.__file__).parents[1]
    runs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [run.communicate()[0].strip() for run in runs] == ["3000"] * 4
    assert len(folders_beside(archive)) == 1


def test_an_archive_is_unpacked_on_a_disk_without_hard_links(archive, monkeypatch):
    def no_links(*_):
        raise OSError(errno.ENOTSUP, "no hard links")

    monkeypatch.setattr(os, "link", no_links)
    folder = archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == [folder.name]


@pytest.mark.parametrize("keep", [0, 100, 0.9])
def test_truncated_archive_is_refused(archive, keep):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(RequestError, match="Tiny.zip is damaged or incomplete"):
        archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == []


def test_flipped_byte_is_refused(archive):
    content = bytearray(archive.read_bytes())
    content[content.index(b"a/1.txt") + len("a/1.txt")] ^= 0xFF  # first byte of the member's data
    archive.write_bytes(content)
    with pytest.raises(RequestError, match="is damaged or incomplete"):
        archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == []


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_path_out_of_the_folder_is_refused(tmp_path, name):
    archive = make_zip(tmp_path / "data" / "Bad.zip", {"good.txt": b"", name: b"bad"})
    with pytest.raises(RequestError, match="unsafe path"):
        archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == []


def test_link_in_the_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "Link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(RequestError, match="unsafe path 'link'"):
        archives.unpacked(path, cache_dir=None)


def test_too_little_space_is_found_before_unpacking(archive, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(RequestError, match=r"no space left .* to unpack Tiny.zip, which needs .* --cache-dir"):
        archives.unpacked(archive, cache_dir=None)


def test_disk_that_fills_up_is_a_request_error(archive, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extraction, "write_file", full)
    with pytest.raises(RequestError, match="no space left .* --cache-dir"):
        archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == []


def test_foreign_folder_in_the_way_is_not_taken_for_ours(archive):
    folder = archives.unpacked(archive, cache_dir=None)
    (folder / archives.MARKER).unlink()
    with pytest.raises(RequestError, match="was not unpacked by this program"):
        archives.unpacked(archive, cache_dir=None)


def test_failed_download_names_the_address_and_the_place(tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(downloads, "download_url", unreachable)
    with pytest.raises(RequestError, match=r"cannot download https://example.org/x/Tiny.zip .* put it at .*Tiny.zip"):
        archives.fetched("https://example.org/x/Tiny.zip", tmp_path, sha256="0" * 64)


def test_download_with_a_wrong_checksum_is_removed(tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    def wrong(url, root, **_):
        (root / "Tiny.zip").write_bytes(b"not it")
        raise RuntimeError("checksum does not match")

    monkeypatch.setattr(downloads, "download_url", wrong)
    with pytest.raises(RequestError, match="checksum does not match"):
        archives.fetched("https://example.org/Tiny.zip", tmp_path, sha256="0" * 64)
    assert not (tmp_path / "Tiny.zip").exists()


def test_present_file_is_not_downloaded_again(tmp_path, monkeypatch):
    (tmp_path / "Tiny.zip").write_bytes(b"mine")
    monkeypatch.setitem(sys.modules, "torchgeo.datasets.utils", None)  # importing it would fail
    assert archives.fetched("https://example.org/Tiny.zip", tmp_path).read_bytes() == b"mine"


def test_unpacked_again_the_files_have_the_same_time(archive, tmp_path):
    one, two = (archives.unpacked(archive, cache_dir=tmp_path / name) / "a" / "1.txt" for name in ("one", "two"))
    assert one.stat().st_mtime_ns == two.stat().st_mtime_ns


def test_a_zip_without_dates_is_unpacked(tmp_path):
    """Programs that know no time write zeros, which no month or day is."""
    with zipfile.ZipFile(tmp_path / "Tiny.zip", "w") as archive:
        for name in ("nothing.txt", "month.txt"):
            archive.writestr(zipfile.ZipInfo(name), name)
    content = (tmp_path / "Tiny.zip").read_bytes()
    # 1 January 1980 is 0x21 in DOS's words: day 0 of month 0, and then the 31st of month 15
    (tmp_path / "Tiny.zip").write_bytes(content.replace(b"\0\0\x21\0", b"\0\0\0\0"))
    folder = archives.unpacked(tmp_path / "Tiny.zip", cache_dir=None)
    assert (folder / "month.txt").read_text() == "month.txt"
    assert time.gmtime((folder / "nothing.txt").stat().st_mtime)[:3] == (1980, 1, 1)
    (tmp_path / "Late.zip").write_bytes(content.replace(b"\0\0\x21\0", b"\0\0\xff\x01"))
    assert (archives.unpacked(tmp_path / "Late.zip", cache_dir=None) / "month.txt").is_file()


# --- tar


def make_tar(path: Path, members: dict[str, bytes], *, kind: str = "gz") -> Path:
    """A tar file compressed by gzip or Zstandard, its members' time the year 2001."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "gz" else "w:") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_000_000_000
            archive.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    if kind == "zst":
        import pyarrow

        content = pyarrow.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


NOISE = b"".join(bytes([n * n * n % 251]) for n in range(50_000))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_tar_is_unpacked_with_its_times(tmp_path, kind):
    archive = make_tar(tmp_path / f"Tiny.tar.{kind}", {"a/1.txt": b"one", "a/b/2.bin": NOISE}, kind=kind)
    folder = archives.unpacked(archive, cache_dir=None)
    assert (folder / "a" / "1.txt").read_bytes() == b"one"
    assert (folder / "a" / "b" / "2.bin").read_bytes() == NOISE
    assert (folder / "a" / "1.txt").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize("mtime", ["1e30", "nan", "-1e300"])
def test_a_tar_with_a_time_that_no_disk_keeps_is_unpacked_alike_each_time(tmp_path, mtime):
    with tarfile.open(tmp_path / "Tiny.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("1.txt")
        member.size, member.pax_headers = 3, {"mtime": mtime}
        archive.addfile(member, io.BytesIO(b"one"))
    one, two = (archives.unpacked(tmp_path / "Tiny.tar.gz", cache_dir=tmp_path / n) / "1.txt" for n in ("a", "b"))
    assert one.read_bytes() == b"one"
    assert one.stat().st_mtime_ns == two.stat().st_mtime_ns


def cut(archive: Path, *, at: int) -> tuple[Path, Path]:
    """The archive cut in two, as torchgeo serves BigEarthNet."""
    content = archive.read_bytes()
    parts = archive.with_name(f"{archive.name}aa"), archive.with_name(f"{archive.name}ab")
    parts[0].write_bytes(content[:at])
    parts[1].write_bytes(content[at:])
    archive.unlink()
    return parts


def test_tar_cut_into_parts_is_read_as_one(tmp_path):
    first, second = cut(make_tar(tmp_path / "Tiny.tar.gz", {"a/1.txt": b"one", "2.bin": NOISE}), at=100)
    folder = archives.unpacked(first, more=[second], cache_dir=None)
    assert (folder / "2.bin").read_bytes() == NOISE
    assert archives.unpacked(first, more=[second], cache_dir=None) == folder
    second.write_bytes(second.read_bytes())  # another time of change
    assert archives.unpacked(first, more=[second], cache_dir=None) != folder


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_tar_without_its_last_part_is_damaged(tmp_path, kind):
    archive = make_tar(tmp_path / f"Tiny.tar.{kind}", {"a/1.txt": b"one", "2.bin": NOISE}, kind=kind)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(RequestError, match=r"Tiny.tar.* is damaged or incomplete"):
        archives.unpacked(archive, cache_dir=None)
    assert folders_beside(archive) == []


def test_tar_with_one_wrong_byte_is_damaged(tmp_path):
    archive = make_tar(tmp_path / "Tiny.tar.gz", {"2.bin": NOISE})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    with pytest.raises(RequestError, match="is damaged or incomplete"):
        archives.unpacked(archive, cache_dir=None)


@pytest.mark.parametrize("name", ["../evil.txt", "folder/../../evil.txt"])
def test_tar_cannot_write_outside_its_folder(tmp_path, name):
    archive = make_tar(tmp_path / "data" / "Tiny.tar.gz", {"good.txt": b"", name: b""})
    with pytest.raises(RequestError, match="unsafe path"):
        archives.unpacked(archive, cache_dir=None)
    assert not (tmp_path / "evil.txt").exists()
    assert folders_beside(archive) == []


# --- hostile archives


def make_hostile_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, *, to: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, to, size
    return made


def deep_links() -> list[tarfile.TarInfo]:
    """The way out of CVE-2025-4517: links whose real path is longer than realpath resolves, then one that climbs."""
    members, folder = [], "d" * 247
    for number in range(16):
        at = "/".join([folder] * number)
        members += [member(f"{at}/{folder}".lstrip("/"), tarfile.DIRTYPE)]
        members += [member(f"{at}/l{number}".lstrip("/"), tarfile.SYMTYPE, to=folder)]
    links = "/".join(f"l{number}" for number in range(16))
    return [*members, member(f"{links}/x", tarfile.SYMTYPE, to="../" * 16), member(f"{links}/x/evil.txt")]


HOSTILE = {
    "link": [member("link", tarfile.SYMTYPE, to="/etc"), member("link/evil.txt")],
    "link that stays inside": [member("a.txt"), member("link", tarfile.SYMTYPE, to="a.txt")],
    "hard link": [member("link", tarfile.LNKTYPE, to="/etc/passwd")],
    "hard link to a link": [member("a", tarfile.SYMTYPE, to=".."), member("b", tarfile.LNKTYPE, to="a")],
    "links with long paths": deep_links(),
    "device": [member("null", tarfile.CHRTYPE)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
    "absolute": [member("/tmp/evil.txt")],
    "long name": [member("n" * 256)],
    "long path": [member("/".join(["n" * 200] * 8))],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_tar_with_anything_but_files_and_folders_inside_is_refused(tmp_path, members):
    archive = make_hostile_tar(tmp_path / "Bad.tar.gz", *members)
    with pytest.raises(RequestError, match="holds the unsafe path"):
        archives.unpacked(archive, cache_dir=tmp_path / "cache")
    assert folders_beside(tmp_path / "cache" / "x") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Bad.tar.gz",
        "cache",
        *(["xdg"] * (tmp_path / "xdg").exists()),
    ]


def test_file_and_folder_of_one_name_are_one_line(tmp_path):
    archive = make_hostile_tar(tmp_path / "Bad.tar.gz", member("a"), member("a/b"))
    with pytest.raises(RequestError, match="Bad.tar"):
        archives.unpacked(archive, cache_dir=tmp_path / "cache")


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(extraction, "ALWAYS_BYTES", 100_000)
    monkeypatch.setattr(extraction, "MOST_TIMES", 2)
    monkeypatch.setattr(extraction, "MOST_FILES", 50)


BOMBS = {
    "large tar": lambda path: make_hostile_tar(path / "Bomb.tar.gz", member("zeros", size=200_000)),
    "many files in a tar": lambda path: make_hostile_tar(path / "Bomb.tar.gz", *(member(str(n)) for n in range(60))),
    "large zip": lambda path: make_zip(path / "Bomb.zip", {"zeros": bytes(200_000)}),
    "many files in a zip": lambda path: make_zip(path / "Bomb.zip", {str(n): b"" for n in range(60)}),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_archives_that_unpack_to_too_much_are_refused(tmp_path, small_limits, make):
    archive = make(tmp_path)
    with pytest.raises(RequestError, match="unpacks to .*more than any known dataset of its size"):
        archives.unpacked(archive, cache_dir=tmp_path / "cache")
    assert folders_beside(tmp_path / "cache" / "x") == []


def test_zeros_without_end_behind_a_tar_are_not_read_to_their_end(tmp_path, small_limits):
    archive = make_hostile_tar(tmp_path / "Bomb.tar.gz", member("a", size=10))
    archive.write_bytes(archive.read_bytes() + gzip.compress(bytes(10_000_000)))
    with pytest.raises(RequestError, match="unpacks to"):
        archives.unpacked(archive, cache_dir=tmp_path / "cache")


def test_large_headers_are_not_read_into_memory(tmp_path):
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 50_000_000
    archive = make_hostile_tar(tmp_path / "Bomb.tar.gz", header)
    with pytest.raises(RequestError, match="is damaged or incomplete .a header of 50,000,000 bytes"):
        archives.unpacked(archive, cache_dir=tmp_path / "cache")
