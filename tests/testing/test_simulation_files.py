"""Coadd files, read back by independent readers: the Butler, `lsst.images` and astropy."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import lsst.images as li
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler, DatasetRef

from lsstcutouts.testing import SimulatedRepository, SimulationConfig, simulate, skymap_of
from lsstcutouts.testing.dp1 import write_exposure
from lsstcutouts.testing.exposure import CoaddPixels, expose_patch
from lsstcutouts.testing.holes import punched
from lsstcutouts.testing.truth import draw_sky

DP2_PLANES = {
    "NO_DATA",
    "INTERPOLATED",
    "COSMIC_RAY",
    "SATURATED",
    "DETECTION_EDGE",
    "CLIPPED",
    "REJECTED",
    "DETECTED",
    "INEXACT_PSF",
}


@pytest.fixture(scope="module")
def dp2(dp2_repo: SimulatedRepository) -> Iterator[Butler]:
    with Butler.from_config(str(dp2_repo.root), collections="dp2") as butler:
        yield butler


@pytest.fixture(scope="module")
def dp2_coadds(dp2: Butler) -> dict[tuple[int, str], li.cells.CellCoadd]:
    return {key(ref): dp2.get(ref) for ref in dp2.query_datasets("deep_coadd")}


@pytest.fixture(scope="module")
def dp1_paths(dp1_repo: SimulatedRepository) -> dict[tuple[int, str], Path]:
    return paths(dp1_repo)


def paths(repo: SimulatedRepository) -> dict[tuple[int, str], Path]:
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        return {key(ref): Path(butler.getURI(ref).ospath) for ref in butler.query_datasets("deep_coadd")}


def key(ref: DatasetRef) -> tuple[int, str]:
    return int(ref.dataId["patch"]), str(ref.dataId["band"])


def rendered(repo: SimulatedRepository, patch: int) -> dict[str, CoaddPixels]:
    """Return what was written, before any file format."""
    config = repo.config
    skymap = skymap_of(config)
    files = expose_patch(config, skymap, draw_sky(config, skymap).sources, patch)
    return {pixels.band: punched(pixels, config) for pixels in files}


def test_dp2_coadds_know_what_they_are(dp2_coadds: dict[tuple[int, str], li.cells.CellCoadd]) -> None:
    for (patch, band), coadd in dp2_coadds.items():
        row, column = divmod(patch, 5)
        assert (coadd.skymap, coadd.tract, coadd.band) == ("simulated_dp2_3x4_60x75_4x5", 5063, band)
        assert (coadd.patch.id, coadd.patch.index) == (patch, li.YX(row, column))
        assert coadd.patch.inner_bbox == li.Box.factory[row * 180 : row * 180 + 180, column * 300 : column * 300 + 300]
        outer = li.Box.factory[row * 180 - 60 : row * 180 + 240, column * 300 - 75 : column * 300 + 375]
        assert coadd.bbox == coadd.patch.outer_bbox == outer
        assert coadd.grid.cell_shape == li.YX(60, 75)
        assert str(coadd.image.unit) == "nJy"
        assert str(coadd.variance.unit) == "nJy2"
        assert coadd.psf.kernel_bbox.shape == (35, 35)


def test_dp2_boxes_are_read_alone(dp2: Butler, dp2_coadds: dict[tuple[int, str], li.cells.CellCoadd]) -> None:
    ref = dp2.find_dataset("deep_coadd", tract=5063, patch=9, band="r", skymap="simulated_dp2_3x4_60x75_4x5")
    whole = dp2_coadds[9, "r"]
    box = li.Box.factory[190:260, 1180:1290]
    part = dp2.get(ref, parameters={"bbox": box})
    np.testing.assert_array_equal(part.image.array, whole.image[box].array)
    np.testing.assert_array_equal(part.mask.array, whole.mask[box].array)
    np.testing.assert_array_equal(part.variance.array, whole.variance[box].array)


def test_dp2_lossy_pixels_are_the_rendered_ones_to_a_fraction_of_the_noise(
    dp2_repo: SimulatedRepository, dp2_coadds: dict[tuple[int, str], li.cells.CellCoadd]
) -> None:
    for band, pixels in rendered(dp2_repo, 9).items():
        coadd = dp2_coadds[9, band]
        error = coadd.image.array - pixels.image
        assert 0 < np.abs(error).max() < 0.1 * np.sqrt(np.median(pixels.variance))
        for name, where in pixels.masks.items():
            np.testing.assert_array_equal(coadd.mask.get(name), where)


def test_dp2_without_data(dp2_coadds: dict[tuple[int, str], li.cells.CellCoadd]) -> None:
    empty = 0
    for coadd in dp2_coadds.values():
        no_data = coadd.mask.get("NO_DATA")
        np.testing.assert_array_equal(np.isposinf(coadd.variance.array), no_data)
        assert np.isfinite(coadd.image.array).all()
        assert np.abs(coadd.image.array[no_data]).max(initial=0.0) < 1.0
        assert (coadd.variance.array[~no_data] > 0).all()
        for box in coadd.bounds.missing_boxes():
            empty += 1
            assert coadd.mask[box].get("NO_DATA").all()
            with pytest.raises(li.BoundsError):
                coadd.psf.compute_kernel_image(x=box.x.start + 1, y=box.y.start + 1)
    assert empty == 3
    assert sum(c.mask.get("NO_DATA").any() for c in dp2_coadds.values()) > empty


def test_dp2_point_spread_is_nan_in_empty_cells_only(dp2: Butler) -> None:
    for ref in dp2.query_datasets("deep_coadd"):
        with fits.open(dp2.getURI(ref).ospath) as hdus:
            stored = hdus["PSF"].data
        assert stored.shape == (5, 6, 35, 35)
        missing = dp2.get(ref.makeComponentRef("psf")).bounds.missing
        assert {(int(i), int(j)) for i, j in np.argwhere(np.isnan(stored).any(axis=(2, 3)))} == {
            (cell.i, cell.j) for cell in missing
        }
        assert np.nansum(stored, axis=(2, 3)).max() < 1.001


def test_dp2_mask_planes_are_shuffled(dp2_coadds: dict[tuple[int, str], li.cells.CellCoadd]) -> None:
    orders = {tuple(plane.name for plane in coadd.mask.schema) for coadd in dp2_coadds.values()}
    assert len(orders) > 5
    assert all(set(order) == DP2_PLANES for order in orders)
    for plane in sorted(DP2_PLANES):
        assert any(coadd.mask.get(plane).any() for coadd in dp2_coadds.values()), plane


def test_dp2_files_are_compressed_as_asked_for(dp2: Butler, tmp_path: Path) -> None:
    config = SimulationConfig(
        cells=1, cell=(50, 60), grid=1, patches=1, bands="r", targets=4, missing=None, compression="lossless",
        mask_fractions=True, noise_realizations=2,
    )  # fmt: skip
    lossless = simulate(tmp_path / "repo", config)
    with Butler.from_config(str(lossless.root), collections="dp2") as butler:
        ref = butler.query_datasets("deep_coadd")[0]
        coadd, path = butler.get(ref), butler.getURI(ref).ospath
    (pixels,) = rendered(lossless, 0).values()
    np.testing.assert_array_equal(coadd.image.array, pixels.image)
    np.testing.assert_array_equal(coadd.variance.array[~pixels.no_data], pixels.variance[~pixels.no_data])
    assert [noise.array.shape for noise in coadd.noise_realizations] == [(150, 180)] * 2
    assert set(coadd.mask_fractions) == {"rejected"}
    assert compression(path) == {"IMAGE": "GZIP_2", "MASK": "GZIP_2", "VARIANCE": "GZIP_2"}
    lossy = dp2.getURI(dp2.query_datasets("deep_coadd")[0]).ospath
    assert compression(lossy) == {"IMAGE": "RICE_1", "MASK": "GZIP_2", "VARIANCE": "RICE_1"}


def compression(path: str) -> dict[str, str]:
    with fits.open(path, disable_image_compression=True) as hdus:
        return {name: hdus[name].header["ZCMPTYPE"] for name in ("IMAGE", "MASK", "VARIANCE")}


def test_dp1_files_read_back_through_lsst_images(
    dp1_repo: SimulatedRepository, dp1_paths: dict[tuple[int, str], Path]
) -> None:
    for patch in (8, 14):
        for band, pixels in rendered(dp1_repo, patch).items():
            back = li.MaskedImage.read_legacy(str(dp1_paths[patch, band]))
            np.testing.assert_array_equal(back.image.array, np.where(pixels.no_data, np.nan, pixels.image))
            np.testing.assert_array_equal(np.isfinite(back.variance.array), ~pixels.no_data)
            np.testing.assert_array_equal(back.variance.array[~pixels.no_data], pixels.variance[~pixels.no_data])
            assert back.bbox.start == li.YX(pixels.box.y0, pixels.box.x0)
            assert str(back.image.unit) == "nJy"
            assert set(back.mask.schema.names) >= DP2_PLANES
            for name in back.mask.schema.names:
                np.testing.assert_array_equal(back.mask.get(name), pixels.masks.get(name, np.zeros((), bool)))


def test_dp1_layout_is_that_of_afw(dp1_paths: dict[tuple[int, str], Path]) -> None:
    orders = set()
    for path in dp1_paths.values():
        with fits.open(path, disable_image_compression=True) as hdus:
            assert [hdu.name for hdu in hdus][:5] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "ARCHIVE_INDEX"]
            assert hdus[0].header["AR_HDU"] == 5
            assert [hdu.header["EXTTYPE"] for hdu in hdus[1:]] == [
                "IMAGE", "MASK", "VARIANCE", "ARCHIVE_INDEX", "ARCHIVE_DATA",
            ]  # fmt: skip
            for hdu in hdus[1:4]:
                header = hdu.header
                assert (header["ZCMPTYPE"], header["ZTILE1"], header["ZTILE2"]) == ("GZIP_2", header["ZNAXIS1"], 1)
                assert header.get("ZQUANTIZ", "NONE") in {"NONE", "NO_DITHER"}
                assert (header["CRVAL1A"], header["CRVAL2A"]) == (-header["LTV1"], -header["LTV2"])
            bits = {card.keyword: card.value for card in hdus["MASK"].header.cards if card.keyword.startswith("MP_")}
            assert sorted(bits.values()) == list(range(19))
            orders.add(tuple(sorted(bits.items())))
            assert hdus["IMAGE"].header["BUNIT"] == "nJy"
            assert hdus["VARIANCE"].header["BUNIT"] == "nJy**2"
    assert len(orders) == len(dp1_paths)


def test_dp1_full_size_borders() -> None:
    skymap = skymap_of(SimulationConfig(release="dp1", cells=20))
    assert skymap.outer_box(14).shape == (3400, 3400)


def test_dp1_files_are_the_same_each_time(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    pixels = rendered(dp1_repo, 9)["r"]
    for name in ("one", "two"):
        write_exposure(tmp_path / name, pixels, skymap_of(dp1_repo.config), np.random.default_rng(1), {"patch": 9})
    # Not byte by byte: the streams of a gzip tile hold the time.
    assert fits.FITSDiff(str(tmp_path / "one"), str(tmp_path / "two")).identical


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_wcs_of_every_file_is_the_tracts(release: str, request: pytest.FixtureRequest) -> None:
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    tract = skymap_of(repo.config).wcs
    y, x = np.mgrid[100:700:100, 700:1400:100]
    for path in paths(repo).values():
        header = fits.getheader(path, "IMAGE")
        x0, y0 = header["CRVAL1A"], header["CRVAL2A"]
        ra, dec = WCS(header).all_pix2world(x - x0, y - y0, 0)
        np.testing.assert_allclose(tract.all_world2pix(ra, dec, 0), (x, y), atol=1e-6)


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_targets_are_where_the_truth_says(release: str, request: pytest.FixtureRequest) -> None:
    """In every file that covers them; a shift by half a pixel would show."""
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    truth = pq.read_table(repo.truth).to_pylist()
    offsets: dict[str, list[tuple[float, float]]] = {"star": [], "galaxy": [], "lens": []}
    for patch in repo.patches:
        with fits.open(paths(repo)[patch, "r"]) as hdus:
            image, wcs = np.nan_to_num(hdus["IMAGE"].data), WCS(hdus["IMAGE"].header)
        for row in truth:
            offset = centroid_offset(image, wcs, row)
            if offset is not None:
                offsets[row["kind"]].append(offset)
    assert len(offsets["star"]) > len(repo.patches)
    assert np.abs(offsets["star"]).max() < 0.35
    for found in offsets.values():
        assert np.abs(np.median(found, axis=0)).max() < 0.2


def centroid_offset(image: np.ndarray, wcs: WCS, row: dict[str, float]) -> tuple[float, float] | None:
    """Return how far the middle of the light lies from the true place, ``(y, x)``; None where there are no data."""
    x, y = (float(v) for v in wcs.all_world2pix(row["ra"], row["dec"], 0))
    row0, column0 = round(y) - 4, round(x) - 4
    if min(row0, column0) < 0:
        return None
    stamp = np.maximum(image[row0 : row0 + 9, column0 : column0 + 9], 0.0)
    if stamp.shape != (9, 9) or (stamp == 0).sum() > 20:
        return None
    grid = np.arange(9)
    return (
        row0 + float((stamp.sum(axis=1) * grid).sum() / stamp.sum()) - y,
        column0 + float((stamp.sum(axis=0) * grid).sum() / stamp.sum()) - x,
    )


def test_noise_is_what_the_variance_says_and_each_files_own(dp2_repo: SimulatedRepository) -> None:
    sky = {patch: rendered(dp2_repo, patch)["r"] for patch in (8, 9)}
    common = sky[8].box.intersection(sky[9].box)
    assert common.area > 40_000
    parts = [(p.image[common.slices(p.box.start)], p) for p in sky.values()]
    quiet = ~np.logical_or.reduce(
        [p.masks[name][common.slices(p.box.start)] for p in sky.values() for name in ("DETECTED", "NO_DATA")]
    )
    variance = sum(p.variance[common.slices(p.box.start)] for p in sky.values())
    pull = ((parts[0][0] - parts[1][0]) / np.sqrt(variance))[quiet]
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert abs(pull.mean()) < 0.1
    # The light of the sources is the same in both, whatever the noise.
    bright = ~quiet & (parts[0][0] > 200) & (parts[1][0] > 200)
    assert np.corrcoef(parts[0][0][bright], parts[1][0][bright])[0, 1] > 0.95


def test_mask_planes_imply_each_other(dp2_repo: SimulatedRepository) -> None:
    for pixels in itertools.chain(rendered(dp2_repo, 8).values(), rendered(dp2_repo, 13).values()):
        planes = pixels.masks
        assert not (planes["SATURATED"] & ~planes["REJECTED"]).any()
        assert not (planes["CLIPPED"] & ~planes["REJECTED"]).any()
        assert not (planes["REJECTED"] & ~planes["INEXACT_PSF"]).any()
        assert planes["DETECTED"].any()
