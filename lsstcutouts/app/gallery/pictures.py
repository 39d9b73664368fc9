"""Colour composites and single bands of cutouts, as images of 8 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.visualization import (
    AsinhStretch,
    ImageNormalize,
    LinearStretch,
    ManualInterval,
    ZScaleInterval,
    make_lupton_rgb,
)
from numpy.typing import NDArray

from ...errors import ConfigurationError
from .entry import Panel

__all__ = ["PictureStyle", "Pictures"]

type Image = NDArray[np.uint8]

_COLOURS = ("irg", "zir", "yzi", "rgu")
"""Bands for red, green and blue, in order of preference."""

_BANDS = "ugrizy"
"""By wavelength."""

_PANELS = ("colour", "bands", "both")
_STRETCHES = ("asinh", "linear", "zscale")
_SCALES = ("all", "each")

_NO_DATA = 70
"""Grey level of pixels that no image covers."""


@dataclass(frozen=True)
class PictureStyle:
    """How cutouts become pictures.

    Attributes
    ----------
    panels
        ``"colour"``: one composite for each target; ``"bands"``: an image for each band; ``"both"``.
    rgb
        Bands for red, green and blue; by default i, r, g, or the reddest three that fit.
    stretch
        Of single bands: ``"asinh"`` and ``"linear"`` from -1.5 times the noise to the 99.7th percentile, or ``"zscale"``.
        The composite always has the stretch of Lupton et al. (2004, PASP 116, 133), in units of the noise.
    scale
        ``"all"``: one scale, from some of the targets, so that pictures can be compared; ``"each"``: each cutout its own.

    Raises
    ------
    ConfigurationError
        If a setting has none of these values.
    """

    panels: str = "colour"
    rgb: Sequence[str] | None = None
    stretch: str = "asinh"
    scale: str = "all"

    def __post_init__(self) -> None:
        for name, known in (("panels", _PANELS), ("stretch", _STRETCHES), ("scale", _SCALES)):
            if (given := getattr(self, name)) not in known:
                raise ConfigurationError(f"{name}={given!r} must be one of {', '.join(known)}")
        if self.rgb is not None and len(self.rgb) != 3:
            raise ConfigurationError(f"rgb={self.rgb!r} must be three bands: for red, green and blue, such as irg")


class Pictures:
    """Makes the panels of cutouts.

    Parameters
    ----------
    bands
        Names of the B channels.
    style
        How.
    sample
        ``(n, B, Y, X)`` cutouts from which the scale of all is measured; None for a scale of each.

    Raises
    ------
    ConfigurationError
        If the style names a band that there is not.
    """

    def __init__(self, bands: Sequence[str], style: PictureStyle, sample: NDArray[np.float32] | None) -> None:
        self.bands, self.style = tuple(bands), style
        if unknown := [band for band in style.rgb or () if band not in self.bands]:
            raise ConfigurationError(
                f"rgb={style.rgb!r} names the band {unknown[0]!r}, but the bands are {', '.join(self.bands)}"
            )
        chosen = style.rgb or next((c for c in _COLOURS if set(c) <= set(self.bands)), None)
        last = len(self.bands) - 1
        # With fewer bands the reddest is red; of bands with other names, which cannot be ordered, the last one.
        order = sorted(range(last + 1), key=lambda b: _BANDS.find(self.bands[b]))
        self._rgb = [self.bands.index(b) for b in chosen] if chosen else [order[min(k, last)] for k in (2, 1, 0)]
        self._scale = (
            None if sample is None or style.scale == "each" else [self._measured(sample[:, b]) for b in range(last + 1)]
        )

    @property
    def count(self) -> int:
        """Number of panels of a target."""
        return {"colour": 1, "bands": len(self.bands), "both": len(self.bands) + 1}[self.style.panels]

    def panels(self, image: NDArray[np.float32], present: NDArray[np.bool_]) -> tuple[Panel, ...]:
        """Return the panels of one cutout ``(B, Y, X)``; ``present`` ``(B,)``: bands with a pixel."""
        scale = self._scale or [self._measured(channel) for channel in image]
        made = []
        if self.style.panels != "bands":
            index = list(dict.fromkeys(self._rgb))
            missing = tuple(self.bands[b] for b in index if not present[b])
            made.append(Panel("".join(self.bands[b] for b in index), self._composite(image, scale), missing))
        if self.style.panels != "colour":
            for b, band in enumerate(self.bands):
                made.append(Panel(band, _grey(image[b], scale[b]), () if present[b] else (band,)))
        return tuple(made)

    def _measured(self, channel: NDArray[np.float32]) -> tuple[float, ImageNormalize]:
        """Return noise and normalisation of pixels of one band ``(..., Y, X)``."""
        covered = channel[np.isfinite(channel) & (channel != 0)].astype(np.float64)
        if not covered.size:
            return 1.0, ImageNormalize(vmin=-1.0, vmax=1.0)
        noise = max(1.4826 * float(np.median(np.abs(covered - np.median(covered)))), 1e-6)
        if self.style.stretch == "zscale":
            low, high = ZScaleInterval().get_limits(covered)
        else:
            low, high = -1.5 * noise, max(float(np.percentile(covered, 99.7)), 8.0 * noise)
        stretch = AsinhStretch(0.1) if self.style.stretch == "asinh" else LinearStretch()
        return noise, ImageNormalize(interval=ManualInterval(low, max(high, low + 1e-6)), stretch=stretch, clip=True)

    def _composite(self, image: NDArray[np.float32], scale: Sequence[tuple[float, Any]]) -> Image:
        channels = np.nan_to_num(image[self._rgb].astype(np.float64))
        red, green, blue = (c / scale[b][0] for c, b in zip(channels, self._rgb, strict=True))
        colour: Image = make_lupton_rgb(red, green, blue, minimum=-1.0, stretch=12.0, Q=6.0)
        colour[(channels == 0).all(axis=0)] = _NO_DATA
        return colour


def _grey(channel: NDArray[np.float32], scale: tuple[float, ImageNormalize]) -> Image:
    image: Image = np.asarray(255 * scale[1](np.nan_to_num(channel)) + 0.5, np.uint8)
    image[(channel == 0) | np.isnan(channel)] = _NO_DATA
    return np.repeat(image[..., None], 3, axis=-1)
