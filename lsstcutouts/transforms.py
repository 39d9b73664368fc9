"""Modules over a whole batch, run on the device that holds it.

Each takes and returns the batch dictionary; planes that must change together do.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .dataset import TensorBatch
from .errors import ConfigurationError

__all__ = ["AsinhStretch", "Compose", "RandomD4", "random_integers"]

_PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Arrays whose last two axes are ``(y, x)`` of the sky."""


class Compose(nn.Sequential):
    """Apply modules over a batch one after the other."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(*modules)


class AsinhStretch(nn.Module):
    """Compress the range of the image: ``asinh(image / scale)``, linear near 0, logarithmic far above ``scale``.

    Follows Lupton, Gunn & Szalay 1999 (AJ 118, 1406). Absent bands stay exactly 0; pixels that are not valid are
    set to 0 where the batch has ``valid``, unless ``keep_invalid`` says that they have been filled on purpose.

    Parameters
    ----------
    scale
        Softening of each band in the image's unit (nJy), in channel order or by band name together with
        ``bands``; about the noise of a pixel. One number serves all bands.
    bands
        Channel order, needed when ``scale`` is given by name.
    keep_invalid
        Whether pixels that are not valid keep what stands there, such as the noise of ``fill="noise"``.
    """

    scale: Tensor

    def __init__(
        self,
        scale: float | Sequence[float] | Mapping[str, float],
        bands: str | Sequence[str] = "",
        *,
        keep_invalid: bool = False,
    ) -> None:
        super().__init__()
        self.keep_invalid = keep_invalid
        values = _in_order(scale, bands)
        if any(not value > 0 for value in values):
            raise ConfigurationError(f"the scale of an asinh stretch must be positive, got {scale!r}")
        self.register_buffer("scale", torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Stretch ``image`` ``(N, B, Y, X)``."""
        image, valid = batch["image"], batch.get("valid")
        if not isinstance(image, Tensor):
            raise ConfigurationError("the batch has no image to stretch; add 'image' to planes")
        if self.scale.shape[0] not in {1, image.shape[1]}:
            raise ConfigurationError(f"a stretch for {self.scale.shape[0]} bands cannot serve {image.shape[1]}")
        stretched = torch.asinh(image / self.scale)
        if isinstance(valid, Tensor) and not self.keep_invalid:
            stretched = stretched.masked_fill(~valid, 0.0)
        return {**batch, "image": stretched}


class RandomD4(nn.Module):
    """Turn and mirror each target by one of the eight symmetries of the square (of the rectangle: four).

    Every plane of a target, its ``offset`` and its ``wcs`` change together. The choice is a hash of
    ``(seed, epoch, object_id)``: a resumed run repeats it, whatever the order, the workers and the device.

    Parameters
    ----------
    seed
        Chooses among series of choices.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Use the choices of another epoch."""
        self.epoch = epoch

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Turn and mirror all planes ``(N, B, Y, X)`` of the batch."""
        planes = {name: v for name in _PLANES if isinstance(v := batch.get(name), Tensor)}
        square = all(v.shape[-1] == v.shape[-2] for v in planes.values())
        ids, offset = batch["object_id"], batch["offset"]
        if not isinstance(ids, Tensor) or not isinstance(offset, Tensor):
            raise ConfigurationError("the batch has no object_id or offset")
        choice = random_integers(ids, self.seed, self.epoch, 8 if square else 4)
        result = {name: plane.clone() for name, plane in planes.items()}
        moved, wcs = offset.clone(), batch.get("wcs")
        sides = next(((v.shape[-2], v.shape[-1]) for name, v in planes.items() if name != "psf"), None)
        placed = wcs.clone() if isinstance(wcs, Tensor) and sides is not None else None
        for element in range(1, 8 if square else 4):
            chosen = (choice == element).nonzero().squeeze(1)
            if len(chosen):
                for name, plane in planes.items():
                    result[name][chosen] = _turned(plane[chosen], element)
                moved[chosen] = _turned_offset(offset[chosen], element)
                if placed is not None and sides is not None:
                    placed[chosen] = _turned_wcs(placed[chosen], element, *sides)
        result["offset"] = moved
        return {**batch, **result, **({} if placed is None else {"wcs": placed})}


def _turned(plane: Tensor, element: int) -> Tensor:
    """Apply a symmetry: bit 0 mirrors y, bit 1 mirrors x, bit 2 then swaps the axes."""
    flips = [axis for bit, axis in ((1, -2), (2, -1)) if element & bit]
    plane = plane.flip(flips) if flips else plane
    return plane.transpose(-1, -2) if element & 4 else plane


def _turned_offset(offset: Tensor, element: int) -> Tensor:
    """Apply the same symmetry to ``(N, 2)`` distances from the middle of the box, ``(y, x)``."""
    signs = offset.new_tensor([-1.0 if element & 1 else 1.0, -1.0 if element & 2 else 1.0])
    offset = offset * signs
    return offset.flip(-1) if element & 4 else offset


def _turned_wcs(wcs: Tensor, element: int, height: int, width: int) -> Tensor:
    """Apply the same symmetry to ``(N, 8)`` rows of ``wcs``: reference pixel ``(x, y)`` and CD matrix."""
    crval, x, y, cd = wcs[:, :2], wcs[:, 2], wcs[:, 3], wcs[:, 4:].reshape(-1, 2, 2)
    if element & 1:
        y, cd = height - 1 - y, cd * cd.new_tensor([1.0, -1.0])
    if element & 2:
        x, cd = width - 1 - x, cd * cd.new_tensor([-1.0, 1.0])
    if element & 4:
        x, y, cd = y, x, cd.flip(-1)
    return torch.cat([crval, x[:, None], y[:, None], cd.reshape(-1, 4)], dim=1)


def random_integers(ids: Tensor, seed: int, epoch: int, high: int) -> Tensor:
    """Return ``(N,)`` integers in ``[0, high)``, a hash of each id with seed and epoch, equal on every device.

    SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), in wrapping 64-bit arithmetic.
    """
    state = ids.to(torch.int64) + _wrapped(0x9E3779B97F4A7C15 * (1 + seed)) + _wrapped(0xD1B54A32D192ED03 * (1 + epoch))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _logical_shift(state, shift)) * _wrapped(factor)
    state = state ^ _logical_shift(state, 31)
    return _logical_shift(state, 33) % high


def _wrapped(value: int) -> int:
    """Return the signed 64-bit integer with the same low bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _logical_shift(value: Tensor, by: int) -> Tensor:
    return (value >> by) & ((1 << (64 - by)) - 1)


def _in_order(scale: float | Sequence[float] | Mapping[str, float], bands: str | Sequence[str]) -> list[float]:
    if isinstance(scale, Mapping):
        missing = [band for band in bands if band not in scale]
        if missing or not bands:
            raise ConfigurationError(f"the stretch has no scale for the bands {missing or 'asked for'}: {dict(scale)}")
        return [float(scale[band]) for band in bands]
    return [float(scale)] if isinstance(scale, int | float) else [float(value) for value in scale]
