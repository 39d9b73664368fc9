"""Simulated repositories: written once on a machine, then read by every test process and every later run."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import lsstcutouts
from lsstcutouts.testing import SimulatedRepository, SimulationConfig, simulate

__all__ = ["SMALL", "changed_repositories", "simulated_copy", "simulated_once"]

SMALL = {
    "cells": (3, 4),
    "cell": (60, 75),
    "grid": (4, 5),
    "patches": 2,
    "bands": "gri",
    "targets": 80,
    # The first band of one patch, and another band of another patch.
    "missing": ((8, "g"), (14, "i")),
    "seed": 7,
}
"""Nothing square: not the cells, not the patches, not the tract, so that no (y, x) mix-up goes unseen."""

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsstcutouts-tests"
"""Where repositories are kept; ``make clean`` removes it."""

_WRITERS = ("testing", "sky", "errors")
_PACKAGES = ("astropy", "imagecodecs", "lsst-daf-butler", "lsst-images", "numpy", "pyarrow")

UNUSED_DAYS = 14
"""After so long, what other versions of the simulator wrote is removed."""

_contents_before: dict[Path, dict[str, tuple[int, int]]] = {}
_taken: dict[Path, tuple[Path, int]] = {}
"""Of each entry that this process uses: the repository, and the open file whose lock says so."""


def simulated_once(config: SimulationConfig) -> SimulatedRepository:
    """Return a repository of this configuration that must not be changed.

    It is cached by the hash of the configuration and of what writes it. Processes may ask at the same time: each writes
    into a folder of its own, and the first to name it ``current`` wins. A folder is removed only while no process uses it.
    """
    entry = FOLDER / _writers_hash() / _hash(json.dumps(asdict(config), sort_keys=True).encode())
    if entry not in _taken:
        with _lock():
            if not _taken:
                _prune()
            found = _take(entry)
        if not found:
            written = Path(tempfile.mkdtemp(prefix="new-", dir=FOLDER))
            simulate(written / "repo", config)
            (written / "lock").touch()
            with _lock():
                if not _take(entry):
                    entry.mkdir(parents=True, exist_ok=True)
                    written = written.rename(entry / written.name)
                    (entry / "current").unlink(missing_ok=True)
                    (entry / "current").symlink_to(written.name)
                    _take(entry)
                else:  # another process was faster
                    shutil.rmtree(written)
    root, _ = _taken[entry]
    if root not in _contents_before:
        _contents_before[root] = _contents(root)
    return SimulatedRepository.load(root)


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock of the whole cache, for as long as names in it are read or changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _current(entry: Path) -> Path | None:
    link = entry / "current"
    return entry / link.readlink() if link.is_symlink() else None


def _take(entry: Path) -> bool:
    """Note that this process uses the entry's repository until it ends; return whether there is one."""
    folder = _current(entry)
    if folder is None:
        return False
    file = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(folder / "lock")
    _taken[entry] = (folder / "repo", file)
    return True


def _prune() -> None:
    """Remove repositories that were changed, and those of other hashes that nobody has used for long."""
    for folder in [*FOLDER.glob("new-*"), *FOLDER.glob("*/*/new-*")]:
        entry, lock = folder.parent, folder / "lock"
        age = time.time() - (lock if lock.exists() else folder).stat().st_mtime
        changed = entry != FOLDER and _current(entry) != folder
        old = entry.parent.name != _writers_hash() and age > UNUSED_DAYS * 86400
        if (changed or old) and not _is_used(lock):
            shutil.rmtree(folder)
            if entry != FOLDER and not any(entry.glob("new-*")):
                (entry / "current").unlink(missing_ok=True)
                entry.rmdir()


def _is_used(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def simulated_copy(root: Path, config: SimulationConfig) -> SimulatedRepository:
    """Return a repository of this configuration at ``root``, for tests that change it."""
    once = simulated_once(config)
    shutil.copytree(once.root, root)
    return replace(once, root=root)


def changed_repositories() -> list[Path]:
    """Return the shared repositories that this process saw change; no process takes them from now on."""
    changed = [root for root, before in _contents_before.items() if _contents(root) != before]
    with _lock():
        for root in changed:
            entry = root.parents[1]
            if _current(entry) == root.parent:
                (entry / "current").unlink()
    return changed


def _contents(root: Path) -> dict[str, tuple[int, int]]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): (s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]}


@cache
def _writers_hash() -> str:
    package = Path(lsstcutouts.__file__).parent
    sources = sorted(p for room in _WRITERS for p in (package / room).rglob("*.py"))
    parts = [f"{p.relative_to(package)}\n".encode() + p.read_bytes() for p in sources]
    return _hash(b"2: folders that processes lock", *parts, *(f"{name} {version(name)}".encode() for name in _PACKAGES))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
