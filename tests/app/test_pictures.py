"""Colour composites and single bands against astropy's own functions, on pixels that the Butler gave."""

from typing import Any

import numpy as np
import pytest
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray

from lsstcutouts import LsstDataFetcher, build_plan
from lsstcutouts.app.gallery.entries import entries_of
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.testing import SimulatedRepository

from ..support.oracle import expected

GREY = 70
"""Level of pixels without data."""


def cutouts(count: int, bands: int, y: int = 20, x: int = 24) -> NDArray[np.float32]:
    images = np.random.default_rng(0).normal(0, 10, (count, bands, y, x)).astype(np.float32)
    images[:, :, 2:5, 3:6] += 500
    return images


def noise(channel: NDArray[Any]) -> float:
    channel = channel[channel != 0]
    return float(1.4826 * np.median(np.abs(channel - np.median(channel))))


def test_a_composite_is_that_of_lupton_with_pixels_of_the_butler(dp2_repo: SimulatedRepository) -> None:
    planes = ("image", "valid")
    with LsstDataFetcher(
        dp2_repo.root, collections=dp2_repo.collections, bands="gri", size=(22, 28), planes=planes
    ) as one:
        plan = build_plan(dp2_repo.root, dp2_repo.truth, collections=dp2_repo.collections, bands="gri", size=(22, 28))
        batch = one.fetch_plan(plan)
    truth = [expected(dp2_repo, plan, target) for target in plan.targets_in(batch).tolist()]
    images = np.stack([np.where(one.valid, one.image, 0) for one in truth])
    scale = [noise(images[:, b].astype(np.float64)) for b in range(3)]
    pictures = Pictures("gri", PictureStyle("both"), images)
    entries = list(entries_of(batch, pictures, captions=[""] * len(images)))
    for image, entry in zip(images.astype(np.float64), entries, strict=True):
        g, r, i = (channel / unit for channel, unit in zip(image, scale, strict=True))
        want = make_lupton_rgb(i, r, g, minimum=-1, stretch=12, Q=6)
        want[(image == 0).all(axis=0)] = GREY
        np.testing.assert_array_equal(entry.panels[0].image, want)
        assert [panel.label for panel in entry.panels] == ["irg", "g", "r", "i"]
        for channel, panel in zip(image, entry.panels[1:], strict=True):
            assert panel.image.shape == (22, 28, 3)
            assert (panel.image[channel == 0] == GREY).all()
            low, high = np.argsort(np.where(channel == 0, np.nan, channel), axis=None)[[0, (channel != 0).sum() - 1]]
            if (channel != 0).any():
                assert panel.image.reshape(-1, 3)[low, 0] <= panel.image.reshape(-1, 3)[high, 0]


def test_a_red_source_is_red() -> None:
    images = cutouts(1, 3)
    images[0, :, 10:14, 10:14] = np.array([10, 60, 400], np.float32)[:, None, None]
    for bands, order in (("gri", (0, 1, 2)), ("irg", (2, 1, 0)), ("rig", (1, 2, 0)), ("uzy", (0, 1, 2))):
        given = images[:, order]
        panel = Pictures(bands, PictureStyle(), given).panels(given[0], np.ones(3, bool))[0]
        red, green, blue = panel.image[12, 12].astype(int)
        assert red > green > blue, bands


@pytest.mark.parametrize(
    ("bands", "label"), [("g", "g"), ("gr", "rg"), ("rg", "rg"), ("ugrizy", "irg"), ("zy", "yz"), (["a", "b"], "ba")]
)
@pytest.mark.parametrize("scale", ["all", "each"])
def test_any_bands_make_a_picture(bands: Any, label: str, scale: str) -> None:
    images = cutouts(3, len(bands))
    panel = Pictures(bands, PictureStyle(scale=scale), images).panels(images[0], np.ones(len(bands), bool))[0]
    assert panel.label == label
    assert panel.image.max() > 150


@pytest.mark.parametrize("stretch", ["asinh", "linear", "zscale"])
def test_a_single_band_grows_with_the_flux(stretch: str) -> None:
    images = cutouts(4, 2)
    images[:, 1] *= 1000  # another unit
    for panel, channel in zip(
        Pictures("gr", PictureStyle("bands", stretch=stretch), images).panels(images[0], np.ones(2, bool)),
        images[0],
        strict=True,
    ):
        order = np.argsort(channel, axis=None)
        assert (np.diff(panel.image[..., 0].ravel()[order].astype(int)) >= 0).all()
        assert np.ptp(panel.image[..., 0]) > 200
        assert (panel.image == panel.image[..., :1]).all()


def test_one_scale_makes_cutouts_comparable() -> None:
    images = cutouts(6, 3)
    images[5] *= 8
    same, own = (Pictures("gri", PictureStyle("bands", scale=scale), images) for scale in ("all", "each"))
    present = np.ones(3, bool)
    sky = np.s_[10:, 10:]
    assert np.ptp(same.panels(images[5], present)[0].image[sky]) > np.ptp(same.panels(images[0], present)[0].image[sky])
    np.testing.assert_allclose(
        own.panels(images[5], present)[0].image.astype(int), own.panels(images[5] / 8, present)[0].image, atol=1
    )


def test_missing_bands_and_values() -> None:
    images = cutouts(2, 3)
    images[0, 0] = 0
    images[0, 1, :, 8:] = np.nan
    panels = Pictures("gri", PictureStyle("both"), images).panels(images[0], np.array([False, True, True]))
    assert [panel.missing for panel in panels] == [("g",), ("g",), (), ()]
    assert (panels[1].image == GREY).all()
    assert (panels[2].image[:, 8:] == GREY).all()
    assert np.median(panels[0].image[10:, 10:]) < 100
    nothing = Pictures("gri", PictureStyle("both"), np.zeros((1, 3, 4, 4), np.float32))
    assert all(
        (panel.image == GREY).all() for panel in nothing.panels(np.zeros((3, 4, 4), np.float32), np.zeros(3, bool))
    )


def test_styles_that_there_are_not() -> None:
    with pytest.raises(ConfigurationError, match="stretch='log' must be one of asinh, linear, zscale"):
        PictureStyle(stretch="log")
    with pytest.raises(ConfigurationError, match="the bands are g, r, i"):
        Pictures("gri", PictureStyle(rgb="zri"), cutouts(1, 3))
