"""Rotations by 90 degrees and reflections."""

import torch
from torch import Tensor

from .augmentation import Augmentation
from .batch import TensorBatch
from .hashing import random_uniform
from .planes import PLANES
from .resampling import gathered

__all__ = ["RandomD4"]


class RandomD4(Augmentation):
    """Rotate and reflect each target by a random symmetry of the square (8 of them; 4 for a rectangle).

    All planes of a target, its ``offset`` and its ``wcs`` change together; no pixel is interpolated. ``yx0`` remains that
    of the box that was read. The random choice is reproducible; see `Augmentation`.

    Parameters
    ----------
    seed
        Seed of the random numbers.
    """

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Rotate and reflect all planes ``(N, B, Y, X)`` of the batch.

        Raises
        ------
        ConfigurationError
            If the batch has no ``offset`` or no id.
        """
        planes = {name: v for name in PLANES if isinstance(v := batch.get(name), Tensor)}
        square = all(v.shape[-1] == v.shape[-2] for v in planes.values())
        offset, wcs = self.required(batch, "offset"), batch.get("wcs")
        choice = (random_uniform(self.keys(batch), 1)[:, 0] * (8 if square else 4)).to(torch.int64)
        symmetry = _Symmetry(choice, square)
        moved: TensorBatch = {name: symmetry.plane(plane) for name, plane in planes.items()}
        moved["offset"] = symmetry.offset(offset)
        sides = next(((v.shape[-2], v.shape[-1]) for name, v in planes.items() if name != "psf"), None)
        if isinstance(wcs, Tensor) and sides is not None:
            moved["wcs"] = symmetry.wcs(wcs, *sides)
        return {**batch, **moved}


class _Symmetry:
    """One symmetry for each of ``N`` targets: bit 0 reverses y, bit 1 reverses x, bit 2 then swaps the axes."""

    def __init__(self, choice: Tensor, square: bool) -> None:
        self._choice, self._square = choice, square
        self._mirrors_y, self._mirrors_x, self._swaps = (
            (choice & bit).ne(0).unsqueeze(1) for bit in (1, 2, 4)
        )  # (N, 1)

    def plane(self, plane: Tensor) -> Tensor:
        """Return the transformed plane ``(N, B, Y, X)`` in the memory format of the input."""
        height, width = plane.shape[-2:]
        return gathered(plane, _source_pixels(height, width, self._square, plane.device)[self._choice], height, width)

    def offset(self, offset: Tensor) -> Tensor:
        """Return the transformed offsets from the centre of the box, ``(N, 2)`` as ``(y, x)``, pixels."""
        mirrors = torch.cat([self._mirrors_y, self._mirrors_x], dim=1)
        offset = torch.where(mirrors, -offset, offset)
        return torch.where(self._swaps, offset.flip(-1), offset)

    def wcs(self, wcs: Tensor, height: int, width: int) -> Tensor:
        """Return the transformed ``wcs`` rows ``(N, 8)``: ``crval`` (degrees), reference pixel ``(x, y)``, CD matrix."""
        x, y, cd = wcs[:, 2:3], wcs[:, 3:4], wcs[:, 4:].reshape(-1, 2, 2)
        x = torch.where(self._mirrors_x, width - 1 - x, x)
        y = torch.where(self._mirrors_y, height - 1 - y, y)
        mirrors = torch.cat([self._mirrors_x, self._mirrors_y], dim=1).unsqueeze(1)  # of the columns of CD
        cd = torch.where(mirrors, -cd, cd)
        pixel = torch.where(self._swaps, torch.cat([y, x], dim=1), torch.cat([x, y], dim=1))
        cd = torch.where(self._swaps.unsqueeze(2), cd.flip(-1), cd)
        return torch.cat([wcs[:, :2], pixel, cd.reshape(-1, 4)], dim=1)


def _source_pixels(height: int, width: int, square: bool, device: torch.device) -> Tensor:
    """Return ``(8, Y * X)`` flat indices of the source pixels of each symmetry; ``(4, Y * X)`` unless ``square``."""
    elements = torch.arange(8 if square else 4, device=device).reshape(-1, 1, 1)
    y = torch.arange(height, device=device).reshape(1, -1, 1)
    x = torch.arange(width, device=device).reshape(1, 1, -1)
    swaps = (elements & 4).ne(0)
    row, column = (torch.where(swaps, x, y), torch.where(swaps, y, x)) if square else (y, x)
    row = torch.where((elements & 1).ne(0), height - 1 - row, row)
    column = torch.where((elements & 2).ne(0), width - 1 - column, column)
    return (row * width + column).reshape(len(elements), -1)
