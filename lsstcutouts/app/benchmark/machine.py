"""Which machine, packages and state of the code the figures belong to, and whether other programs keep the machine busy."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from ...read.reader import default_threads

__all__ = ["Load", "about_machine", "load_now"]

_PACKAGES = ("numpy", "torch", "imagecodecs", "lsst-images", "lsst-daf-butler", "astropy", "fitsio", "numba")

_BUSY_PRESSURE = 10.0
"""Percent of the time in which some process waited for a core, above which figures suffer."""

_BUSY_LOAD = 0.5
"""Processes ready to run for each core, before the benchmark adds its own, above which figures suffer."""


@dataclass(frozen=True, slots=True)
class Load:
    """What other programs did to the machine just before the benchmark.

    Attributes
    ----------
    source
        The file of the kernel that was read, or "load average".
    value
        Percent of the last 10 seconds in which some process waited for a core; without that file, the load average of
        the last minute over the number of cores.
    busy
        Whether the figures of a benchmark suffer.
    text
        This in words.
    """

    source: str
    value: float
    busy: bool
    text: str


def load_now(pressure: Path = Path("/proc/pressure/cpu")) -> Load:
    """Return how busy the machine is; call it before anything is measured."""
    found = re.search(r"^some avg10=([\d.]+)", pressure.read_text(), re.MULTILINE) if pressure.exists() else None
    if found:
        value = float(found[1])
        source, busy = str(pressure), value > _BUSY_PRESSURE
        told = f"programs waited for a processor core during {value:.0f}% of the last 10 seconds"
    else:
        cores = psutil.cpu_count() or 1
        value = os.getloadavg()[0] / cores
        source, busy = "load average", value > _BUSY_LOAD
        told = f"{value * cores:.1f} processes competed for {cores} cores in the last minute"
    text = f"{told} ({source})"
    if busy:
        text = f"WARNING: the machine is busy: {text}. The figures are too low; close other programs and measure again."
    return Load(source, value, busy, text)


def about_machine() -> dict[str, Any]:
    """Return processor, cores, memory, kernel, versions, commit and date as plain values."""
    return {
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "cores": psutil.cpu_count(),
        "usable_cores": default_threads(),
        "memory": psutil.virtual_memory().total,
        "kernel": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "lsstcutouts": __version__,
        "commit": _commit(Path(__file__).parents[2]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu(info: Path) -> str:
    """Return the model of the processor."""
    if info.exists():
        model = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if model:
            return model[1]
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """Return the commit of a checkout, marked where files differ from it; None where it is none."""
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    asked = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - no argument of a user
    return told.stdout.strip() or None
