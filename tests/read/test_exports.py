"""Cutouts of an export are those of the repository, bit for bit, with the same policies; damage is an error."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsstcutouts import QualityPolicy, ReadOptions, build_plan, export, export_plan
from lsstcutouts.errors import ConfigurationError, CorruptFileError, PlanError, ReadError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.quality import Outcome
from lsstcutouts.read.exports import stored_files
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Request, stream
from lsstcutouts.testing import SimulatedRepository

from ..support.exported import MASKS, assert_equal_batches, assert_equal_reports, exported, files_of

OPTIONS: dict[str, dict[str, Any]] = {
    "image": {},
    "all": {"planes": ("image", "variance", "ivar", "valid", "mask", "psf"), "mask_planes": ("DETECTED", "SAT")},
    "noise": {"planes": ("image", "valid"), "fill": "noise", "missing_band": "nan", "seed": 5},
    "skip": {"planes": ("ivar",), "missing_band": "skip"},
    "quality": {
        "quality": QualityPolicy(
            min_valid=1.0, max_masked={"DETECTED": 0.3}, positive_variance=True, peak_margin=2, action="skip"
        ),
        "min_bands": 1,
    },
    "psf": {"planes": ("psf",)},
}


@pytest.fixture(scope="module")
def folder(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = exported(dp2_repo, tmp_path_factory.mktemp("exports") / "export")
    assert len(files_of(folder)) > 3
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def plan_of(repo: SimulatedRepository, bands: str = "gri", size: Any = (24, 31)) -> CutoutPlan:
    return build_plan(repo.root, repo.truth, collections=repo.collections, bands=bands, size=size)


def assert_same(one: CutoutPlan, other: CutoutPlan, options: ReaderOptions) -> None:
    """Compare all targets, in order and mixed."""
    readers = CutoutReader(one, options), CutoutReader(other, options)
    mixed = np.random.default_rng(0).permutation(len(one))[:30]
    for targets in (np.arange(len(one)), mixed):
        left, right = (reader.deliver(targets) for reader in readers)
        assert_equal_batches(left.batch, right.batch)
        assert_equal_reports(left.batch_report, right.batch_report)
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("size", [(24, 31), (23, 31), (24, 30), (10, 11), (1, 1)])
@pytest.mark.parametrize("bands", ["gri", "ig", "r"])
def test_plans_are_those_of_the_repository(
    dp2_repo: SimulatedRepository, folder: Path, bands: str, size: tuple[int, int], tmp_path: Path
) -> None:
    plan, own = plan_of(dp2_repo, bands, size), export_plan(folder, bands=bands, size=size)
    own.save(tmp_path / "plan.parquet")
    for one in (own, CutoutPlan.load(tmp_path / "plan.parquet"), pickle.loads(pickle.dumps(own))):
        assert plan.fingerprint() == one.fingerprint()
        for name in ("row", "ra", "dec", "yx0", "offset", "primary", "others_start", "others", "other_tract"):
            left, right = getattr(plan, name), getattr(one, name)
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(plan.blocks(), one.blocks())
        assert plan.files.dataset_id == one.files.dataset_id
        assert (plan.size, plan.border, plan.projections) == (one.size, one.border, one.projections)
    for name in ("file", "number", "outcome", "corner", "quality"):
        np.testing.assert_array_equal(getattr(own.pixels, name), getattr(one.pixels, name))


@pytest.mark.parametrize("name", OPTIONS)
def test_batches_are_those_of_the_repository(dp2_repo: SimulatedRepository, folder: Path, name: str) -> None:
    options = ReaderOptions(**OPTIONS[name])
    for bands, size in (("gri", (24, 31)), ("ig", (24, 31)), ("ri", (23, 30)), ("r", (10, 11))):
        if name == "quality" and min(size) < 5:
            continue
        assert_same(plan_of(dp2_repo, bands, size), export_plan(folder, bands=bands, size=size), options)


def test_batches_of_exposures(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    planes = ("image", "variance", "valid")
    folder = exported(dp1_repo, tmp_path / "export", planes=planes, read=ReadOptions())
    for size in ((24, 31), (7, 8)):
        assert_same(
            plan_of(dp1_repo, size=size), export_plan(folder, size=size), ReaderOptions(planes=(*planes, "ivar"))
        )


def test_threads_read_the_same(dp2_repo: SimulatedRepository, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_files, "_MOST_OPEN", 2)
    options = ReaderOptions(**OPTIONS["all"])
    plan, own = plan_of(dp2_repo), export_plan(folder)
    order = np.random.default_rng(1).permutation(len(own))
    requests = [Request(order[at : at + 9]) for at in range(0, len(order), 9)]
    found = stream(CutoutReader(own, options), requests, threads=3, ahead=3, then=lambda made: made.batch)
    reader = CutoutReader(plan, options)
    for request, batch in zip(requests, found, strict=True):
        assert_equal_batches(reader.read(request.targets), batch)


def test_nan_fills(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    read = ReadOptions(fill="nan")
    folder = exported(dp2_repo, tmp_path / "export", planes=("image", "valid"), read=read)
    for size in ((24, 31), (8, 9)):
        assert_same(
            plan_of(dp2_repo, size=size),
            export_plan(folder, size=size),
            ReaderOptions.of(read, planes=("image", "valid")),
        )
    with pytest.raises(ConfigurationError, match="fill=nan; give that, or export again"):
        CutoutReader(export_plan(folder))


def test_planes_that_are_stored_alone(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    folder = exported(dp2_repo, tmp_path / "export", planes=("ivar",), read=ReadOptions())
    assert_same(plan_of(dp2_repo), export_plan(folder), ReaderOptions(planes=("ivar",)))
    for options, words in (
        ({}, "no plane 'image', which planes="),
        ({"planes": ("ivar",), "fill": "noise"}, "no plane 'image', which fill='noise' needs"),
        ({"planes": ("ivar",), "quality": QualityPolicy()}, "which the quality policy needs"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            CutoutReader(export_plan(folder), ReaderOptions(**options))


def test_float16_is_as_exact_as_it_can_be(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    planes = ("image", "variance", "valid")
    folder = exported(dp2_repo, tmp_path / "export", planes=planes, read=ReadOptions(), dtype="float16")
    for size, bands in (((24, 31), "gri"), ((11, 12), "ig")):
        exact = CutoutReader(plan_of(dp2_repo, bands, size), ReaderOptions(planes=planes)).read(np.arange(60))
        found = CutoutReader(export_plan(folder, bands=bands, size=size), ReaderOptions(planes=planes)).read(
            np.arange(60)
        )
        for name in ("image", "variance"):
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], exact[name], rtol=2**-10, atol=2**-14)
        np.testing.assert_array_equal(found["valid"], exact["valid"])


def test_rows_that_the_export_left_out_stay_left_out(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    read = ReadOptions(missing_band="skip")
    folder = exported(dp2_repo, tmp_path / "export", planes=("image", "valid"), read=read)
    options = ReaderOptions(planes=("image", "valid"))
    plan = plan_of(dp2_repo)
    assert_same(plan, export_plan(folder), ReaderOptions.of(read, planes=("image", "valid")))
    one = CutoutReader(plan, ReaderOptions.of(read, planes=("image", "valid"))).deliver(np.arange(len(plan)))
    other = CutoutReader(export_plan(folder), options).deliver(np.arange(len(plan)))
    assert (other.batch_report.outcome == Outcome.MISSING_BAND).sum() > 5
    assert_equal_reports(one.batch_report, other.batch_report)


def test_pixels_that_could_not_be_read(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    shutil.copytree(dp2_repo.root, tmp_path / "repo")
    plan = build_plan(tmp_path / "repo", dp2_repo.truth, collections="dp2", bands="gri", size=(24, 31))
    broken = Path(plan.files.uri[0])
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[:3000])
    read = ReadOptions(on_read_error="mask")
    folder = tmp_path / "export"
    export(
        *(dp2_repo.truth, tmp_path / "repo", folder),
        collections="dp2", bands="gri", size=(24, 31), read=read, planes=("image", "valid"), threads=1,
    )  # fmt: skip
    for action in ("mask", "skip"):
        assert_same(plan, export_plan(folder), ReaderOptions(on_read_error=action, planes=("image", "valid")))
    with pytest.raises(ReadError, match="could not be read when it was exported"):
        CutoutReader(export_plan(folder)).read(np.arange(len(plan)))


def rewritten(path: Path, **options: Any) -> None:
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table, path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "row_group_size": 5},
        {
            "compression": "none",
            "use_byte_stream_split": ["flux.list.element.list.element.list.element"],
            "use_dictionary": False,
        },
        {"compression": "none", "use_dictionary": False, "row_group_size": 7, "data_page_size": 2**30},
    ],
)
def test_files_that_were_written_again(dp2_repo: SimulatedRepository, copy: Path, options: dict[str, Any]) -> None:
    for path in files_of(copy):
        rewritten(path, **options)
    assert_same(plan_of(dp2_repo), export_plan(copy), ReaderOptions(**OPTIONS["all"]))
    assert_same(plan_of(dp2_repo, "ig", 9), export_plan(copy, bands="ig", size=9), ReaderOptions(**OPTIONS["all"]))


def test_files_that_lsdb_wrote(dp2_repo: SimulatedRepository, copy: Path, tmp_path: Path) -> None:
    catalog = lsdb.open_catalog(copy)
    catalog.write_catalog(tmp_path / "again", catalog_name="again", as_collection=False, progress_bar=False)
    for path in files_of(copy):
        name = path.relative_to(copy / "cutouts")
        shutil.copy(tmp_path / "again" / name, path)
    assert_same(plan_of(dp2_repo), export_plan(copy), ReaderOptions(**OPTIONS["all"]))


def damages() -> Iterator[tuple[str, Any]]:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1000])

    def swap(path: Path) -> None:
        other = next(one for one in path.parents[2].rglob("Npix=*.parquet") if one != path)
        shutil.copy(other, path)

    def shuffle(path: Path) -> None:
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.take(pa.array(np.arange(len(table))[::-1])), path)

    def lose(path: Path) -> None:
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.drop_columns(["flux"]), path)

    def smaller(path: Path) -> None:
        table = pq.read_table(path, partitioning=None)
        at = table.column_names.index("flux")
        pq.write_table(
            table.set_column(
                at, "flux", table["variance"].combine_chunks().cast(pa.list_(pa.list_(pa.list_(pa.float64()))))
            ),
            path,
        )

    yield "truncated", cut
    yield "another file", swap
    yield "another order", shuffle
    yield "without the column", lose
    yield "other values", smaller
    yield "missing", Path.unlink


@pytest.mark.parametrize(("name", "damage"), list(damages()))
def test_a_damaged_file_is_an_error(copy: Path, name: str, damage: Any) -> None:
    plan = export_plan(copy)
    assert plan.pixels is not None
    path = copy / plan.pixels.paths[0]
    damage(path)
    with pytest.raises(ReadError, match=path.name):
        CutoutReader(plan).read(np.arange(len(plan)))


def test_a_file_that_is_cut_while_it_is_read(copy: Path) -> None:
    plan = export_plan(copy)
    assert plan.pixels is not None
    reader = CutoutReader(plan)
    targets = np.flatnonzero(plan.pixels.file == 0)
    before = reader.read(targets)
    path = copy / plan.pixels.paths[0]
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CorruptFileError, match=path.name):
        reader.read(targets)
    reader.close()
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="replaced"):
        reader.read(targets)
    assert_equal_batches(before, CutoutReader(plan).read(targets))


def test_readers_pickle_without_open_files(folder: Path) -> None:
    plan = export_plan(folder)
    reader = CutoutReader(plan)
    before = reader.read(np.arange(9))
    again = pickle.loads(pickle.dumps(reader._executor._files))
    assert not again._open
    assert not again._known
    assert_equal_batches(before, CutoutReader(pickle.loads(pickle.dumps(plan))).read(np.arange(9)))


def test_a_folder_that_moved(copy: Path) -> None:
    plan = export_plan(copy)
    shutil.move(copy, copy.with_name("moved"))
    with pytest.raises(PlanError, match="check the path"):
        CutoutReader(plan)


def test_what_is_read_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = export_plan(folder)
    assert plan.pixels is not None
    files = stored_files.StoredFiles(plan.pixels, {})
    two = np.array([0, 2])
    assert files.begin(two) == ([0, 2], True)
    assert files.begin(two) == ([], False)
    for _ in range(stored_files._FORGOTTEN):
        files.begin(np.array([0]))
    assert files.begin(two) == ([2], True)
    monkeypatch.setattr(stored_files, "available_memory", lambda: 1000)
    assert files.begin(np.array([1])) == ([1], False)


def test_unknown_masks_are_refused(folder: Path) -> None:
    options = ReaderOptions(planes=("mask",), mask_planes=(*MASKS, "STREAK"))
    with pytest.raises(ConfigurationError, match="it has SATURATED, NO_DATA, DETECTED"):
        CutoutReader(export_plan(folder), options)
