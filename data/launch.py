"""Starting a command: its help page from a cache, so that --help need not import the command-line library."""

import hashlib
import importlib
import io
import os
import shutil
import sys
from pathlib import Path

from data.paths import user_cache

HELP_FLAGS = ("--help", "-h")
PACKAGES = ("featurize", "probes", "analysis", "data")


def launch(package: str) -> None:
    """Run ``<package>.cli``; a help page already rendered from the same sources is printed as it is.

    Pages are those of the command, ``--help``, and of its subcommands, such as ``table --help``.

    Importing cyclopts and rich takes 0.4 s of the half second that a help page costs; reading a file takes none.
    """
    *words, last = sys.argv[1:] or [""]
    subcommand = words[0] if words else ""
    if last not in HELP_FLAGS or len(words) > 1 or (words and not subcommand.isalnum()):
        importlib.import_module(f"{package}.cli").main()
    page = user_cache() / "help" / f"help-{package}{'.' * bool(words)}{subcommand}-{_sources_key()}.txt"
    if (text := _kept(page)) is None:
        if words and subcommand not in importlib.import_module(f"{package}.cli").app:
            sys.modules[f"{package}.cli"].main()  # the error names the commands
        text = _render(package, words)
        _keep(page, text)
    sys.stdout.write(text)
    sys.exit(0)


def _sources_key() -> str:
    """Digest of every source file's name, size and time, and of the terminal; another one makes a new page."""
    top = Path(__file__).parent.parent
    entries = [(str(path), os.stat(path)) for package in PACKAGES for path in sorted((top / package).rglob("*.py"))]
    stamp = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in entries]
    terminal = (shutil.get_terminal_size().columns, sys.stdout.isatty(), os.environ.get("NO_COLOR"))
    return hashlib.sha256(repr((stamp, terminal, sys.version)).encode()).hexdigest()[:16]


def _render(package: str, words: list[str]) -> str:
    from rich.console import Console  # deferred: only a page that is not in the cache needs it

    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=sys.stdout.isatty(), width=shutil.get_terminal_size().columns)
    importlib.import_module(f"{package}.cli").app.help_print(words, console=console)
    return buffer.getvalue()


def _kept(page: Path) -> str | None:
    """The page in the cache; None where there is none, or a damaged one."""
    try:
        digest, _, text = page.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if digest == hashlib.sha256(text.encode()).hexdigest() else None


def _keep(page: Path, text: str) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for old in page.parent.glob(f"{page.name.rpartition('-')[0]}-*"):
            old.unlink(missing_ok=True)
        temporary = page.with_name(f"{page.name}.{os.getpid()}")
        temporary.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
        temporary.rename(page)
    except OSError:
        pass  # a home that cannot be written costs half a second each time, nothing else
