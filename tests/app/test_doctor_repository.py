"""The doctor on broken repositories and files."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lsstcutouts.app.doctor import Settings, diagnose
from lsstcutouts.app.doctor.repository_checks import compare
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.repository import Repository
from lsstcutouts.testing import SimulatedRepository

from ..support.doctor import one, settings_of


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[SimulatedRepository], Path]:
    """A copy of a repository that may be broken."""

    def copy(repo: SimulatedRepository) -> Path:
        return Path(shutil.copytree(repo.root, tmp_path / "copy"))

    return copy


def coadds(root: Path, repo: SimulatedRepository) -> dict[tuple[int, str], Path]:
    with Repository(root, repo.collections) as repository:
        return {
            (one.patch, one.band): Path(one.uri)
            for one in repository.locate([(repo.tract, p) for p in repo.patches], repo.bands)
        }


def test_a_repository_that_is_not_there_fails(tmp_path: Path) -> None:
    check = one("repository", Settings(repo=str(tmp_path / "none"), collections="dp2"))
    assert check.status == "fail"
    assert "RepositoryNotFoundError" in check.detail
    assert "repo=" in check.todo


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"collections": "dp3"}, "no collection 'dp3'"),
        ({"dataset_type": "deepCoadd"}, "no dataset type 'deepCoadd'"),
        ({"skymap": "rings"}, "no skymap 'rings'"),
        ({"bands": "gq"}, "no band 'q'"),
    ],
)
def test_a_wrong_name_fails(dp2_repo: SimulatedRepository, setting: dict[str, str], words: str) -> None:
    settings = Settings(**({"repo": str(dp2_repo.root), "collections": dp2_repo.collections} | setting))
    check = one("repository", settings)
    assert check.status == "fail"
    assert words in check.detail


def test_a_band_without_coadds_warns(dp2_repo: SimulatedRepository) -> None:
    check = one("repository", settings_of(dp2_repo, bands="gz"))
    assert (check.status, check.detail) == ("warn", "no coadd in band z; there are g 3, i 3, r 4")


def test_a_repository_without_its_files_fails(
    dp2_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]
) -> None:
    root = copied(dp2_repo)
    for path in coadds(root, dp2_repo).values():
        path.unlink()
    repository, cutout = diagnose(settings_of(dp2_repo, root), names=("repository", "cutout"))
    assert repository.status == "fail"
    assert "10 of 10 coadds looked at have no file" in repository.detail
    assert cutout.detail == "not tried, because 'Butler repository' failed"


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_a_file_of_another_patch_fails(
    release: str, request: pytest.FixtureRequest, copied: Callable[[SimulatedRepository], Path]
) -> None:
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    root = copied(repo)
    files = coadds(root, repo)
    for patch in repo.patches:
        other = repo.patches[0] if patch != repo.patches[0] else repo.patches[1]
        shutil.copy(coadds(repo.root, repo)[other, "r"], files[patch, "r"])
    check = one("cutout", settings_of(repo, root))
    assert check.status == "fail"
    assert files[8, "r"].name in check.detail


def test_damaged_bytes_fail(dp1_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]) -> None:
    root = copied(dp1_repo)
    for path in coadds(root, dp1_repo).values():
        with open_coadd(path) as coadd:
            layout = coadd.layout("image")
            middle = layout.shape.y // 2
            place = int(layout.offsets[middle] + layout.sizes[middle] // 2)
        damaged = bytearray(path.read_bytes())
        damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
        path.write_bytes(damaged)
    check = one("cutout", settings_of(dp1_repo, root))
    assert check.status == "fail"
    assert "CorruptFileError" in check.detail


def test_pixels_that_are_not_the_oracles_fail(
    dp1_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]
) -> None:
    """Here the planes go by each other's names; the oracle goes by their order."""
    root = copied(dp1_repo)
    for path in coadds(root, dp1_repo).values():
        with fits.open(path, mode="update", disable_image_compression=True) as hdus:
            for hdu, name in ((hdus[1], "VARIANCE"), (hdus[3], "IMAGE")):
                hdu.header["EXTNAME"] = hdu.header["EXTTYPE"] = name
    check = one("cutout", settings_of(dp1_repo, root))
    assert check.status == "fail"
    assert re.match(r"(\d+) of \1 cutouts differ from those of a second reader: \d+ pixels, the first at", check.detail)
    assert "do not use these pixels" in check.todo


def test_a_cut_off_file_fails(dp2_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]) -> None:
    root = copied(dp2_repo)
    for path in coadds(root, dp2_repo).values():
        path.write_bytes(path.read_bytes()[:40_000])
    check = one("cutout", settings_of(dp2_repo, root))
    assert check.status == "fail"
    assert ".fits" in check.detail


def test_pixels_are_compared_bit_for_bit() -> None:
    expected = np.array([[1.5, np.nan, np.inf], [-2.0, 0.0, 3.0]], np.float32)
    found = np.array([[1.5, 0.0, 0.0], [-2.0, 0.0, 3.0]], np.float32)
    assert compare(found, expected) == ""
    assert compare(found, expected.astype(">f4")) == ""
    found[1, 2] = np.nextafter(np.float32(3), np.float32(4))
    assert compare(found, expected).startswith("1 pixels, the first at (1, 2)")
    assert compare(found[:, :2], expected) == "(2, 2) pixels, expected (2, 3)"
