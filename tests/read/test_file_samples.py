"""Where the bytes are in files that stand for others, against their layouts and what a few broken files change."""

from pathlib import Path

import numpy as np
import pytest

from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.read.download import _needed, estimate_download
from lsstcutouts.read.file_samples import ByteGrid, FileSample, open_samples
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.disk.cache_settings import FOLDER_VARIABLE
from lsstcutouts.testing import SimulatedRepository

from ..support.platform.science_platform import Platform, Published
from ..support.remote import local_plan, remote_plan


@pytest.fixture(params=["dp2", "dp1"])
def plan(request: pytest.FixtureRequest) -> CutoutPlan:
    repo: SimulatedRepository = request.getfixturevalue(f"{request.param}_repo")
    return local_plan(repo.root, repo.collections, repo.truth)


def test_the_extents_under_boxes_are_those_of_the_layout(plan: CutoutPlan) -> None:
    for file in range(len(plan.files)):
        patch = int(plan.patches.row_and_band[file, 0])
        targets = np.flatnonzero(plan.primary == patch)
        with open_coadd(plan.files.uri[file]) as coadd:
            layout, bbox = coadd.layout("image"), coadd.bbox
        tiles: set[int] = set()
        for start in plan.yx0[targets].tolist():
            box = Box.from_start(YX(*start), plan.size).intersection(bbox).relative_to(bbox.start)
            tiles.update(layout.tiles_of(np.array(layout.units_under(box))).tolist())
        patches, extents = ByteGrid.of_layout(layout).under(plan, targets)
        assert set(patches.tolist()) == {patch}
        expected = sorted((int(layout.offsets[tile]), int(layout.offsets[tile] + layout.sizes[tile])) for tile in tiles)
        assert sorted(map(tuple, extents.tolist())) == expected


def test_psf_kernels_are_those_of_the_cells_under_the_middle(dp2_repo: SimulatedRepository) -> None:
    plan = local_plan(dp2_repo.root, dp2_repo.collections, dp2_repo.truth)
    file = 0
    targets = np.flatnonzero(plan.primary == plan.patches.row_and_band[file, 0])
    with open_coadd(plan.files.uri[file]) as coadd:
        kernels = coadd.kernels
    middle = plan.yx0[targets] + np.asarray(plan.size) // 2
    cells = {kernels.cells.cell_at(y, x) for y, x in middle.tolist()}
    offsets, sizes = kernels.extents(sorted(cells))
    _, extents = ByteGrid.of_kernels(kernels).under(plan, targets)
    assert sorted(map(tuple, extents.tolist())) == sorted(
        zip(offsets.tolist(), (offsets + sizes).tolist(), strict=True)
    )


def test_gzipped_files_are_read_as_a_whole(dp2_repo: SimulatedRepository) -> None:
    plan = local_plan(dp2_repo.root, dp2_repo.collections, dp2_repo.truth)
    with open_coadd(plan.files.uri[0]) as coadd:
        grid = ByteGrid.of_layout(coadd.layout("image"))
    nbytes, requests = _needed(plan, {0: FileSample(np.array([[0, 100]]), (grid,), whole=True)}, 0)
    assert nbytes.tolist() == list(plan.files.size)
    assert requests.tolist() == [1] * len(plan.files)


def test_of_files_without_the_planes_only_headers_are_read(dp2_repo: SimulatedRepository) -> None:
    plan = local_plan(dp2_repo.root, dp2_repo.collections, dp2_repo.truth)
    nbytes, requests = _needed(plan, {0: FileSample(np.array([[0, 100]]), (), whole=False)}, 0)
    assert set(nbytes.tolist()) == {100}
    assert set(requests.tolist()) == {1}


def test_a_file_that_is_gone_is_left_out(
    platform: Platform, remote_dp2: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, nothing = remote_plan(remote_dp2), np.zeros(10, np.int64)
    samples = open_samples(plan, ReaderOptions(), nothing, 60.0)
    assert sorted(plan.patches.row_and_band[file, 1] for file in samples) == [0, 1, 2]
    gone = platform.log("data")[-1].path
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    platform.set(deleted=gone)
    plan = remote_plan(remote_dp2)
    assert len(open_samples(plan, ReaderOptions(), nothing, 60.0)) == 2
    assert estimate_download(plan, ReaderOptions())[0].files == 10
