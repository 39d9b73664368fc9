"""`Grid`: what it takes, and where it places the pixels of cutouts, against astropy."""

import copy
import pickle

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io.fits import Header
from astropy.wcs import WCS

from lsstcutouts import Grid, ReadOptions
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.plan.grid import Placed
from lsstcutouts.sky.geometry import YX, TanProjection

SCALE = YX(0.2, 0.2)
TURN = np.array([[-np.cos(0.3), np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])


def wcs_of(kinds=("RA---TAN", "DEC--TAN"), crval=(53.1234567890123, -27.5), scale=0.15, **others) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cd = kinds, crval, [100.3, 200.7], TURN * scale / 3600
    for name, value in others.items():
        setattr(wcs.wcs, name, value)
    wcs.wcs.set()
    return wcs


WCSS = {
    "icrs": wcs_of(),
    "fk5": wcs_of(radesys="FK5"),
    "galactic": wcs_of(("GLON-TAN", "GLAT-TAN")),
    "lonpole": wcs_of(lonpole=33.0),
    "declination first": wcs_of(("DEC--TAN", "RA---TAN"), (-27.5, 53.1)),
    "north pole": wcs_of(crval=(10.0, 90.0)),
    "south pole": wcs_of(crval=(10.0, -90.0)),
    "across RA 0": wcs_of(crval=(0.0, 12.0)),
    "fk4": wcs_of(radesys="FK4"),
    "slant": wcs_of(("RA---SIN", "DEC--SIN")),
    "equal area": wcs_of(("RA---ZEA", "DEC--ZEA")),
}


def placed_around(grid: Grid, sky: SkyCoord, size=YX(40, 31)) -> Placed:
    ra, dec = (np.atleast_1d(at.deg) for at in (sky.icrs.ra, sky.icrs.dec))
    return grid.place(ra, dec, size, np.zeros(len(ra), np.int64), {}, SCALE)


@pytest.mark.parametrize("name", WCSS)
def test_cutouts_lie_on_the_pixels_of_a_given_wcs(name: str) -> None:
    wcs = WCSS[name]
    grid = Grid(wcs=wcs)
    x, y = np.array([140.2, -300.0, 800.4]), np.array([260.9, 99.5, -1000.0])
    placed = placed_around(grid, wcs.pixel_to_world(x, y))
    middle = placed.yx0 + (np.array([40, 31]) - 1) / 2
    np.testing.assert_allclose(middle + placed.offset, np.column_stack([y, x]), atol=1e-3)
    assert np.abs(placed.offset).max() <= 0.5 + 1e-6
    local = name in {"fk4", "slant", "equal area"}
    for n in range(3):
        for dy, dx in ((0, 0), (39, 0), (39, 30), (0, 30), (17, 9)):
            sky = wcs.pixel_to_world(placed.yx0[n, 1] + dx, placed.yx0[n, 0] + dy).icrs
            there = TanProjection.of(placed.wcs[n]).sky_to_pixel(sky.ra.deg, sky.dec.deg)
            np.testing.assert_allclose([there.y, there.x], [dy, dx], atol=0.01 if local else 2e-6)
    np.testing.assert_allclose(grid.scale(SCALE), 0.15, rtol=2e-6)


def test_a_wcs_that_bends_within_a_cutout_is_refused() -> None:
    header = wcs_of(("RA---TAN-SIP", "DEC--TAN-SIP")).to_header()
    header.update(
        {
            "CTYPE1": "RA---TAN-SIP",
            "CTYPE2": "DEC--TAN-SIP",
            "A_ORDER": 2,
            "B_ORDER": 2,
            "A_2_0": 1e-4,
            "B_0_2": 0.0,
        }
    )
    grid = Grid(wcs=Header(header))
    with pytest.raises(ConfigurationError, match=r"bends by .* px over the cutout"):
        placed_around(grid, SkyCoord(53.1234, -27.5, unit="deg"))
    header["A_2_0"] = 1e-6
    placed_around(Grid(wcs=Header(header)), SkyCoord(53.1234, -27.5, unit="deg"))


def test_a_wcs_whose_plane_does_not_reach_a_target_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not reach the target at ra 233"):
        placed_around(Grid(wcs=wcs_of()), SkyCoord(233.0, 27.0, unit="deg"))


def test_a_wcs_may_be_given_in_several_ways() -> None:
    wcs = wcs_of()
    header = wcs.to_header()
    text = header.tostring(sep="\n", endcard=False)
    grids = [Grid(wcs=given) for given in (wcs, header, dict(header), text, header.tostring())]
    assert set(grids) == {grids[0]}
    again = Grid(wcs=grids[0].wcs)
    assert again == grids[0] == pickle.loads(pickle.dumps(again)) == copy.deepcopy(again)
    cube = WCS(naxis=3)
    cube.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ"]
    cube.wcs.crval, cube.wcs.crpix, cube.wcs.cdelt = [53.0, -27.0, 1e9], [1, 1, 1], [-1e-4, 1e-4, 1e6]
    assert "FREQ" not in Grid(wcs=cube).wcs


@pytest.mark.parametrize("dec", [-27.5, 0.0, 89.999, -90.0])
def test_north_up_with_the_target_in_the_middle(dec: float) -> None:
    grid = Grid(north_up=True, pixel_scale=0.1)
    sky = SkyCoord([359.9999, 0.0001], [dec, dec], unit="deg")
    placed = placed_around(grid, sky)
    assert not placed.yx0.any()
    assert not placed.offset.any()
    for n in range(2):
        one = TanProjection.of(placed.wcs[n])
        y, x = one.sky_to_pixel(sky.ra.deg[n], sky.dec.deg[n])
        np.testing.assert_allclose([y, x], [19.5, 15], atol=1e-9)
        ra, north = one.pixel_to_sky([19.5, 20.5], [15.0, 15.0])
        if abs(dec) < 89:
            np.testing.assert_allclose(np.diff(north) * 3600, 0.1, rtol=1e-6)
            np.testing.assert_allclose(np.diff(ra), 0, atol=1e-9)
        assert one.pixel_scale == pytest.approx((0.1, 0.1))


def test_another_pixel_scale_keeps_the_axes_of_the_tract() -> None:
    tract = TanProjection((53.0, -28.0), (8000.0, 9000.0), tuple((TURN * 0.2 / 3600).ravel()))
    ra, dec = tract.pixel_to_sky(2000.3, 14000.7)
    placed = Grid(pixel_scale="0.3 arcsec").place(
        np.atleast_1d(ra), np.atleast_1d(dec), YX(40, 31), np.array([7]), {7: tract}, SCALE
    )
    one = TanProjection.of(placed.wcs[0])
    for dy, dx in ((0, 0), (19.5, -15), (-8, 4)):
        there = one.sky_to_pixel(*tract.pixel_to_sky(2000.3 + 1.5 * dy, 14000.7 + 1.5 * dx))
        np.testing.assert_allclose([there.y - 19.5, there.x - 15], [dy, dx], atol=1e-6)


@pytest.mark.parametrize("given", [0.1, "0.1", "0.1 arcsec", "100 mas", 0.1 * units.arcsec, np.float32(0.1)])
def test_pixel_scales(given) -> None:
    assert Grid(pixel_scale=given).pixel_scale == pytest.approx(0.1)
    assert isinstance(Grid(pixel_scale=given).pixel_scale, float)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "needs north_up=True, pixel_scale= or wcs="),
        ({"north_up": 1}, "north_up of a grid must be true or false, got 1"),
        ({"pixel_scale": 0}, "positive arcseconds a pixel, got 0"),
        ({"pixel_scale": float("nan")}, "positive arcseconds"),
        ({"pixel_scale": True}, "positive arcseconds"),
        ({"pixel_scale": "3 apples"}, "such as 0.1 or '0.1 arcsec', got '3 apples'"),
        (
            {"north_up": True, "interpolation": "lanczos"},
            "must be one of nearest, bilinear, biquadratic, bicubic, got 'lanczos'",
        ),
        ({"north_up": True, "interpolation": ["nearest"]}, r"must be one of .* got \['nearest'\]"),
        ({"north_up": True, "wcs": WCSS["icrs"]}, "either a wcs, .* or north_up and pixel_scale"),
        ({"wcs": 5}, "must be an astropy WCS, .* got int"),
        ({"wcs": "no header"}, "text without a CTYPE card"),
        ({"wcs": {"CTYPE1": "FREQ", "CTYPE2": "STOKES"}}, "two axes on the sky"),
        (
            {
                "wcs": {
                    "CTYPE1": "RA---TAN",
                    "CTYPE2": "DEC--TAN",
                    "CD1_1": 1e-4,
                    "CD1_2": 1e-4,
                    "CD2_1": 1e-4,
                    "CD2_2": 1e-4,
                }
            },
            "pixels without area",
        ),
    ],
)
def test_what_cannot_be_a_grid(given, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Grid(**given)


def test_options_take_a_mapping_as_configurations_give_it() -> None:
    assert ReadOptions(grid={"_target_": "lsstcutouts.Grid", "north_up": True}).grid == Grid(north_up=True)
    nothing = {"north_up": False, "pixel_scale": None, "wcs": None, "interpolation": "bicubic"}
    assert ReadOptions(grid=nothing).grid is None
    for wrong in ("north", {"north": True}, 5):
        with pytest.raises(ConfigurationError, match="grid must be a Grid, or a mapping of its arguments north_up"):
            ReadOptions(grid=wrong)
