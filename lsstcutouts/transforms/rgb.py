"""Colour pictures as those that models were trained on."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .adapter import NANOMAGGY, checked_bands

__all__ = ["LEGACY_PIXEL_SCALE", "chosen_rgb", "galaxy_zoo_rgb", "legacy_brightness", "legacy_rgb"]

LEGACY_PIXEL_SCALE = 0.262
"""Arcseconds per pixel of the Legacy Surveys (arXiv:1804.08657); the constants below are for fluxes in such pixels."""

GALAXY_ZOO_SCALES = {"g": 0.008, "r": 0.014, "z": 0.019, "i": 0.016}
"""Nanomaggies in a pixel that count as 1, and `GALAXY_ZOO_RANGE`: values that become 0 and 1.

``make_png_from_fits`` in get_images/download_images_threaded.py of github.com/zooniverse/decals, which made the pictures of Galaxy
Zoo DECaLS (arXiv:2102.08414). They had no i; 0.016 is the mean of r and z, rounded.
"""

GALAXY_ZOO_RANGE = (-0.5, 300.0)

LEGACY_SCALES = {"g": 6.0, "r": 3.4, "z": 2.2, "i": 3.0}
"""Factors of nanomaggies in a pixel, with `LEGACY_SOFTENING` (Q) and `LEGACY_SHIFT` (m).

``dr2_rgb`` and ``sdss_rgb`` in map/views.py of github.com/legacysurvey/imagine, the viewer, for its layers up to DR9; i is that of its
``dr10_griz_rgb`` before the common factor. The form is that of Lupton et al. 2004 (PASP 116, 133).
"""

LEGACY_SOFTENING, LEGACY_SHIFT = 20.0, 0.03


def chosen_rgb(rgb: str | Sequence[str] | None, bands: str | Sequence[str]) -> tuple[str, ...]:
    """Return the bands of red, green and blue: ``z``, ``r``, ``g`` by default, or ``i``, ``r``, ``g`` if there is no ``z``.

    Raises
    ------
    ConfigurationError
        If they are not three different bands of g, r, i, z.
    """
    default = "zrg" if "z" in checked_bands("bands", bands) else "irg"
    chosen = checked_bands("rgb", default if rgb is None else rgb)
    if len(chosen) != 3 or not set(chosen) <= set(LEGACY_SCALES):
        raise ConfigurationError(f"rgb must be three of g, r, i, z for red, green and blue, such as 'zrg', got {rgb!r}")
    return chosen


def legacy_brightness(flux: Tensor, pixel_scale: Tensor) -> Tensor:
    """Return the surface brightness ``(N, C, Y, X)`` in nanomaggies per pixel of 0.262 arcsec.

    Parameters
    ----------
    flux
        ``(N, C, Y, X)`` nJy in a pixel.
    pixel_scale
        ``(1,)`` or ``(N,)`` arcseconds per pixel.
    """
    return flux * ((LEGACY_PIXEL_SCALE / pixel_scale).square() / NANOMAGGY).reshape(-1, 1, 1, 1)


def galaxy_zoo_rgb(flux: Tensor, bands: Sequence[str]) -> Tensor:
    """Return pictures ``(N, 3, Y, X)`` in [0, 1] as those of Galaxy Zoo DECaLS.

    Each band is stretched by asinh; then pixels in which one colour dominates are made grey, so that noise is not colourful.

    Parameters
    ----------
    flux
        ``(N, 3, Y, X)`` nanomaggies in a pixel of 0.262 arcsec, of red, green and blue.
    bands
        Their bands.
    """
    low, high = (math.asinh(value) for value in GALAXY_ZOO_RANGE)
    scales = [GALAXY_ZOO_SCALES[band] for band in bands]
    stretched = torch.stack([flux[:, k].div(scale).asinh_() for k, scale in enumerate(scales)], dim=1)
    stretched.sub_(low).div_(high - low)
    grey = stretched.mean(dim=1, keepdim=True)
    grey = torch.where(grey == 0, 1.0, grey)
    dominance = (stretched / grey).amax(dim=1, keepdim=True).div_(2.5).clamp_(max=1)
    colourful = ((1 - dominance) * (math.pi / 2)).sin()
    rest = 1 - colourful
    return stretched.mul_(colourful + grey * rest.square()).add_(grey * rest).clamp_(0, 1)


def legacy_rgb(flux: Tensor, bands: Sequence[str]) -> Tensor:
    """Return pictures ``(N, 3, Y, X)`` in [0, 1] as those of the viewer of the Legacy Surveys; parameters as `galaxy_zoo_rgb`."""
    scales = [LEGACY_SCALES[band] for band in bands]
    scaled = torch.stack([flux[:, k] * scale for k, scale in enumerate(scales)], dim=1).add_(LEGACY_SHIFT)
    mean = scaled.clamp(min=0).mean(dim=1, keepdim=True)
    stretched = (LEGACY_SOFTENING * mean).asinh() / math.sqrt(LEGACY_SOFTENING)
    return scaled.mul_(stretched / torch.where(mean == 0, 1e-6, mean)).clamp_(0, 1)
