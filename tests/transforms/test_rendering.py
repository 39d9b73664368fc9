"""Images of sources, against GalSim."""

import galsim
import numpy as np
import pytest
import torch

from lsstcutouts.transforms import InjectSources, PointSource, Sersic
from lsstcutouts.transforms.injection.rendering import odd_side

from ..support.injecting import KERNEL, MOFFATS, NORTH_UP, SCALE, TIGHT, effective, empty_cutouts, kernels

SHAPES = [
    (1.0, 0.3, 1.0, 0.0),
    (1.0, 0.6, 0.5, 30.0),
    (1.0, 1.0, 0.3, 110.0),
    (4.0, 0.5, 1.0, 0.0),
    (4.0, 1.0, 0.6, 60.0),
    (2.5, 0.4, 0.4, 150.0),
    (0.5, 0.5, 0.7, 20.0),
    (1.5, 0.25, 0.2, 75.0),
    (6.0, 0.5, 0.8, 45.0),
    (0.7, 0.8, 0.9, 165.0),
]
"""Sersic index, half-light radius along the major axis in arcsec, axis ratio, position angle in degrees."""

TURNED = np.array([[0.17, -0.11], [0.11, 0.17]])  # rotated by 33 degrees, mirrored
SIDE, SHIFT = 64, (0.37, -0.21)


def ours(model, psfs, matrix=NORTH_UP, side: int = SIDE) -> np.ndarray:
    """Return images ``(N, side, side)`` of a source with a flux of 1, shifted from the middle by `SHIFT`, one for each PSF."""
    batch = empty_cutouts(len(psfs), 1, side, side, matrix=matrix)
    batch["psf"] = torch.from_numpy(psfs).float().unsqueeze(1)
    batch["offset"] = torch.tensor([SHIFT]).expand(len(psfs), -1)
    batch["wcs"][:, 2:4] = (side - 1) / 2  # crval is in the middle, where GalSim's plane touches the sky
    return InjectSources(model, 1.0, fraction=1.0)(batch)["image"][:, 0].double().numpy()


def interpolated(kernel: np.ndarray) -> galsim.GSObject:
    """Return a kernel as GalSim interpolates it; its sinc interpolation is the limit of Lanczos kernels."""
    image = galsim.Image(kernel / kernel.sum(), scale=SCALE)
    return galsim.InterpolatedImage(image, x_interpolant=galsim.Lanczos(30), flux=1.0, gsparams=TIGHT, pad_factor=8)


def theirs(profile: galsim.GSObject, matrix=NORTH_UP) -> np.ndarray:
    image = galsim.Image(SIDE, SIDE, dtype=float, wcs=galsim.JacobianWCS(*np.ravel(matrix)))
    profile.drawImage(image, method="no_pixel", offset=(SHIFT[1], SHIFT[0]))
    return image.array


def sersic(index: float, radius: float, ratio: float, angle: float) -> galsim.GSObject:
    """Return a profile over east and north; GalSim measures radii along no axis, and angles from east."""
    round_one = galsim.Sersic(index, half_light_radius=radius * ratio**0.5, gsparams=TIGHT)
    return round_one.shear(q=ratio, beta=(90 - angle) * galsim.degrees)


def on_pixels(kernel: np.ndarray, matrix: np.ndarray) -> galsim.GSObject:
    """Return a kernel, which is given on the pixels, over east and north."""
    (a, b), (c, d) = matrix / SCALE
    return interpolated(kernel).transform(a, b, c, d) / abs(a * d - b * c)


def test_shapes_and_point_spread_functions_equal_galsim() -> None:
    """Each shape with one PSF; the next test has all pairs."""
    psfs = kernels()
    for shape, kernel in zip(SHAPES, psfs, strict=True):
        index, radius, ratio, angle = shape
        found = ours(Sersic(radius, index, ratio, angle), kernel[None])[0]
        wanted = theirs(galsim.Convolve(sersic(*shape), on_pixels(kernel, NORTH_UP), gsparams=TIGHT))
        assert np.abs(found - wanted).max() < 1e-4 * wanted.max(), shape


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_all_pairs_of_shapes_and_point_spread_functions_equal_galsim(shape) -> None:
    psfs = kernels()
    index, radius, ratio, angle = shape
    for kernel, found in zip(psfs, ours(Sersic(radius, index, ratio, angle), psfs), strict=True):
        wanted = theirs(galsim.Convolve(sersic(*shape), on_pixels(kernel, NORTH_UP), gsparams=TIGHT))
        assert np.abs(found - wanted).max() < 1e-4 * wanted.max()


@pytest.mark.parametrize("matrix", [TURNED, np.array([[0.21, 0.03], [-0.02, 0.18]])], ids=["mirrored", "sheared"])
def test_position_angles_and_sizes_follow_the_wcs(matrix: np.ndarray) -> None:
    kernel = kernels()[6]
    shape = (1.0, 0.6, 0.4, 30.0)
    found = ours(Sersic(0.6, 1.0, 0.4, 30.0), kernel[None], matrix)[0]
    wanted = theirs(galsim.Convolve(sersic(*shape), on_pixels(kernel, matrix), gsparams=TIGHT), matrix)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.max()


def test_point_sources_equal_the_psf_between_pixels() -> None:
    """Analytic PSFs, without an interpolation: the kernels are cut at 35 pixels and hold no more than their pixels."""
    size = 61
    drawn = kernels(size)[3:]
    found = ours(PointSource(), drawn)
    for psf, kernel, image in zip(MOFFATS, drawn, found, strict=True):
        wanted = theirs(on_sky(effective(psf))) / kernel.sum()
        middle = slice(SIDE // 2 - 12, SIDE // 2 + 12)
        assert np.abs(image - wanted)[middle, middle].max() < 3e-4 * wanted.max(), psf


def on_sky(profile: galsim.GSObject) -> galsim.GSObject:
    """Return a profile over x and y of `NORTH_UP` over east and north."""
    return profile.transform(-1, 0, 0, 1)


def test_point_sources_are_interpolated_by_the_sinc() -> None:
    kernel = kernels()[4:5]
    found = ours(PointSource(), kernel, side=41)[0]
    y, x = ((np.arange(41) - 20 - shift)[:, None] - (np.arange(KERNEL) - KERNEL // 2) for shift in SHIFT)
    wanted = np.sinc(y) @ (kernel[0] / kernel.sum()) @ np.sinc(x).T
    # The sinc has no end, the image has.
    assert np.abs(found - wanted).max() < 1e-5 * wanted.max()


def test_sides_are_odd_and_fast() -> None:
    assert [odd_side(n) for n in (1, 2, 70, 128, 256)] == [1, 3, 75, 135, 315]
