"""Files written by afw, of every age: each against astropy, box by box."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import CorruptFileError, GeometryMismatchError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.sky.geometry import Box, TanProjection
from lsstcutouts.sky.skymap import check_projection, unit_vectors

from ..support import afw
from ..support.afw import BITS, GRID, LINEAR, LTV, SHAPE, START, compare, image, mask, mask_cards, plane, planes, save

BBOX = Box.from_start(START, afw.YX(*SHAPE))
TRACT = TanProjection(crval=(53.0, -28.0), crpix=(14999.0, 14999.0), cd=(-0.2 / 3600, 0.0, 0.0, 0.2 / 3600))


def compare_with_astropy(path: Path, hdus: dict[str, int]) -> None:
    with open_coadd(path) as coadd, fits.open(path) as expected:
        assert coadd.bbox == BBOX
        for name, number in hdus.items():
            compare(coadd, name, expected[number].data)


# Which HDU is which, and where it lies


@pytest.mark.parametrize("compression", [None, "GZIP_2", "RICE_1"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("origin", [LTV, LINEAR, LTV | LINEAR])
def test_names_and_origins(tmp_path: Path, named: bool, origin: afw.Cards, compression: str | None) -> None:
    hdus = planes(origin, GRID, named=named, compression=compression)
    if compression == "RICE_1":  # of integers only: floats would be quantised
        hdus[0], hdus[2] = planes(origin, GRID, named=named, compression="GZIP_1")[::2]
    path = save(tmp_path / "coadd.fits.fz", hdus)
    compare_with_astropy(path, {"image": 1, "mask": 2, "variance": 3})
    with open_coadd(path) as coadd:
        assert coadd.planes == ("image", "mask", "variance")
        assert coadd.mask_planes == BITS
        assert coadd.mask_location("DETECTED_NEGATIVE") == ("mask", 6)
        with pytest.raises(PlaneError, match=r"no mask plane 'STREAK'; it has BAD, DETECTED_NEGATIVE"):
            coadd.mask_location("STREAK")


def test_planes_in_another_order(tmp_path: Path) -> None:
    first, second, third = planes(LTV)
    other = fits.ImageHDU(np.ones((3, 3)), name="THUMBNAIL")
    path = save(tmp_path / "coadd.fits", [other, third, second, first])
    compare_with_astropy(path, {"image": 4, "mask": 3, "variance": 2})


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64, np.uint8])
def test_image_in_the_primary_hdu(tmp_path: Path, dtype: type[np.generic]) -> None:
    """Before afw wrote several planes: nothing but an image, with the WCS in its header."""
    primary = fits.PrimaryHDU(np.abs(image()).astype(dtype))
    primary.header.update(LTV | GRID | {"FLUXMAG0": 10**12.0})
    path = save(tmp_path / "old.fits", [primary])
    compare_with_astropy(path, {"image": 0})
    with open_coadd(path) as coadd:
        assert coadd.planes == ("image",)
        check_projection(coadd.projection, TRACT, coadd.bbox, coadd.uri)
        for name in ("mask", "variance"):
            with pytest.raises(PlaneError, match=f"old.fits has no {name} plane; it has image"):
                coadd.layout(name)


def test_image_in_the_primary_hdu_and_other_planes_behind_it(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU(image())
    primary.header.update(LTV)
    path = save(tmp_path / "old.fits", [primary, *planes(LTV)[1:]])
    compare_with_astropy(path, {"image": 0, "mask": 1, "variance": 2})


@pytest.mark.parametrize("change", [{"LTV1": -14849.0}, {"CRVAL2A": -149.0}, {"CRPIX1A": 2.0}])
def test_origins_that_disagree(tmp_path: Path, change: afw.Cards) -> None:
    """Of two places, either would be a guess."""
    path = save(tmp_path / "moved.fits", planes(LTV | LINEAR | change))
    with pytest.raises(CorruptFileError, match=r'moved.fits: image plane: the first pixel is .* but .* by the "A" WCS'):
        open_coadd(path)


def test_origins_between_pixels(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="between pixels: LTV1"):
        open_coadd(save(tmp_path / "half.fits", planes({"LTV1": -20.5, "LTV2": 3.0})))


def test_a_second_wcs_of_another_kind_is_no_origin(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="neither LTV1"):
        open_coadd(save(tmp_path / "other.fits", planes(LINEAR | {"CTYPE1A": "RA---TAN", "CTYPE2A": "DEC--TAN"})))


def test_planes_that_lie_elsewhere(tmp_path: Path) -> None:
    first, second, third = planes(LTV)
    second.header["LTV1"] = -14849.0
    with open_coadd(save(tmp_path / "odd.fits", [first, second, third])) as coadd:
        coadd.read("variance")
        with pytest.raises(CorruptFileError, match="mask plane: this plane starts at pixel"):
            coadd.read("mask")


# Types of pixels


@pytest.mark.parametrize("compression", [None, "GZIP_2", "RICE_1"])
@pytest.mark.parametrize(
    ("dtype", "scaling"),
    [
        (np.int32, {}),
        (np.uint16, {}),  # BZERO 32768
        (np.int16, {}),
        (np.int32, {"XSCALE": 1, "XZERO": 0}),
        (np.int32, {"XSCALE": 1.0, "XZERO": 0.0}),
        (np.int16, {"XSCALE": 1.0, "XZERO": 0}),
    ],
)
def test_masks(tmp_path: Path, dtype: type[np.generic], scaling: afw.Cards, compression: str | None) -> None:
    hdus = [plane(image(), LTV, name="IMAGE"),
            plane(mask(dtype), LTV, mask_cards(), scaling, name="MASK", compression=compression)]  # fmt: skip
    path = save(tmp_path / "mask.fits", hdus)
    with fits.open(path, disable_image_compression=True) as raw:
        assert ("BSCALE" in raw[2].header) == (bool(scaling) or dtype == np.uint16)
    with open_coadd(path) as coadd:
        compare(coadd, "mask", mask())
    with fits.open(path) as hdus, open_coadd(path) as coadd:
        compare(coadd, "mask", hdus[2].data)


@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("scaling", [{"XSCALE": 1.0, "XZERO": 0.0}, {"XSCALE": 0.5, "XZERO": 100.0}, {"XZERO": -3}])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_scaled_planes(tmp_path: Path, dtype: type[np.generic], scaling: afw.Cards, compression: str | None) -> None:
    hdus = [plane(image().astype(dtype), LTV, scaling, name=name, compression=compression)
            for name in ("IMAGE", "VARIANCE")]  # fmt: skip
    path = save(tmp_path / "scaled.fits", hdus)
    with fits.open(path) as again:
        expected = image().astype(dtype) * float(scaling.get("XSCALE", 1)) + float(scaling.get("XZERO", 0))
        np.testing.assert_allclose(again[1].data, expected, rtol=1e-6)
    compare_with_astropy(path, {"image": 1, "variance": 2})


# Planes that are not there


@pytest.mark.parametrize("empty", [("MASK",), ("VARIANCE",), ("MASK", "VARIANCE")])
def test_empty_planes(tmp_path: Path, empty: tuple[str, ...]) -> None:
    hdus = [plane(None, LTV, name=h.name) if h.name in empty else h for h in planes(LTV)]
    path = save(tmp_path / "coadd.fits", hdus)
    compare_with_astropy(path, {"image": 1})
    with open_coadd(path) as coadd:
        assert coadd.planes == tuple(p for p in ("image", "mask", "variance") if p.upper() not in empty)
        for name in empty:
            with pytest.raises(PlaneError, match=f"has an empty {name.lower()} plane; it has image"):
                coadd.read(name.lower())
        if "MASK" in empty:
            with pytest.raises(PlaneError, match="empty mask plane"):
                _ = coadd.mask_planes
        else:
            assert coadd.mask_planes == BITS


def test_an_empty_image_is_no_coadd(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="no image plane"):
        open_coadd(save(tmp_path / "coadd.fits", [plane(None, LTV, name="IMAGE"), *planes(LTV)[1:]]))


def test_planes_without_a_name(tmp_path: Path) -> None:
    with open_coadd(save(tmp_path / "coadd.fits", planes(LTV))) as coadd:
        for name in ("noise", "mask2", "mask1", "maskx", ""):
            with pytest.raises(PlaneError, match=f"there is no plane '{name}'; the planes of .* image, mask, variance"):
                coadd.read(name)


@pytest.mark.parametrize("bit", [32, -1, "two", 1.5])
def test_bits_that_are_none(tmp_path: Path, bit: object) -> None:
    hdus = [*planes(LTV)[:1], plane(mask(), LTV, {"MP_BAD": bit}, name="MASK")]
    with open_coadd(save(tmp_path / "coadd.fits", hdus)) as coadd, pytest.raises(CorruptFileError, match="MP_BAD"):
        _ = coadd.mask_planes


# World coordinates


def sip(size: float, order: int = 3, seed: int = 0) -> afw.Cards:
    """Return distortions that move pixels by about ``size`` at the far side of the file."""
    rng = np.random.default_rng(seed)
    cards: afw.Cards = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
    for axis in "AB":
        cards[f"{axis}_ORDER"] = order
        for p in range(order + 1):
            for q in range(order + 1 - p):
                if p + q > 1:
                    cards[f"{axis}_{p}_{q}"] = size * float(rng.uniform(-1, 1)) / 15100.0 ** (p + q)
    return cards


@given(
    size=st.floats(0, 50),
    order=st.integers(2, 9),
    seed=st.integers(0, 99),
    at=st.tuples(st.floats(-200, 200), st.floats(14800, 15100)),
)
def test_distortions_are_astropys(
    tmp_path_factory: pytest.TempPathFactory, size: float, order: int, seed: int, at: tuple[float, float]
) -> None:
    path = tmp_path_factory.mktemp("sip") / "sip.fits"
    save(path, [plane(image(), LTV, GRID | sip(size, order, seed), name="IMAGE")])
    with open_coadd(path) as coadd, fits.open(path) as hdus:
        expected = WCS(hdus[1].header).all_pix2world([[at[1] - START.x, at[0] - START.y]], 0)[0]
        np.testing.assert_allclose(np.stack(coadd.projection.pixel_to_sky(*at)), expected, rtol=0, atol=1e-11)
        np.testing.assert_allclose(coadd.wcs.all_pix2world([at[::-1]], 0)[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dec", [-90.0, -28.0, 90.0])
@pytest.mark.parametrize("pole", [None, 0.0, 90.0, 180.0, 211.5])
def test_any_native_pole_is_astropys(tmp_path: Path, dec: float, pole: float | None) -> None:
    """Without LONPOLE the standard's default counts, which is another one at the north pole."""
    cards = GRID | {"CRVAL2": dec} | ({} if pole is None else {"LONPOLE": pole})
    y, x = np.mgrid[START.y : START.y + 60 : 7, START.x : START.x + 80 : 9].reshape(2, -1)
    for distorted in ({}, sip(3.0)):
        path = save(tmp_path / f"{len(distorted)}.fits", planes(LTV, cards | distorted))
        with open_coadd(path) as coadd, fits.open(path) as hdus:
            expected = WCS(hdus[1].header).all_pix2world(x - START.x, y - START.y, 0)
            found = coadd.projection.pixel_to_sky(y, x)
        np.testing.assert_allclose(unit_vectors(*found), unit_vectors(*expected), rtol=0, atol=1e-12)
        if not distorted:
            again = WCS(fits.Header(coadd.projection.header())).all_pix2world(x, y, 0)
            np.testing.assert_allclose(unit_vectors(*again), unit_vectors(*expected), rtol=0, atol=1e-12)


def test_negligible_distortions_pass_and_others_do_not(tmp_path: Path) -> None:
    for size, passes in ((1e-4, True), (5e-3, True), (0.05, False), (30.0, False)):
        path = save(tmp_path / f"{size}.fits", planes(LTV, GRID | sip(size)))
        with open_coadd(path) as coadd, fits.open(path) as hdus:
            compare(coadd, "image", hdus[1].data)
            moved = WCS(hdus[1].header).all_pix2world(*np.mgrid[:83:5, :61:5].reshape(2, -1), 0)
            back = TRACT.sky_to_pixel(*moved)
            y, x = np.mgrid[:61:5, :83:5].transpose(0, 2, 1).reshape(2, -1) + np.array([[START.y], [START.x]])
            away = np.hypot(back.y - y, back.x - x).max()
            assert (away < 0.01) == passes
            if passes:
                check_projection(coadd.projection, TRACT, coadd.bbox, str(path))
                continue
            with pytest.raises(
                GeometryMismatchError, match=rf"{size}\.fits: its WCS differs by .*tangent point \(53.* in the tract"
            ):
                check_projection(coadd.projection, TRACT, coadd.bbox, str(path))


def test_a_distortion_that_vanishes_in_the_corners(tmp_path: Path) -> None:
    """x is moved by a parabola of the row that is 0 in the first and the last."""
    half, middle = (SHAPE[0] - 1) / 2, START.y + (SHAPE[0] - 1) / 2
    v0 = middle - 14999.0
    bump = {"A_0_2": -1.0 / half**2, "A_0_1": 2 * v0 / half**2, "A_0_0": 1 - v0**2 / half**2}
    cards = GRID | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2} | bump
    with open_coadd(save(tmp_path / "bump.fits", planes(LTV, cards))) as coadd:
        corner = TRACT.sky_to_pixel(*coadd.projection.pixel_to_sky(BBOX.y0, BBOX.x0))
        assert abs(corner.x - BBOX.x0) < 1e-6
        with pytest.raises(GeometryMismatchError, match=r"1\.000 px"):
            check_projection(coadd.projection, TRACT, coadd.bbox, "bump.fits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}, "RA---TPV"),
        ({"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN"}, "only TAN and TAN-SIP are read"),
    ],
)
def test_other_projections(tmp_path: Path, change: afw.Cards, message: str) -> None:
    with open_coadd(save(tmp_path / "other.fits", planes(LTV, GRID | change))) as coadd:
        assert coadd.read("image").shape == SHAPE
        with pytest.raises(UnsupportedFormatError, match=message):
            _ = coadd.projection


def test_a_distortion_of_one_axis_is_damage(tmp_path: Path) -> None:
    cards = {key: value for key, value in (GRID | sip(1.0)).items() if not str(key).startswith("B_")}
    coadd = open_coadd(save(tmp_path / "half.fits", planes(LTV, cards)))
    with coadd, pytest.raises(CorruptFileError, match="B_ORDER"):
        _ = coadd.projection
