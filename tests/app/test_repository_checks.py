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


def copied(repo: SimulatedRepository, folder: Path) -> tuple[Path, dict[tuple[int, str], Path]]:
    """Copy a repository, to break it; return its root and files by patch and band."""
    root = Path(shutil.copytree(repo.root, folder / "copy"))
    with Repository(root, repo.collections) as repository:
        files = repository.locate([(repo.tract, patch) for patch in repo.patches], repo.bands)
    return root, {(file.patch, file.band): Path(file.uri) for file in files}


@pytest.mark.parametrize(
    ("setting", "status", "words", "todo"),
    [
        ({"repo": "/nowhere"}, "fail", "RepositoryNotFoundError", "repo="),
        ({"collections": "dp3"}, "fail", "no collection 'dp3'", "collections="),
        ({"dataset_type": "deepCoadd"}, "fail", "no dataset type 'deepCoadd'", "dataset_type="),
        ({"skymap": "rings"}, "fail", "no skymap 'rings'", ""),
        ({"bands": "gq"}, "fail", "no band 'q'", ""),
        ({"bands": "gz"}, "warn", "no coadd in band z; there are g 3, i 3, r 4", "bands="),
    ],
)
def test_wrong_settings(
    dp2_repo: SimulatedRepository, setting: dict[str, str], status: str, words: str, todo: str
) -> None:
    settings = {"repo": str(dp2_repo.root), "collections": dp2_repo.collections} | setting
    result = one("repository", Settings(**settings))
    assert result.status == status
    assert words in result.detail
    assert todo in result.todo


def test_a_repository_without_its_files_fails(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    root, files = copied(dp2_repo, tmp_path)
    for path in files.values():
        path.unlink()
    checks = diagnose(settings_of(dp2_repo, root), names=("repository", "cutout"))
    repository, cutout = checks.results.values()
    assert repository.status == "fail"
    assert "10 of 10 coadds looked at have no file" in repository.detail
    assert cutout.detail == "not tried, because 'Butler repository' failed"


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_a_file_of_another_patch_fails(release: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    root, files = copied(repo, tmp_path)
    originals = {key: path.read_bytes() for key, path in files.items()}
    for patch in repo.patches:
        other = repo.patches[0] if patch != repo.patches[0] else repo.patches[1]
        files[patch, "r"].write_bytes(originals[other, "r"])
    result = one("cutout", settings_of(repo, root))
    assert result.status == "fail"
    assert files[8, "r"].name in result.detail


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40_000])


def change_bytes(path: Path) -> None:
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    middle = layout.shape.y // 2
    place = int(layout.offsets[middle] + layout.sizes[middle] // 2)
    damaged = bytearray(path.read_bytes())
    damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
    path.write_bytes(damaged)


def exchange_names(path: Path) -> None:
    """Give the planes each other's names: the second reader goes by their order."""
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        for hdu, name in ((hdus[1], "VARIANCE"), (hdus[3], "IMAGE")):
            hdu.header["EXTNAME"] = hdu.header["EXTTYPE"] = name


DIFFER = r"(\d+) of \1 cutouts differ from those of a second reader: \d+ pixels, the first at"


@pytest.mark.parametrize(
    ("release", "damage", "detail", "todo"),
    [
        ("dp2", cut_off, r"\.fits", "restore the file"),
        ("dp1", change_bytes, "^CorruptFileError", "restore the file"),
        ("dp1", exchange_names, f"^{DIFFER}", "do not use these pixels"),
    ],
)
def test_damaged_files_fail(
    release: str,
    damage: Callable[[Path], None],
    detail: str,
    todo: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    root, files = copied(repo, tmp_path)
    for path in files.values():
        damage(path)
    result = one("cutout", settings_of(repo, root))
    assert result.status == "fail"
    assert re.search(detail, result.detail)
    assert todo in result.todo


def test_pixels_are_compared_bit_for_bit() -> None:
    expected = np.array([[1.5, np.nan, np.inf], [-2.0, 0.0, 3.0]], np.float32)
    found = np.array([[1.5, 0.0, 0.0], [-2.0, 0.0, 3.0]], np.float32)
    assert compare(found, expected) == ""
    assert compare(found, expected.astype(">f4")) == ""
    found[1, 2] = np.nextafter(np.float32(3), np.float32(4))
    assert compare(found, expected).startswith("1 pixels, the first at (1, 2)")
    assert compare(found[:, :2], expected) == "(2, 2) pixels, expected (2, 3)"
