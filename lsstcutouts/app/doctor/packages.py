"""Checks of Python and the packages: versions, imports of the LSST packages, codecs."""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from gzip import compress
from importlib import import_module, metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .diagnosis import TROUBLE, Result, Settings

__all__ = ["check_lsst", "check_packages", "weeks"]

_SHOWN = ("numpy", "astropy", "torch", "lightning")  # a bug report needs these versions most
_LSST = ("lsst-daf-butler", "lsst-images", "lsst-resources", "lsst-sphgeom")  # dots for dashes: the module
_REMOTE = {"requests": "reading over HTTP", "boto3": "reading from S3"}
_WEEKS_APART = 12  # weekly builds further apart than this are not tested together

_RICE = bytes.fromhex(
    "000000003c0851a54ea55ad5ec45bd5bb912fd7e427b4a735256675e5f665753"
    "724b7a311bf099bb35e1b2747ff7b82ebeb9e3824a2cc016f1e2048a03560d1c00"
)
"""The squares of 0 to 63 modulo 97 as 32-bit integers, Rice-coded in blocks of 32."""


def check_packages(_settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check Python and the dependencies against this package's metadata."""
    about = metadata.metadata("lsstcutouts")
    python, wanted = ".".join(map(str, sys.version_info[:3])), about.get("Requires-Python") or ""
    if not SpecifierSet(wanted).contains(python, prereleases=True):
        todo = f"make a new environment with Python {wanted}: python3.12 -m venv .venv"
        yield Result("fail", f"Python {python}, but {wanted} is needed", todo)
    listed = map(Requirement, about.get_all("Requires-Dist") or [])
    needed = [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in needed:
        found, one.marker = _version(one.name), None
        if found is None or not one.specifier.contains(found, prereleases=True):
            what = f"{one.name} is missing" if found is None else f"{one.name} is {found}, {one.specifier} is needed"
            slower = one.name == "numba"  # without it other kernels give the same pixels
            what += "; without it decoding takes twice as long" if slower else ""
            yield Result("warn" if slower else "fail", what, f"pip install --upgrade {shlex.quote(str(one))}")
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN)  # printed only if nothing above is wrong
    yield Result("pass", f"Python {python}, {len(needed)} packages as required: {shown}")


def check_lsst(_settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check that the LSST packages import and are of about the same week, that codecs decode, and remote packages."""
    uses = {name.replace("-", "."): "" for name in _LSST} | _REMOTE
    for module, use in uses.items():
        try:
            import_module(module)
        except TROUBLE as error:
            why = f"({type(error).__name__}: {error})"
            if use:
                todo = "pip install --upgrade 'lsst-resources[https,s3]'"
                yield Result("warn", f"no {module}, {use} will not work {why}", todo)
            else:
                todo = f"pip install --upgrade --force-reinstall {' '.join(_LSST)}"
                yield Result("fail", f"{module} does not import {why}", todo)
    versions = {name: _version(name) for name in _LSST}
    text = ", ".join(f"{name} {version or 'unknown'}" for name, version in versions.items())
    dated = [week for version in versions.values() if version and (week := weeks(version))]
    apart = max(dated, default=0) - min(dated, default=0)
    if apart > _WEEKS_APART:
        todo = f"pip install --upgrade {' '.join(_LSST)}"
        yield Result("warn", f"the LSST packages are {apart} weeks apart: {text}", todo)
    else:
        yield Result("pass", text)
    yield _codecs()


def weeks(version: str) -> int | None:
    """Return the week of a weekly build such as ``30.2026.4300``, counted from year 0; None for other versions."""
    match = re.match(r"\d+\.(\d{4})\.(\d{2})\d{2}(?!\d)", version)
    return 52 * int(match[1]) + int(match[2]) if match else None


def _version(name: str) -> str | None:
    return next((found.version for found in metadata.distributions(name=name)), None)


def _codecs() -> Result:
    todo = "pip install --upgrade --force-reinstall imagecodecs"
    try:
        codecs = import_module("imagecodecs")
        squares = codecs.rcomp_decode(_RICE, shape=(64,), dtype="i4", nblock=32).tolist()
        letters = bytes(codecs.gzip_decode(compress(b"abcdef")))
    except TROUBLE as error:
        return Result("fail", f"imagecodecs cannot decode ({type(error).__name__}: {error})", todo)
    if squares != [n * n % 97 for n in range(64)] or letters != b"abcdef":
        return Result("fail", "imagecodecs decodes wrongly", todo)
    return Result("pass", "imagecodecs decodes RICE and GZIP")
