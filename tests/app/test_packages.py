"""The doctor on broken packages: real metadata of distributions, and modules that do not import."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from lsstcutouts.app.doctor import diagnose
from lsstcutouts.app.doctor.packages import weeks

from ..support.doctor import one

LSST = dict.fromkeys(("lsst-daf-butler", "lsst-images", "lsst-sphgeom"), "30.2026.4300")
INSTALLED = {"torch": "2.7.1", "numba": "0.61.0", "lsst-resources": "30.2026.4200", **LSST}
NEEDED = (
    *("numba>=0.61", "torch>=2.5", "lsst-resources[https,s3]>=30.2026.2500"),
    *('sphinx>=8.0; extra == "docs"', 'pyvo>=1.6; extra == "dev"'),
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install just what is needed, but for some versions (None: missing); other distributions are found if ``beside``."""

    def write(versions: dict[str, str | None], python: str = ">=3.12", *, beside: bool = False) -> None:
        for name, version in {"lsstcutouts": "1.0", **INSTALLED, **versions}.items():
            lines = [f"Name: {name}", f"Version: {version}"]
            if name == "lsstcutouts":
                lines += [f"Requires-Python: {python}", *(f"Requires-Dist: {one}" for one in NEEDED)]
            if version is not None:
                folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
                folder.mkdir()
                (folder / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *(sys.path if beside else ())])

    return write


PYTHON = ".".join(map(str, sys.version_info[:3]))
TORCH, NUMBA = "'torch>=2.5'", "pip install --upgrade 'numba>=0.61'"
TWO = f"pip install --upgrade {TORCH}; pip install --upgrade 'lsst-resources[https,s3]>=30.2026.2500'"


@pytest.mark.parametrize(
    ("versions", "python", "status", "detail", "todo"),
    [
        ({"torch": "2.5.0"}, ">=3.12", "pass", f"Python {PYTHON}, 3 packages as required: ", ""),
        ({}, ">=3.99", "fail", f"Python {PYTHON}, but >=3.99 is needed", "venv"),
        ({"torch": "2.4.1"}, ">=3.12", "fail", "torch is 2.4.1, >=2.5 is needed", TORCH),
        ({"torch": "2.4.1", "lsst-resources": None}, ">=3.12", "fail", "; lsst-resources is missing", TWO),
        ({"numba": None}, ">=3.12", "warn", "numba is missing; without it decoding takes twice as long", NUMBA),
        ({"numba": "0.59.1"}, ">=3.12", "warn", ">=0.61 is needed; without it decoding takes twice as long", NUMBA),
        ({"numba": None, "torch": None}, ">=3.12", "fail", "torch is missing", TORCH),
    ],
)
def test_versions(
    versions: dict[str, str | None], python: str, status: str, detail: str, todo: str, install: Callable[..., None]
) -> None:
    install(versions, python)
    result = one("packages")
    assert result.status == status
    assert detail in result.detail
    assert todo in result.todo
    assert "sphinx" not in result.detail
    assert ("numba" in result.detail) == (status == "warn")


@pytest.mark.parametrize(
    ("module", "status", "detail", "todo"),
    [
        *((m, "fail", f"{m} does not import", "lsst-daf-butler") for m in ("lsst.daf.butler", "lsst.images")),
        *((m, "fail", f"{m} does not import", "lsst-daf-butler") for m in ("lsst.resources", "lsst.sphgeom")),
        ("boto3", "warn", "no boto3, reading from S3 will not work", "lsst-resources[https,s3]"),
        ("requests", "warn", "no requests, reading over HTTP will not work", "lsst-resources[https,s3]"),
    ],
)
def test_missing_modules(module: str, status: str, detail: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = one("lsst")
    assert result.status == status
    assert detail in result.detail
    assert todo in result.todo


def test_checks_that_need_the_lsst_packages_are_not_tried_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lsst.images", None)
    _, repository, cutout = diagnose(names=("lsst", "repository", "cutout")).results.values()
    assert repository.detail == "not tried, because 'LSST packages' failed"
    assert cutout.detail == "not tried, because 'Butler repository' failed"


@pytest.mark.parametrize(("version", "status"), [("30.2025.4300", "warn"), ("30.2026.4000", "pass")])
def test_weekly_versions_far_apart_warn(version: str, status: str, install: Callable[..., None]) -> None:
    install({"lsst-images": version}, beside=True)
    result = one("lsst")
    assert result.status == status
    assert f"lsst-images {version}" in result.detail
    assert ("52 weeks apart" in result.detail) == (status == "warn")


@pytest.mark.parametrize(
    ("version", "week"), [("30.2026.4300", 105395), ("30.2026.4300.dev1", 105395), ("29.2.0", None), ("unknown", None)]
)
def test_weeks_of_versions(version: str, week: int | None) -> None:
    assert weeks(version) == week


def not_built(*_: Any, **__: Any) -> None:
    raise ImportError("could not import 'imagecodecs._rcomp'")


@pytest.mark.parametrize(
    ("name", "decode", "words"),
    [
        ("rcomp_decode", not_built, "cannot decode"),
        ("rcomp_decode", lambda *_, **__: np.zeros(64, int), "decodes wrongly"),
        ("gzip_decode", lambda _: b"abcdeg", "decodes wrongly"),
    ],
)
def test_codecs_that_are_missing_or_wrong_fail(
    name: str, decode: Callable[..., Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one("lsst").status == "pass"
    monkeypatch.setattr(imagecodecs, name, decode)
    result = one("lsst")
    assert result.status == "fail"
    assert words in result.detail
