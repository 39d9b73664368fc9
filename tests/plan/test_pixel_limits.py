"""Positions with enough valid pixels and depth, by what the fetcher reads there, and by exact formulae."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler

from lsstcutouts import CutoutPlan, Footprint, LsstDataFetcher, build_plan
from lsstcutouts.errors import CoverageError, ReadError
from lsstcutouts.plan.pixel_limits import point_source_depth
from lsstcutouts.testing import SimulatedRepository

SIZE = (44, 71)
"""Larger than the borders of the files, so that boxes are put together of several."""

COUNT = 400


def planned(repo: SimulatedRepository, size: tuple[int, int] = SIZE, **changes: object) -> CutoutPlan:
    footprint = Footprint(**{"n": COUNT, **changes})  # type: ignore[arg-type]
    return build_plan(repo.root, footprint, collections=repo.collections, bands="gri", size=size)


def fetched(repo: SimulatedRepository, plan: CutoutPlan, *planes: str) -> dict[str, np.ndarray]:
    size = tuple(plan.size)
    with LsstDataFetcher(
        repo.root, collections=repo.collections, bands="gri", size=size, planes=("image", "valid", *planes)
    ) as fetcher:
        return {name: np.asarray(value) for name, value in fetcher.fetch_plan(plan).items()}


def kept(repo: SimulatedRepository, every: CutoutPlan, size: tuple[int, int] = SIZE, **limits: object) -> np.ndarray:
    """Return which of the first positions without limits are drawn with limits, ``(N,)``."""
    plan = planned(repo, size, **limits)
    place = {one: number for number, one in enumerate(zip(every.ra.tolist(), every.dec.tolist(), strict=True))}
    found = [place.get(one) for one in zip(plan.ra.tolist(), plan.dec.tolist(), strict=True)]
    known = [number for number in found if number is not None]
    assert known == sorted(known) == found[: len(known)]
    met = np.zeros(len(every), bool)
    met[known] = True
    return met


@pytest.fixture(scope="module")
def every(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return planned(dp2_repo)


@pytest.fixture(scope="module")
def pixels(dp2_repo: SimulatedRepository, every: CutoutPlan) -> dict[str, np.ndarray]:
    return fetched(dp2_repo, every, "variance", "psf")


@pytest.mark.parametrize(
    ("bands", "least", "chosen"), [("any", 1, "gri"), (2, 2, "gri"), ("all", 3, "gri"), ("ri", 2, "ri")]
)
@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_the_share_of_valid_pixels_is_that_of_the_batch(
    dp2_repo: SimulatedRepository, bands: str | int, least: int, chosen: str, share: float
) -> None:
    channels = ["gri".index(band) for band in chosen]
    every = planned(dp2_repo, bands=bands)
    valid = fetched(dp2_repo, every)["valid"].mean(axis=(2, 3))[:, channels]
    wanted = (valid >= share).sum(axis=1) >= least
    assert wanted.any()
    np.testing.assert_array_equal(kept(dp2_repo, every, min_valid=share, bands=bands), wanted)


def depths(pixels: dict[str, np.ndarray]) -> np.ndarray:
    """Return 5 sigma depths ``(N, B)``: the magnitude whose flux is five times its error, in a fit with the PSF."""
    found = np.full(pixels["band_present"].shape, np.nan)
    for i, b in zip(*np.nonzero(pixels["psf_present"] & pixels["valid"].any(axis=(2, 3))), strict=True):
        variance = np.median(pixels["variance"][i, b][pixels["valid"][i, b]].astype(np.float64))
        psf = pixels["psf"][i, b].astype(np.float64)
        psf /= psf.sum()
        error = np.sqrt(variance / (psf**2).sum())  # nJy, of the least-squares flux
        found[i, b] = 8.9 - 2.5 * np.log10(5 * error * 1e-9)
    return found


def test_the_depth_is_that_of_the_batch(
    dp2_repo: SimulatedRepository, every: CutoutPlan, pixels: dict[str, np.ndarray]
) -> None:
    depth = depths(pixels)
    for limit in np.nanquantile(depth, [0.2, 0.6]).tolist():
        wanted = (depth >= limit).any(axis=1)
        np.testing.assert_array_equal(kept(dp2_repo, every, min_depth=limit), wanted)
    # Of one band: its patches alone.
    limit = float(np.nanmedian(depth[:, 1]))
    only_r = planned(dp2_repo, bands="r")
    found = depths(fetched(dp2_repo, only_r, "variance", "psf"))[:, 1] >= limit
    np.testing.assert_array_equal(kept(dp2_repo, only_r, min_depth={"r": limit}), found)
    both = (pixels["valid"].mean(axis=(2, 3)) >= 0.95) & (depth >= limit)
    np.testing.assert_array_equal(kept(dp2_repo, every, min_depth=limit, min_valid=0.95), both.any(axis=1))


def test_boxes_larger_than_patches(dp2_repo: SimulatedRepository) -> None:
    size = (230, 410)
    every = planned(dp2_repo, size, n=60)
    share = fetched(dp2_repo, every)["valid"].mean(axis=(2, 3))
    limit = float(np.median(share.max(axis=1)))
    met = kept(dp2_repo, every, size, n=60, min_valid=limit)
    np.testing.assert_array_equal(met, share.max(axis=1) >= limit)


def test_files_without_a_psf_have_the_usual_seeing(dp1_repo: SimulatedRepository) -> None:
    every = planned(dp1_repo, bands="all")  # so that each position lies on a file of each band
    found = fetched(dp1_repo, every, "variance")
    variance = np.where(found["valid"], found["variance"], np.nan).reshape(*found["band_present"].shape, -1)
    with np.errstate(all="ignore"):
        middle = np.array(
            [[np.nanmedian(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in one] for one in variance]
        )
    depth = 31.4 - 2.5 * np.log10(5 * np.sqrt(middle * 2.266 * (0.8 / 0.2) ** 2))
    limit = float(np.nanquantile(depth, 0.2))
    np.testing.assert_array_equal(kept(dp1_repo, every, bands="all", min_depth=limit), (depth >= limit).all(axis=1))


def test_the_grid_leaves_out_what_has_too_few_pixels(dp2_repo: SimulatedRepository) -> None:
    given = {"collections": "dp2", "bands": "gri", "size": 32}
    every = build_plan(dp2_repo.root, Footprint("grid"), **given)
    some = build_plan(dp2_repo.root, Footprint("grid", min_valid=1, bands="all"), **given)
    whole = fetched(dp2_repo, every)["valid"].all(axis=(1, 2, 3))
    in_all = [(every.patches.files[p] >= 0).all() for p in every.primary]
    assert 0 < len(some) < len(every)
    np.testing.assert_array_equal(some.ra, every.ra[whole & in_all])
    assert some.object_id.tolist() == list(range(len(some)))


def test_a_limit_that_nothing_meets_names_the_share(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(CoverageError, match=r"only 0 of \d+ random positions \(0.00%\) have enough valid pixels"):
        planned(dp2_repo, min_depth=40)
    with pytest.raises(CoverageError, match="only 0 of"):
        planned(dp2_repo, n=3, min_depth=40)
    with pytest.raises(CoverageError, match=r"no position of the grid .* and meets the limits"):
        planned(dp2_repo, kind="grid", n=None, min_depth=40)


def test_a_file_that_cannot_be_read_is_an_error(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(dp2_repo.root, tmp_path / "repo"))
    with Butler.from_config(str(root), collections="dp2") as butler:
        ref = butler.query_datasets(
            "deep_coadd", where="patch = 9 AND band = 'r' AND tract = 5063 AND skymap = s", bind={"s": _skymap(butler)}
        )[0]
        path = Path(butler.getURI(ref).ospath)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ReadError, match=path.name):
        build_plan(root, Footprint(n=300, min_valid=0.5, bands="r"), collections="dp2", bands="gri", size=32)
    assert len(build_plan(root, Footprint(n=300), collections="dp2", bands="gri", size=32)) == 300


def _skymap(butler: Butler) -> str:
    return str(butler.query_dimension_records("skymap")[0].name)


def test_the_formula_of_the_depth() -> None:
    # A Gaussian PSF of 0.7 arcsec on pixels of 0.2, and an error of 1 nJy per pixel.
    y, x = np.mgrid[-30:31, -30:31]
    psf = np.exp(-(y**2 + x**2) / (2 * (0.7 / 0.2 / 2.3548) ** 2))
    area = psf.sum() ** 2 / (psf**2).sum()
    assert area == pytest.approx(2.266 * (0.7 / 0.2) ** 2, rel=1e-3)
    flux_error = np.sqrt(area)
    assert point_source_depth(1.0, area) == pytest.approx(-2.5 * np.log10(5 * flux_error * 1e-9 / 3631), abs=1e-3)
    assert np.isnan(point_source_depth(float("nan"), area))
