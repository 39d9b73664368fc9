"""The doctor on broken packages."""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lsstcutouts.app.doctor import Machine, diagnose
from lsstcutouts.app.doctor.packages import weeks

from ..support.doctor import FakePackages, one, without


def test_too_old_and_missing_packages_fail() -> None:
    check = one("packages", packages=FakePackages({"torch": "2.4.1", "lsst-resources": None}))
    assert check.status == "fail"
    assert "torch is 2.4.1, >=2.5 is needed" in check.detail
    assert "lsst-resources is missing" in check.detail
    assert "pip install --upgrade 'torch>=2.5'" in check.todo
    assert "pip install --upgrade 'lsst-resources[https,s3]>=30.2026.2500'" in check.todo
    assert "sphinx" not in check.detail


def test_a_too_old_python_fails() -> None:
    check = one("packages", packages=FakePackages(python_version="3.11.9"))
    assert (check.status, check.detail) == ("fail", "Python 3.11.9, but >=3.12 is needed")


def test_enough_packages_pass() -> None:
    assert "3 packages as required" in one("packages", packages=FakePackages({"torch": "2.5.0"})).detail


@pytest.mark.parametrize("version", [None, "0.59.1"])
def test_without_numba_it_works_and_is_slower(version: str | None) -> None:
    check = one("packages", packages=FakePackages({"numba": version}))
    assert check.status == "warn"
    assert "decoding takes twice as long" in check.detail
    assert "numba" in check.detail
    assert check.todo == "pip install --upgrade 'numba>=0.61'"
    worse = one("packages", packages=FakePackages({"numba": version, "torch": None}))
    assert (worse.status, "numba" in worse.detail) == ("fail", False)


@pytest.mark.parametrize("module", ["lsst.daf.butler", "lsst.images", "lsst.resources", "lsst.sphgeom"])
def test_a_missing_lsst_package_fails(module: str) -> None:
    check = one("lsst", load=without(module))
    assert check.status == "fail"
    assert f"{module} does not import" in check.detail
    assert "lsst-daf-butler" in check.todo


def test_checks_that_need_the_lsst_packages_are_not_tried_without_them() -> None:
    machine = Machine(load=without("lsst.images"))
    _, repository, cutout = diagnose(machine=machine, names=("lsst", "repository", "cutout"))
    assert repository.detail == "not tried, because 'LSST packages' failed"
    assert cutout.detail == "not tried, because 'Butler repository' failed"


def test_weekly_versions_far_apart_warn() -> None:
    check = one("lsst", packages=FakePackages({"lsst-images": "30.2025.4300"}))
    assert check.status == "warn"
    assert "52 weeks apart" in check.detail
    assert one("lsst", packages=FakePackages({"lsst-images": "30.2026.4000"})).status == "pass"


def test_weeks_of_versions() -> None:
    assert weeks("30.2026.4300") == 2026 * 52 + 43
    assert weeks("30.2026.4300.dev1") == weeks("30.2026.4300")
    assert weeks("29.2.0") is None


def decoders(**replaced: Any) -> Callable[[str], Any]:
    codecs = import_module("imagecodecs")
    fake = SimpleNamespace(**({"rcomp_decode": codecs.rcomp_decode, "gzip_decode": codecs.gzip_decode} | replaced))
    return lambda name: fake if name == "imagecodecs" else import_module(name)


def not_built(*_: Any, **__: Any) -> None:
    raise ImportError("could not import 'imagecodecs._rcomp'")


def test_codecs_that_are_missing_or_wrong_fail() -> None:
    assert one("lsst", load=decoders()).status == "pass"
    for broken, words in [
        ({"rcomp_decode": not_built}, "cannot decode"),
        ({"rcomp_decode": lambda *_, **__: np.zeros(64, int)}, "decodes wrongly"),
        ({"gzip_decode": lambda _: b"abcdeg"}, "decodes wrongly"),
    ]:
        check = one("lsst", load=decoders(**broken))
        assert check.status == "fail"
        assert words in check.detail


def test_missing_remote_packages_warn() -> None:
    check = one("lsst", load=without("boto3"))
    assert check.status == "warn"
    assert "no boto3, reading from S3 will not work" in check.detail
    assert "lsst-resources[https,s3]" in check.todo
