"""Programs built on demand are built once, and never fill the disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from parc_hw.artifact import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_file_is_made_once():
    made = []

    def make(path: Path) -> None:
        made.append(path.name)
        path.write_text("content")

    first = cache.cached("kind", "key", make)
    assert cache.cached("kind", "key", make) == first
    assert (made, first.read_text()) == (["key"], "content")


def test_a_failure_leaves_nothing_that_looks_made():
    def fail(path: Path) -> None:
        path.write_text("half of it")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.cached("kind", "key", fail)
    assert list(cache.cache_directory("kind").iterdir()) == []


def test_only_the_newest_files_are_kept(monkeypatch):
    monkeypatch.setattr(cache, "_KEPT", 3)
    for number in range(5):
        path = cache.cached("kind", f"key{number}", lambda path: path.write_text(""))
        os.utime(path, (1000 + number, 1000 + number))
    assert {p.name for p in cache.cache_directory("kind").iterdir()} == {"key2", "key3", "key4"}


def test_without_a_home_the_temporary_directory_serves(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.cache_directory("kind") == tmp_path / f"parc_hw-{os.getuid()}" / "kind"
