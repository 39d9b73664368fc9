"""Simulated repositories: written once on a machine, then read by every test process and every later run."""

import hashlib
import json
import os
import shutil
import tempfile
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

_contents_before: dict[Path, dict[str, tuple[int, int]]] = {}


def simulated_once(config: SimulationConfig) -> SimulatedRepository:
    """Return a repository of this configuration that must not be changed.

    It is cached by the hash of the configuration and of what writes it. Processes may ask at the same time: each writes
    into a folder of its own, the first to rename it wins.
    """
    root = FOLDER / _writers_hash() / _hash(json.dumps(asdict(config), sort_keys=True).encode()) / "repo"
    if not root.is_dir():
        root.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=root.parent.parent) as scratch:
            simulate(Path(scratch) / "new" / "repo", config)
            try:
                (Path(scratch) / "new").rename(root.parent)
            except OSError:  # another process was faster
                if not root.is_dir():
                    raise
    if root not in _contents_before:
        _contents_before[root] = _contents(root)
    return SimulatedRepository.load(root)


def simulated_copy(root: Path, config: SimulationConfig) -> SimulatedRepository:
    """Return a repository of this configuration at ``root``, for tests that change it."""
    once = simulated_once(config)
    shutil.copytree(once.root, root)
    return replace(once, root=root)


def changed_repositories() -> list[Path]:
    """Remove the shared repositories that this process saw change, and return their folders."""
    changed = [root for root, before in _contents_before.items() if _contents(root) != before]
    for root in changed:
        shutil.rmtree(root.parent)
    return changed


def _contents(root: Path) -> dict[str, tuple[int, int]]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): (s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]}


@cache
def _writers_hash() -> str:
    package = Path(lsstcutouts.__file__).parent
    sources = sorted(p for room in _WRITERS for p in (package / room).rglob("*.py"))
    parts = [f"{p.relative_to(package)}\n".encode() + p.read_bytes() for p in sources]
    return _hash(*parts, *(f"{name} {version(name)}".encode() for name in _PACKAGES))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
