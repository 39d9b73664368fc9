"""Repositories as a whole: records, collections, the truth table, the promises of `simulate`."""

from dataclasses import replace
from pathlib import Path

import lsst.images as li
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType  # type: ignore[attr-defined]
from lsst.sphgeom import LonLat, UnitVector3d

from lsstcutouts.errors import ConfigurationError, RepositoryNotFoundError
from lsstcutouts.testing import SimulatedRepository, SimulationConfig, simulate, skymap_of
from lsstcutouts.testing.simulation import _whole_or_nothing
from lsstcutouts.testing.truth import draw_sky

TINY = SimulationConfig(cells=2, cell=(40, 50), grid=(2, 3), patches=1, bands="gi", targets=20, missing=None)


@pytest.fixture(params=["dp2", "dp1"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    found: SimulatedRepository = request.getfixturevalue(f"{request.param}_repo")
    return found


def opened(repo: SimulatedRepository) -> Butler:
    return Butler.from_config(str(repo.root), collections=repo.collections)


def test_every_coadd_but_the_missing_ones_is_found_in_the_chain(repo: SimulatedRepository) -> None:
    with opened(repo) as butler:
        found = {(r.dataId["patch"], r.dataId["band"]) for r in butler.query_datasets(repo.dataset_type, limit=None)}
        assert butler.collections.get_info(repo.collections).type is CollectionType.CHAINED
        every = {(patch, band) for patch in (8, 9, 13, 14) for band in "gri"}
        assert found == every - {(8, "g"), (14, "i")}
        assert butler.find_dataset("deep_coadd", tract=5063, patch=8, band="g", skymap=repo.skymap) is None


def test_collections_and_storage_classes_are_named_as_in_the_releases(
    dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository
) -> None:
    assert (dp2_repo.collections, dp1_repo.collections) == ("dp2", "LSSTComCam/DP1")
    with opened(dp2_repo) as dp2, opened(dp1_repo) as dp1:
        assert dp2.get_dataset_type("deep_coadd").storageClass_name == "CellCoadd"
        assert dp1.get_dataset_type("deep_coadd").storageClass_name == "ExposureF"
        assert {r.name for r in dp2.query_dimension_records("instrument")} == {"LSSTCam"}
        assert {r.name for r in dp1.query_dimension_records("instrument")} == {"LSSTComCam"}


def test_dp1_files_are_recorded_with_the_formatter_of_afw(dp1_repo: SimulatedRepository) -> None:
    with opened(dp1_repo) as butler:
        ref = butler.query_datasets("deep_coadd")[0]
        found = butler.get_dataset(ref.id, datastore_records=True)
        assert found is not None
        (info,) = (info for infos in found._datastore_records.values() for info in infos)
        assert info.formatter == "lsst.obs.base.formatters.fitsExposure.FitsExposureFormatter"
        assert not Path(info.path).is_absolute()
        assert info.file_size == butler.getURI(ref).size()


def test_regions_are_those_of_the_boxes(repo: SimulatedRepository) -> None:
    with opened(repo) as butler:
        patches = butler.query_dimension_records("patch", tract=5063, skymap=repo.skymap)
        (tract,) = butler.query_dimension_records("tract", skymap=repo.skymap)
        (skymap,) = butler.query_dimension_records("skymap", skymap=repo.skymap)
    assert (skymap.patch_nx_max, skymap.patch_ny_max, skymap.tract_max) == (5, 4, 18938)
    geometry = skymap_of(repo.config)
    assert sorted(p.id for p in patches) == list(range(20))
    for record in patches:
        assert (record.cell_y, record.cell_x) == divmod(record.id, 5)
        assert_corners(record.region, geometry.outer_box(record.id), geometry.wcs)
    assert_corners(tract.region, (0, 4 * 180, 0, 5 * 300), geometry.wcs)


def assert_corners(region: object, box: tuple[int, int, int, int], wcs: WCS) -> None:
    y0, y1, x0, x1 = (edge - 0.5 for edge in box)
    vertices = [LonLat(vertex) for vertex in region.getVertices()]  # type: ignore[attr-defined]
    ra, dec = np.array([[v.getLon().asDegrees(), v.getLat().asDegrees()] for v in vertices]).T
    x, y = wcs.all_world2pix(ra, dec, 0)
    corners = sorted((round(a, 3), round(b, 3)) for a, b in zip(y, x, strict=True))
    assert corners == [(y0, x0), (y0, x1), (y1, x0), (y1, x1)]


def test_truth_patches_are_those_whose_region_holds_the_target(repo: SimulatedRepository) -> None:
    truth = pq.read_table(repo.truth).to_pylist()
    with opened(repo) as butler:
        regions = {p.id: p.region for p in butler.query_dimension_records("patch", skymap=repo.skymap)}
    for row in truth:
        assert regions[row["patch"]].contains(UnitVector3d(LonLat.fromDegrees(row["ra"], row["dec"])))


def test_truth_table_is_whole_and_says_its_units(repo: SimulatedRepository) -> None:
    table = pq.read_table(repo.truth)
    assert table.num_rows == 80
    assert table.schema.field("ra").metadata[b"unit"] == b"deg"
    columns = table.to_pydict()
    assert len(set(columns["object_id"])) == 80
    assert min(columns["object_id"]) > 2**53
    assert {"flux_g", "flux_r", "flux_i"} <= set(columns)
    kinds = np.array(columns["kind"])
    assert set(kinds) == {"lens", "galaxy", "star"}
    np.testing.assert_array_equal(np.array(columns["label"]) == 1, kinds == "lens")
    einstein = np.array(columns["theta_e"])
    assert np.all((einstein[kinds == "lens"] >= 0.8) & (einstein[kinds == "lens"] <= 2.0))
    assert not einstein[kinds != "lens"].any()


def test_targets_stand_where_they_are_hard_to_cut_out(repo: SimulatedRepository) -> None:
    geometry = skymap_of(repo.config)
    truth = pq.read_table(repo.truth).to_pandas()
    outer = np.array([geometry.outer_box(patch) for patch in repo.patches])
    y, x = truth["y"].to_numpy()[:, None], truth["x"].to_numpy()[:, None]
    covered = (y >= outer[:, 0]) & (y < outer[:, 1]) & (x >= outer[:, 2]) & (x < outer[:, 3])
    assert covered.any(axis=1).all()
    assert (covered.sum(axis=1) > 1).any(), "none in an overlap"
    assert (~truth["patch"].isin(repo.patches)).any(), "none in the outermost border"
    to_edge = np.minimum(truth["y"] % 180, truth["x"] % 300)
    assert (to_edge < 16).any(), "none near the edge of a patch"


def test_fluxes_of_lenses_and_others_are_drawn_alike() -> None:
    config = replace(TINY, cells=4, cell=100, patches=2, grid=10, targets=900, bands="u")
    truth = draw_sky(config, skymap_of(config)).truth.to_pandas()
    lens, other = (np.sort(group["flux_u"]) for _, group in truth.groupby("label", sort=True))
    both = np.concatenate([lens, other])
    steps = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (lens, other)]
    # Kolmogorov-Smirnov statistic; its 99.9 % point for two samples of equal distribution is 1.95 / sqrt(n m / (n + m)).
    assert np.abs(steps[0] - steps[1]).max() < 1.95 / np.sqrt(len(lens) * len(other) / 900)


def test_pixels_follow_from_the_seed(tmp_path: Path) -> None:
    first, again, other = (simulate(tmp_path / str(n), replace(TINY, seed=seed)) for n, seed in enumerate((3, 3, 4)))
    assert pq.read_table(first.truth).equals(pq.read_table(again.truth))
    assert not pq.read_table(first.truth).equals(pq.read_table(other.truth))
    for band in "gi":
        one, two, three = (read(repo, band) for repo in (first, again, other))
        np.testing.assert_array_equal(one.image.array, two.image.array)
        np.testing.assert_array_equal(one.variance.array, two.variance.array)
        np.testing.assert_array_equal(one.mask.array, two.mask.array)
        assert list(one.mask.schema) == list(two.mask.schema)
        assert (one.image.array != three.image.array).mean() > 0.9


def read(repo: SimulatedRepository, band: str) -> li.cells.CellCoadd:
    with opened(repo) as butler:
        return butler.get("deep_coadd", tract=repo.tract, patch=repo.patches[0], band=band, skymap=repo.skymap)


def test_a_repository_can_be_moved_and_loaded(tmp_path: Path) -> None:
    written = simulate(tmp_path / "a place = (of) [mine]" / "repo", TINY)
    moved = written.root.rename(tmp_path / "else where")
    loaded = SimulatedRepository.load(moved)
    assert loaded == replace(written, root=moved)
    assert read(loaded, "g").band == "g"
    assert "2 coadds" in loaded.describe()
    with pytest.raises(RepositoryNotFoundError, match="no simulated repository"):
        SimulatedRepository.load(written.root)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigurationError, match="not an empty folder"):
            simulate(tmp_path / "mine", TINY, overwrite=overwrite)
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        simulate(tmp_path / "mine" / "thesis.tex", TINY)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_only_overwrite_replaces_an_earlier_repository(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    simulate(tmp_path / "repo", TINY)
    with pytest.raises(ConfigurationError, match="overwrite"):
        simulate(tmp_path / "repo", TINY)
    assert simulate(tmp_path / "repo", replace(TINY, bands="r"), overwrite=True).bands == ("r",)
    assert read(SimulatedRepository.load(tmp_path / "repo"), "r").band == "r"
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_nothing_remains_of_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="targets"):
        simulate(tmp_path / "repo", replace(TINY, targets=100_000))
    with pytest.raises(RuntimeError, match="power cut"):
        write_half_of_it(tmp_path / "repo")
    assert not any(tmp_path.iterdir())


def write_half_of_it(root: Path) -> None:
    with _whole_or_nothing(root) as folder:
        (folder / "butler.yaml").write_text("half")
        assert not root.exists()
        raise RuntimeError("power cut")


def test_settings_are_kept_beside_the_data(repo: SimulatedRepository) -> None:
    assert repo.config.patch_ids == repo.patches
    assert repo.config.missing_files == set(repo.missing)


def test_progress_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "silent", replace(TINY, bands="r"))
    assert not any(capsys.readouterr())
    simulate(tmp_path / "told", replace(TINY, bands="r"), progress=True)
    assert "1/1" in "".join(capsys.readouterr())


@pytest.mark.parametrize("targets", [1, 3, 40, 300])
@pytest.mark.parametrize(
    "changes",
    [
        {"cell": 40, "grid": 4, "patches": 4},  # patches that fill their tract, with nothing around them
        {"cell": (20, 90), "grid": (3, 5), "patches": list(range(15))},
        {"cell": 80, "grid": 4, "patches": [0]},  # in a corner: few places around it
        {"cell": (16, 400), "grid": (9, 3), "patches": [4, 22]},
    ],
)
def test_targets_find_a_place_wherever_there_is_room(changes: dict[str, object], targets: int) -> None:
    config = SimulationConfig(**{"cells": 1, "bands": "g", "targets": targets, **changes})  # type: ignore[arg-type]
    skymap = skymap_of(config)
    inner = [skymap.inner_box(patch) for patch in config.patch_ids]
    area = sum(box.area for box in inner)
    if area / 1.3 / targets < 64:
        with pytest.raises(ConfigurationError, match="use fewer targets, or more or larger patches"):
            draw_sky(config, skymap)
        # Its advice helps.
        few = replace(config, targets=area // 150)
        assert len(draw_sky(few, skymap).truth) == few.targets
        return
    truth = draw_sky(config, skymap).truth.to_pandas()
    assert len(truth) == targets
    outer = [skymap.outer_box(patch).intersection(skymap.tract_box) for patch in config.patch_ids]
    for y, x in zip(truth.y, truth.x, strict=True):
        assert any(b.y0 <= y < b.y1 and b.x0 <= x < b.x1 for b in outer)


def test_the_smallest_tract_that_its_patches_fill(tmp_path: Path) -> None:
    repo = simulate(tmp_path / "repo", SimulationConfig(cells=1, cell=40, grid=3, patches=3, bands="g", targets=9))
    with opened(repo) as butler:
        assert len(butler.query_datasets("deep_coadd", limit=None)) == 9


def test_pixels_of_another_scale_are_a_skymap_of_their_own() -> None:
    config = replace(TINY, pixel_scale=0.168)
    one, other = skymap_of(config), skymap_of(TINY)
    assert one.name != other.name
    assert one.hash != other.hash
    assert not replace(TINY, cells=20, cell=150, grid=10, pixel_scale=0.168).is_full_size
    corner = one.sky([0, 0], [0, 100])
    ra, dec = np.radians(corner)
    side = np.degrees(np.hypot((ra[1] - ra[0]) * np.cos(dec[0]), dec[1] - dec[0])) * 3600
    assert side == pytest.approx(16.8, rel=1e-4)
    for bad in (0, -0.2, "0.2", 11):
        with pytest.raises(ConfigurationError, match="pixel_scale"):
            replace(TINY, pixel_scale=bad)
