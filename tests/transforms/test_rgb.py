"""Colour pictures, pixel by pixel, against the formulae and numbers of the surveys' programs, written anew."""

import math

import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms.rgb import chosen_rgb, galaxy_zoo_rgb, legacy_brightness, legacy_rgb


def fluxes(count: int = 300) -> torch.Tensor:
    """Return ``(1, 3, 1, X)`` nanomaggies: noise, faint and bright pixels, of few and of strong colours, and zeros."""
    generator = torch.Generator().manual_seed(8)
    bright = 10 ** (6 * torch.rand(1, 3, 1, count, generator=generator) - 4)
    noise = 0.02 * torch.randn(1, 3, 1, count, generator=generator)
    return torch.cat(
        [bright, noise, bright * torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1), torch.zeros(1, 3, 1, 2)], 3
    )


def galaxy_zoo(pixel: list[float]) -> list[float]:
    """make_png_from_fits of github.com/zooniverse/decals: scales, mnmx=(-0.5, 300), arcsinh=1, desaturate."""
    low, high = math.asinh(-0.5), math.asinh(300)
    values = [(math.asinh(v / s) - low) / (high - low) for v, s in zip(pixel, (0.019, 0.014, 0.008), strict=True)]
    grey = sum(values) / 3 or 1.0
    weight = math.sin(math.pi / 2 * (1 - min(1.0, max(v / grey / 2.5 for v in values))))
    rest = 1 - weight
    return [min(1.0, max(0.0, v * weight + grey * rest + grey * rest**2 * v)) for v in values]


def viewer(pixel: list[float]) -> list[float]:
    """dr2_rgb of github.com/legacysurvey/imagine: factors, m=0.03, Q=20."""
    values = [v * s + 0.03 for v, s in zip(pixel, (2.2, 3.4, 6.0), strict=True)]
    mean = sum(max(0.0, v) for v in values) / 3
    factor = math.asinh(20 * mean) / math.sqrt(20) / (mean or 1e-6)
    return [min(1.0, max(0.0, v * factor)) for v in values]


@pytest.mark.parametrize(("made", "oracle"), [(galaxy_zoo_rgb, galaxy_zoo), (legacy_rgb, viewer)])
def test_each_pixel_is_as_in_the_survey(made, oracle) -> None:
    flux = fluxes()
    got = made(flux, "zrg")[0, :, 0].T
    wanted = torch.tensor([oracle(pixel) for pixel in flux[0, :, 0].T.double().tolist()])
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert 0 <= got.min() < 0.05
    assert 0.95 < got.max() <= 1


@pytest.mark.parametrize("made", [galaxy_zoo_rgb, legacy_rgb])
def test_i_is_between_r_and_z(made) -> None:
    """Of the same flux; so a picture with i as red differs little from one with z."""
    flux = torch.full((1, 3, 4, 4), 0.01)
    z, i, r = (made(flux, bands)[0, 0, 0, 0].item() for bands in ("zrg", "irg", "rig"))
    assert z < i < r


def test_surface_brightness_does_not_depend_on_the_pixels() -> None:
    """1 nanomaggy is 3630.78 nJy (22.5 and 31.4 mag), and counts in pixels of 0.262 arcsec."""
    flux = torch.full((2, 3, 1, 1), 3630.78)
    got = legacy_brightness(flux * torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1), torch.tensor([0.262, 0.524]))
    torch.testing.assert_close(got, torch.ones_like(got), rtol=1e-6, atol=0)


def test_red_is_z_or_i() -> None:
    assert chosen_rgb(None, "ugrizy") == ("z", "r", "g")
    assert chosen_rgb(None, "gri") == ("i", "r", "g")
    assert chosen_rgb(None, ["g", "r", "z"]) == ("z", "r", "g")
    assert chosen_rgb(["i", "r", "g"], "griz") == ("i", "r", "g")
    for wrong in ("rg", "grizz", "yrg", "rrg", 5):
        with pytest.raises(ConfigurationError, match="rgb must be"):
            chosen_rgb(wrong, "griz")
