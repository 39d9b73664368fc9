"""Entries of a gallery from batches of cutouts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError
from ...read.export import batch_projection
from .entry import Entry
from .pictures import Pictures

__all__ = ["as_array", "entries_of", "valid_pixels"]

_ARCSEC = 1 / 3600


def as_array(values: Any) -> NDArray[Any]:
    """Return an array of a batch, or a tensor on any device, as a NumPy array; numbers of 16 bits as float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.float()
    return np.asarray(values)


def valid_pixels(batch: Mapping[str, Any]) -> NDArray[Any]:
    """Return the images of a batch ``(N, B, Y, X)``, 0 where ``valid``, if it is there, is false."""
    images = as_array(batch["image"])
    return np.where(as_array(batch["valid"]), images, 0) if "valid" in batch else images


def entries_of(
    batch: Mapping[str, Any],
    pictures: Pictures,
    *,
    captions: Sequence[str],
    values: Sequence[Mapping[str, Any]] | None = None,
    rows: Sequence[int] | None = None,
    outline: Sequence[str] = (),
) -> Iterator[Entry]:
    """Yield an entry for each row of a batch.

    Parameters
    ----------
    batch
        ``image`` ``(N, B, Y, X)``; what else there is of a batch is used: ``object_id``, ``ra``, ``dec`` ``(N,)``, ``wcs``
        ``(N, 8)``, ``valid`` and ``mask`` ``(N, B, Y, X)``.
    pictures
        Makes the panels.
    captions
        N texts.
    values, rows
        Columns of the catalog for each row, and its number; by default ``ra`` and ``dec``, and the place in the batch.
    outline
        Names of the bits of ``mask``.

    Raises
    ------
    ConfigurationError
        If there is not one caption for each row.
    """
    images = valid_pixels(batch)
    if len(captions) != len(images):
        raise ConfigurationError(f"captions= has {len(captions)} texts for {len(images)} cutouts; give one for each")
    present = (images != 0).any(axis=(2, 3))
    mask = as_array(batch["mask"]) if outline else None
    middle = ((images.shape[3] - 1) / 2, (images.shape[2] - 1) / 2)
    for i, image in enumerate(images):
        placed = _placed(batch, i)
        target, north, east, scale = placed or (middle, None, None, None)
        yield Entry(
            object_id=_item(batch["object_id"][i]) if "object_id" in batch else i,
            row=i if rows is None else rows[i],
            caption=captions[i],
            values=_position(batch, i) if values is None else values[i],
            panels=pictures.panels(image, present[i]),
            target=target,
            north=north,
            east=east,
            pixel_scale=scale,
            outlines={} if mask is None else _outlines(np.bitwise_or.reduce(mask[i], axis=0), outline),
        )


def _placed(
    batch: Mapping[str, Any], i: int
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float], float] | None:
    """Return position of a target, directions of north and east, and pixel scale; None for a cutout without a WCS."""
    if not {"wcs", "ra", "dec"} <= set(batch):
        return None
    wcs = as_array(batch["wcs"])[i]
    if not np.isfinite(wcs).all() or wcs[4] * wcs[7] == wcs[5] * wcs[6]:
        return None
    projection = batch_projection(batch, i)
    ra, dec = float(batch["ra"][i]), float(batch["dec"][i])
    towards = -_ARCSEC if dec > 0 else _ARCSEC  # to the equator, so that a pole is never crossed
    around = _ARCSEC / max(np.cos(np.radians(dec)), 1e-3)
    y, x = projection.sky_to_pixel(np.array([ra, ra, ra + around]), np.array([dec, dec + towards, dec]))
    north = np.array([x[1] - x[0], y[1] - y[0]]) * np.sign(towards)
    east = np.array([x[2] - x[0], y[2] - y[0]])
    north, east = north / np.hypot(*north), east / np.hypot(*east)
    scale = float(np.mean(projection.pixel_scale))
    return (float(x[0]), float(y[0])), (float(north[0]), float(north[1])), (float(east[0]), float(east[1])), scale


def _position(batch: Mapping[str, Any], i: int) -> dict[str, float]:
    return {name: float(batch[name][i]) for name in ("ra", "dec") if name in batch}


def _item(value: Any) -> int | str:
    identity: int | str = value.item() if hasattr(value, "item") else value
    return identity


def _outlines(bits: NDArray[Any], names: Sequence[str]) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """Return closed lines around the pixels of each bit of a mask ``(Y, X)``."""
    from contourpy import contour_generator

    found = {}
    for bit, name in enumerate(names):
        inside = np.pad((bits >> bit) & 1, 1).astype(np.float64)
        if inside.any():
            lines = contour_generator(z=inside).lines(0.5)
            found[name] = tuple((np.asarray(line) - 1).astype(np.float32) for line in lines)
    return found
