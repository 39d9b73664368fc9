"""Which machine, packages and state of the code the figures belong to, and whether other programs keep the machine busy."""

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ... import __version__
from ...read.reader import default_threads

__all__ = ["Load", "about_machine", "load_now"]

_PACKAGES = {"numpy", "torch", "imagecodecs", "lsst-images", "lsst-daf-butler", "astropy", "fitsio", "numba"}

_BUSY_PRESSURE = 10.0
"""Percent of the time in which some process waited for a core, above which figures suffer."""

_BUSY_LOAD = 0.5
"""Processes ready to run for each core, before the benchmark adds its own, above which figures suffer."""


class Load(NamedTuple):
    """What other programs did to the machine just before the benchmark, as a number, as a judgement and in words.

    The number is the percentage of the last 10 seconds in which some process waited for a core; without the kernel's file
    of pressure, the load average of the last minute over the number of cores.
    """

    source: str
    value: float
    busy: bool
    text: str


def load_now(pressure: Path = Path("/proc/pressure/cpu")) -> Load:
    """Return how busy the machine is; call it before anything is measured."""
    found = re.search(r"^some avg10=([\d.]+)", pressure.read_text(), re.MULTILINE) if pressure.exists() else None
    if found:
        value, source = float(found[1]), str(pressure)
        busy, text = value > _BUSY_PRESSURE, f"programs waited for a core during {value:.0f}% of the last 10 seconds"
    else:
        cores = psutil.cpu_count() or 1
        value, source = os.getloadavg()[0] / cores, "load average"
        busy, text = value > _BUSY_LOAD, f"{value * cores:.1f} processes competed for {cores} cores in the last minute"
    text = f"{text} ({source})"
    if busy:
        text = f"WARNING: the machine is busy: {text}. The figures are too low; close other programs and measure again."
    return Load(source, value, busy, text)


def about_machine() -> dict[str, Any]:
    """Return processor, cores, memory, kernel, versions, commit and date as plain values."""
    info, versions = Path("/proc/cpuinfo"), {d.name: d.version for d in metadata.distributions()}
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "usable_cores": default_threads(),
        "memory": psutil.virtual_memory().total,
        "kernel": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: versions[name] for name in sorted(_PACKAGES & versions.keys())},
        "lsstcutouts": __version__,
        "commit": _commit(Path(__file__).parents[3]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(folder: Path) -> str | None:
    """Return the commit of a checkout, marked "-dirty" where files differ from it; None where it is none."""
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    asked = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - no argument of a user
    return told.stdout.strip() or None
