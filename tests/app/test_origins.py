"""The doctor on LSST packages of wheels, of an EUPS stack, and of both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsstcutouts.app.doctor.origins import installed

from ..support.doctor import one

PRODUCTS = ("daf_butler", "images", "resources", "sphgeom", "utils")


def stack(folder: Path, *products: str) -> list[str]:
    """Write products as EUPS has them, and return what ``setup`` puts into PYTHONPATH."""
    paths = []
    for product in products:
        root = folder / "Linux64" / product / "g0123abc+45"
        package = f"lsst_{product}"
        info = root / "python" / f"{package}.dist-info"
        info.mkdir(parents=True)
        (root / "ups").mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 1.0\nName: {package.replace('_', '-')}\nVersion: g0123abc+45\n"
        )
        (info / "INSTALLER").write_text("sconsUtils\n")
        paths.append(str(root / "python"))
    return paths


def test_wheels_alone_pass() -> None:
    result = one("origins")
    assert result.status == "pass"
    assert "PyPI (" in result.detail
    assert "lsst-daf-butler 30." in result.detail
    assert "lsst-utils 30." in result.detail


def test_a_stack_alone_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", stack(tmp_path, *PRODUCTS, "afw", "meas_base"))
    result = one("origins")
    assert result.status == "pass"
    assert result.detail == (
        f"EUPS ({tmp_path / 'Linux64'}): lsst-daf-butler g0123abc+45, lsst-images g0123abc+45, lsst-resources "
        "g0123abc+45, lsst-sphgeom g0123abc+45, lsst-utils g0123abc+45 and 2 others"
    )


@pytest.mark.parametrize(
    ("products", "status", "words"),
    [
        (("daf_butler",), "warn", "lsst-daf-butler g0123abc+45 of the EUPS stack in"),
        (("afw", "rsp"), "pass", "EUPS ("),  # not used here: they may come from anywhere
        (("afw", "daf_butler", "utils"), "warn", "lsst-daf-butler g0123abc+45, lsst-utils g0123abc+45 of"),
    ],
)
def test_a_stack_before_wheels_warns(
    products: tuple[str, ...], status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*stack(tmp_path, *products), *sys.path])
    result = one("origins")
    assert result.status == status
    assert words in result.detail
    if status == "warn":
        assert "hide lsst-" in result.detail
        assert " and are mixed with lsst-images 30." in result.detail
        assert "of PyPI in" in result.detail
        assert "unset PYTHONPATH" in result.todo


def test_a_stack_that_lacks_some_packages_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    info = wheels / "lsst_images-30.2026.4300.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lsst-images\nVersion: 30.2026.4300\n")
    (info / "INSTALLER").write_text("pip\n")
    monkeypatch.setattr(sys, "path", [*stack(tmp_path, "daf_butler"), str(wheels)])
    result = one("origins")
    assert result.status == "warn"
    assert f"are mixed with lsst-images 30.2026.4300 of PyPI in {wheels}" in result.detail


def test_what_pythonpath_names_comes_first(tmp_path: Path) -> None:
    """As for a user of the platform who installs wheels beside the stack."""
    paths = stack(tmp_path, "daf_butler")
    code = "from lsstcutouts.app.doctor import diagnose; print(*diagnose(names=['origins']).results['origins'].detail.split())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("lsst-daf-butler g0123abc+45 of the EUPS stack")
    assert "hide lsst-daf-butler 30." in shown.stdout


def test_packages_are_listed_in_the_order_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*stack(tmp_path, "daf_butler"), *sys.path])
    found = [(one.version, one.kind) for one in installed() if one.name == "lsst-daf-butler"]
    assert found[0] == ("g0123abc+45", "EUPS")
    assert found[1][1] == "PyPI"
