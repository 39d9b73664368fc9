"""Which machine, packages and state of the code the figures belong to."""

import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from ...read.reader import default_threads

__all__ = ["about_machine"]

_PACKAGES = ("numpy", "torch", "imagecodecs", "lsst-images", "lsst-daf-butler", "astropy", "fitsio", "numba")


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
    told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - nothing of it is foreign
    return told.stdout.strip() or None
