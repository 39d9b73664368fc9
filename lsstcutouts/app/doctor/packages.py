"""The first and fourth check: versions of Python and packages, and what the LSST packages and codecs do."""

import re
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .check import TROUBLE, Check, Finding, Visit, one_line

__all__ = ["InstalledPackages", "check_lsst", "check_packages", "weeks"]

_SHOWN = ("numpy", "astropy", "torch", "lightning")
"""Distributions whose versions a bug report needs most."""

_LSST = {
    "lsst-daf-butler": "lsst.daf.butler",
    "lsst-images": "lsst.images",
    "lsst-resources": "lsst.resources",
    "lsst-sphgeom": "lsst.sphgeom",
}
_REMOTE = {"requests": "reading over HTTP", "boto3": "reading from S3"}

_WEEKS_APART = 12
"""Weekly builds further apart than this are no combination that anybody tests together."""

_WEEKLY = re.compile(r"\d+\.(\d{4})\.(\d{2})\d{2}(?:\D.*)?")

_RICE = bytes.fromhex("000000003c0851a54ea55ad5ec45bd5bb912fd7e427b4a735256675e5f665753")
_RICE += bytes.fromhex("724b7a311bf099bb35e1b2747ff7b82ebeb9e3824a2cc016f1e2048a03560d1c00")
"""The squares of 0 to 63 modulo 97 as 32-bit integers, Rice-coded in blocks of 32."""

_GZIP = bytes.fromhex("1f8b08000000000002034b4c4a4e494d0300ef398e4b06000000")
"""The letters ``abcdef``, gzipped."""


class InstalledPackages:
    """The packages of this Python, by their metadata."""

    def python(self) -> str:
        """Return the version of Python."""
        return ".".join(map(str, sys.version_info[:3]))

    def version(self, name: str) -> str | None:
        """Return the version of a distribution, or None where there is none."""
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    def requires(self) -> tuple[str | None, list[str]]:
        """Return what this package asks of Python and of other distributions."""
        found = metadata.metadata("lsstcutouts")
        return found.get("Requires-Python"), found.get_all("Requires-Dist") or []


def check_packages(visit: Visit) -> Check:
    """Python and every dependency are as new as this package's own metadata ask for; without numba it is only slower."""
    packages = visit.machine.packages or InstalledPackages()
    for_python, listed = packages.requires()
    needed = [r for r in map(Requirement, listed) if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [f for f in (_python(packages, for_python), *(_distribution(packages, r) for r in needed)) if f]
    shown = ", ".join(f"{name} {packages.version(name)}" for name in _SHOWN)
    good = Finding("pass", f"Python {packages.python()}, {len(needed)} packages as required: {shown}")
    return Check.of("packages", wrong or [good])


def _python(packages: InstalledPackages, wanted: str | None) -> Finding | None:
    if wanted is None or SpecifierSet(wanted).contains(packages.python(), prereleases=True):
        return None
    return Finding(
        "fail",
        f"Python {packages.python()}, but {wanted} is needed",
        "make a new environment with a newer Python: python3.12 -m venv .venv",
    )


def _distribution(packages: InstalledPackages, needed: Requirement) -> Finding | None:
    found = packages.version(needed.name)
    if found is not None and needed.specifier.contains(found, prereleases=True):
        return None
    extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
    what = f"{needed.name} is missing" if found is None else f"{needed.name} is {found}, {needed.specifier} is needed"
    todo = f"pip install --upgrade {shlex.quote(f'{needed.name}{extras}{needed.specifier}')}"
    if needed.name == "numba":  # the plain kernels give the same pixels
        return Finding("warn", f"{what}; without it decoding takes twice as long", todo)
    return Finding("fail", what, todo)


def check_lsst(visit: Visit) -> Check:
    """The LSST packages import and are of about the same week; the codecs decode; remote reading is there."""
    load, packages = visit.machine.load, visit.machine.packages or InstalledPackages()
    broken = [f for module in _LSST.values() if (f := _import(load, module))]
    remote = [f for name, use in _REMOTE.items() if (f := _remote(load, name, use))]
    return Check.of("lsst", [*broken, _agree(packages), _codecs(load), *remote])


def weeks(version: str) -> int | None:
    """Return the week of a weekly build such as ``30.2026.4300``, counted from year 0; None for other versions."""
    match = _WEEKLY.fullmatch(version)
    return None if match is None else 52 * int(match[1]) + int(match[2])


def _import(load: Callable[[str], Any], module: str) -> Finding | None:
    try:
        load(module)
    except TROUBLE as error:
        detail = f"{module} does not import ({type(error).__name__}: {one_line(str(error))})"
        return Finding("fail", detail, f"pip install --upgrade --force-reinstall {' '.join(_LSST)}")
    return None


def _agree(packages: InstalledPackages) -> Finding:
    versions = {name: packages.version(name) or "unknown" for name in _LSST}
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    dated = sorted(week for version in versions.values() if (week := weeks(version)) is not None)
    apart = sum(b - a for a, b in pairwise(dated))
    if apart > _WEEKS_APART:
        return Finding(
            "warn",
            f"the LSST packages are {apart} weeks apart: {text}",
            f"pip install --upgrade {' '.join(_LSST)}",
        )
    return Finding("pass", text)


def _codecs(load: Callable[[str], Any]) -> Finding:
    try:
        codecs = load("imagecodecs")
        squares = codecs.rcomp_decode(_RICE, shape=(64,), dtype="i4", nblock=32).tolist()
        letters = codecs.gzip_decode(_GZIP)
    except TROUBLE as error:
        detail = f"imagecodecs cannot decode ({type(error).__name__}: {one_line(str(error))})"
        return Finding("fail", detail, "pip install --upgrade --force-reinstall imagecodecs")
    if squares != [n * n % 97 for n in range(64)] or bytes(letters) != b"abcdef":
        return Finding("fail", "imagecodecs decodes wrongly", "pip install --upgrade --force-reinstall imagecodecs")
    return Finding("pass", "imagecodecs decodes RICE and GZIP")


def _remote(load: Callable[[str], Any], name: str, use: str) -> Finding | None:
    try:
        load(name)
    except TROUBLE as error:
        detail = f"no {name}, {use} will not work ({one_line(str(error))})"
        return Finding("warn", detail, "pip install --upgrade 'lsst-resources[https,s3]'")
    return None
