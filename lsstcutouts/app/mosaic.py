"""Mosaics of cutouts: colour composites with captions."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["rgb", "write_mosaic"]

_COLOURS = ("irg", "zir", "yzi", "rgu")
"""Bands for red, green and blue, in order of preference."""


def rgb(image: NDArray[np.float32], bands: Sequence[str], scale: Sequence[float] | None = None) -> NDArray[np.uint8]:
    """Return a colour composite ``(Y, X, 3)`` of one cutout ``(B, Y, X)``, first row at the top.

    Uses the colour-preserving asinh stretch of Lupton et al. (2004, PASP 116, 133), as implemented in astropy.

    Parameters
    ----------
    image
        ``(B, Y, X)`` in nJy or any linear unit.
    bands
        Channel order. Red, green and blue are i, r and g if present, otherwise the first available combination.
    scale
        Noise of a pixel in each band, in the unit of the image; by default measured in the cutout.
    """
    chosen = next((c for c in _COLOURS if set(c) <= set(bands)), None)
    index = [list(bands).index(b) for b in chosen] if chosen else [min(k, len(bands) - 1) for k in (2, 1, 0)]
    channels = image[index].astype(np.float64)
    noise = [_noise(c) for c in channels] if scale is None else [scale[i] for i in index]
    red, green, blue = (c / n for c, n in zip(channels, noise, strict=True))
    colour: NDArray[np.uint8] = make_lupton_rgb(red, green, blue, minimum=-1.0, stretch=12.0, Q=6.0)
    return colour


def _noise(channel: NDArray[np.float64]) -> float:
    """Return the noise of the covered pixels from their median absolute deviation; 1 for a missing band."""
    covered = channel[channel != 0]
    if not covered.size:
        return 1.0
    return max(1.4826 * float(np.median(np.abs(covered - np.median(covered)))), 1e-6)


def write_mosaic(
    path: str | os.PathLike[str],
    images: NDArray[np.float32],
    bands: Sequence[str],
    captions: Sequence[str],
    *,
    columns: int = 8,
    frames: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Write a PNG with a colour composite of each cutout, north up, and return its path.

    Parameters
    ----------
    path
        Output file; the folder is created.
    images
        ``(N, B, Y, X)`` in a linear unit, such as nJy.
    bands
        Channel order.
    captions
        One caption per cutout.
    columns
        Number of cutouts in a row.
    frames
        Colour of each caption.
    title
        Title of the figure.

    Raises
    ------
    ConfigurationError
        If there are no images, or not one caption per image.
    """
    # The object-oriented interface opens no window, has no global state and works in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if len(images) != len(captions) or not len(images):
        raise ConfigurationError(
            f"a mosaic needs at least one cutout and one caption per cutout, got {len(captions)} captions for {len(images)} cutouts"
        )
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.72 * rows + 0.4), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=11)
    for i, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).ravel()):
        axes.set_axis_off()
        if i < len(images):
            # The first row of a cutout is the southern one.
            axes.imshow(rgb(images[i], bands), origin="lower", interpolation="nearest")
            text = axes.set_title(_shortened(captions[i]), fontsize=8, color=frames[i] if frames else "white", pad=2)
            text.set_parse_math(False)  # an id may contain dollar signs
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, facecolor="black")
    return target


def _shortened(caption: str, most: int = 30) -> str:
    """Return a caption whose lines have at most ``most`` characters: a long id is cut in its middle."""
    lines = caption.split("\n")
    return "\n".join(one if len(one) <= most else f"{one[: most // 2]}...{one[-most // 2 + 3 :]}" for one in lines)
