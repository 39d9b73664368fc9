"""Lenses, against analytic images of an isothermal sphere and an independent ray tracing."""

import math

import numpy as np
import pytest
import torch

from lsstcutouts.transforms import InjectSources, Lens, Sersic
from lsstcutouts.transforms.injection.lens import _deflection
from lsstcutouts.transforms.injection.sersic_table import rate

from ..support.injecting import KERNEL, SCALE, empty_cutouts

ROUND = {"axis_ratio": 1.0, "angle": 0.0, "source_axis_ratio": 1.0, "source_angle": 0.0}


def light_of(lens: Lens, half: float, count: int, **parameters: float) -> tuple[np.ndarray, np.ndarray]:
    """Return east (or north) and the surface brightness ``(north, east)`` on a grid of ``2 * half`` arcsec."""
    drawn = lens.parameters_of(torch.zeros(1, lens.count)) | {name: torch.tensor([v]) for name, v in parameters.items()}
    grid = (torch.arange(count) + 0.5) * (2 * half / count) - half
    light = lens.light(drawn, grid.reshape(1, 1, -1), grid.reshape(1, -1, 1))
    return grid.double().numpy(), light[0].double().numpy()


def test_a_source_in_the_middle_is_a_ring_of_the_einstein_radius() -> None:
    lens = Lens(1.3, **ROUND, source_distance=0.0, source_radius=0.02)
    grid, light = light_of(lens, 2.0, 801)
    radius = np.hypot(grid[:, None], grid[None, :])
    assert (light * radius).sum() / light.sum() == pytest.approx(1.3, abs=1e-3)
    assert ((light * radius**2).sum() / light.sum() - (light * radius).sum() ** 2 / light.sum() ** 2) ** 0.5 < 0.03


def test_images_of_a_point_behind_an_isothermal_sphere() -> None:
    """Distances ``theta_e +- beta`` on opposite sides, magnifications ``theta_e / beta +- 1``."""
    einstein, beta, direction = 1.2, 0.3, 35.0
    lens = Lens(einstein, **ROUND, source_distance=beta, source_radius=0.005)
    grid, light = light_of(lens, 1.7, 2401, source_direction=direction)
    towards = grid[None, :] * math.sin(math.radians(direction)) + grid[:, None] * math.cos(math.radians(direction))
    across = grid[None, :] * math.cos(math.radians(direction)) - grid[:, None] * math.sin(math.radians(direction))
    near, far = light * (towards > 0), light * (towards < 0)
    assert (near * towards).sum() / near.sum() == pytest.approx(einstein + beta, abs=2e-3)
    assert (far * towards).sum() / far.sum() == pytest.approx(-(einstein - beta), abs=2e-3)
    assert abs((light * across).sum() / light.sum()) < 1e-3
    assert near.sum() / far.sum() == pytest.approx((einstein / beta + 1) / (einstein / beta - 1), rel=0.02)
    unlensed = 2 * math.pi * 0.005**2 / float(rate(torch.tensor(1.0))) ** 2
    assert light.sum() * (3.4 / 2401) ** 2 / unlensed == pytest.approx(2 * einstein / beta, rel=0.02)


def test_the_mass_within_the_critical_curve_is_that_of_an_ellipse_along_the_angle() -> None:
    """The divergence of the deflection is twice the convergence, which is constant on ellipses along the major axis."""
    ratio, einstein, step = 0.6, 1.1, 1e-2
    at = (torch.arange(-200, 201, dtype=torch.float64) + 0.5) * step
    parameters = {"axis_ratio": torch.tensor([ratio]).double(), "einstein_radius": torch.tensor([einstein]).double()}
    along, across = _deflection(parameters, at.reshape(1, -1, 1), at.reshape(1, 1, -1))
    kappa = ((along[0, 2:, 1:-1] - along[0, :-2, 1:-1]) + (across[0, 1:-1, 2:] - across[0, 1:-1, :-2])) / (4 * step)
    u, v = at[1:-1].reshape(-1, 1), at[1:-1].reshape(1, -1)
    elliptical = torch.sqrt(ratio**2 * u**2 + v**2)
    wanted = einstein * math.sqrt(ratio) / (2 * elliptical)
    outside = elliptical > 0.3
    torch.testing.assert_close(kappa[outside], wanted[outside], rtol=5e-3, atol=0)
    inside = kappa > 0.5  # kappa = 1/2 is the critical curve of an isothermal ellipsoid
    assert inside.sum() * step**2 == pytest.approx(math.pi * einstein**2, rel=0.01)


def traced(parameters: dict[str, float], side: int, fine: int) -> np.ndarray:
    """Return the images of a lens before convolution, ``(fine * side, fine * side)`` subpixels with a sum of 1.

    Deflection: Keeton & Kochanek 1998, ApJ 495, 157, in another form than `Lens` has it.
    """
    at = (np.arange(fine * side) - fine * side // 2) * (SCALE / fine)
    axis, source_axis, direction = (
        np.exp(1j * math.radians(90 - parameters[name])) for name in ("angle", "source_angle", "source_direction")
    )
    z = (-at[None, :] + 1j * at[:, None]) / axis  # east is to the left; the major axis is real
    q = parameters["axis_ratio"]
    flat, omega = math.sqrt(1 - q**2), np.sqrt(q**2 * z.real**2 + z.imag**2 + 1e-18)
    bent = np.arctan(flat * z.real / omega) + 1j * np.arctanh(flat * z.imag / omega)
    behind = (z - parameters["einstein_radius"] * math.sqrt(q) / flat * bent) * axis
    source = (behind - parameters["source_distance"] * direction) / source_axis
    r = np.hypot(source.real, source.imag / parameters["source_axis_ratio"]) / parameters["source_radius"]
    n = parameters["source_index"]
    light = np.where(r < 6, np.exp(-float(rate(torch.tensor(n, dtype=torch.float64))) * r ** (1 / n)), 0)
    return light / light.sum()


@pytest.mark.parametrize(("index", "tolerance"), [(1.0, 3e-4), (2.5, 2e-2)])
@pytest.mark.parametrize("angle", [20.0, 110.0])
def test_a_convolved_lens_equals_a_ray_tracing(index: float, tolerance: float, angle: float) -> None:
    """The cusp of large indices is smaller than the distance of the rays, here and there."""
    parameters = {
        "einstein_radius": 1.2,
        "axis_ratio": 0.7,
        "angle": angle,
        "source_distance": 0.25,
        "source_radius": 0.25,
        "source_index": index,
        "source_axis_ratio": 0.6,
        "source_angle": 75.0,
    }
    batch = empty_cutouts(1, 1, 51, 51)
    batch["offset"].zero_()
    batch["wcs"][:, 2:4] = 25
    result = InjectSources(Lens(**parameters), 1.0, fraction=1.0)(batch)
    parameters["source_direction"] = float(result["injected_source_direction"][0])
    side, fine = 75, 31
    rays = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(traced(parameters, side, fine))))
    low = (fine - 1) * side // 2
    rays = np.fft.ifftshift(rays[low : low + side, low : low + side])  # frequencies of the pixels
    kernel = np.pad(batch["psf"][0, 0].double().numpy(), (side - KERNEL) // 2)
    blurred = np.fft.fftshift(np.fft.ifft2(rays * np.fft.fft2(np.fft.ifftshift(kernel / kernel.sum()))).real)
    wanted = blurred[side // 2 - 25 : side // 2 + 26, side // 2 - 25 : side // 2 + 26]
    assert np.abs(result["image"][0, 0].numpy() - wanted).max() < tolerance * wanted.max()


def test_the_lens_galaxy_has_its_share_and_colour() -> None:
    batch = empty_cutouts(1, 3, 51, 51)
    lens = {"source_distance": 0.1, "axis_ratio": 0.7, "angle": 30.0}
    galaxy = {"galaxy_ratio": 2.0, "galaxy_colours": [1.0, 0.0, -0.5], "galaxy_radius": 0.5, "galaxy_index": 1.5}
    options = {"flux_njy": 100.0, "fraction": 1.0}
    without, whole = (InjectSources(Lens(**lens, **more), **options)(batch)["image"] for more in ({}, galaxy))
    # The parameters of the source are drawn alike, those of the galaxy come after them.
    alone = InjectSources(Sersic(0.5, 1.5, 0.7, 30.0), [200 * 10 ** (-0.4 * c) for c in (1.0, 0.0, -0.5)], fraction=1.0)
    torch.testing.assert_close(whole - without, alone(batch)["image"], atol=1e-4, rtol=1e-5)
