"""Where do programs that are built on demand lie, so that they are built only once?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_directory", "cached"]

_KEPT = 64  # newest entries of one kind; a runner for an emulated target is about 1 MB


def _writable(path: Path) -> bool:
    """Make `path`; whether it is ours alone and can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path.stat().st_uid == os.getuid() and os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


def cache_directory(kind: str) -> Path:
    """The user's cache directory for `kind` of files, made when it is not there.

    `$XDG_CACHE_HOME/parc_hw` or `~/.cache/parc_hw`; a directory of this user under the system's
    temporary one where neither can be written.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    if not home or not Path(home).is_absolute():
        home = str(Path("~").expanduser() / ".cache")
    candidates = (Path(home) / "parc_hw", Path(tempfile.gettempdir()) / f"parc_hw-{os.getuid()}")
    for candidate in candidates:
        if _writable(candidate) and _writable(candidate / kind):
            return candidate / kind
    return Path(tempfile.mkdtemp(prefix="parc_hw-"))


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The file of `kind` with this key; `make(path)` writes it when it is not there yet.

    Two processes may make it at the same time: each writes its own and renames it into place.
    Only the newest files of a kind are kept.
    """
    directory = cache_directory(kind)
    path = directory / key
    if path.exists():
        os.utime(path)
        return path
    with tempfile.TemporaryDirectory(dir=directory, prefix=".new-") as scratch:
        fresh = Path(scratch) / key
        make(fresh)
        fresh.replace(path)
    entries = [entry for entry in directory.iterdir() if entry.is_file()]
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for old in entries[_KEPT:]:
        old.unlink(missing_ok=True)
    return path
