"""A tract's mosaic, pasted from whole files: what every cutout of the tract must be a crop of.

Which file wins where depends on the target's patch alone, so there is one mosaic for each patch and band. The least
important file is pasted first; the package goes the other way round and stops when a box is full.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .oracle import WholeFile

MARGIN = 400
"""Pixels around the tract: boxes and files may leave it."""


class TractMosaic:
    """One band of one tract, as a target of one patch sees it.

    Parameters
    ----------
    files
        Coadds by patch.
    primary
        The target's patch.
    grid, inner
        Patches of the tract and pixels of an inner region, ``(y, x)``.
    """

    def __init__(
        self, files: dict[int, WholeFile], primary: int, grid: tuple[int, int], inner: tuple[int, int]
    ) -> None:
        self._files, self._primary, self._grid, self._inner = files, primary, grid, inner

    def _region(self, patch: int) -> tuple[int, int, int, int]:
        y, x = divmod(patch, self._grid[1])
        h, w = self._inner
        return y * h, (y + 1) * h, x * w, (x + 1) * w

    @cached_property
    def _canvas(self) -> dict[str, NDArray]:
        shape = tuple(n * size + 2 * MARGIN for n, size in zip(self._grid, self._inner, strict=True))
        canvas = {
            "image": np.zeros(shape, np.float32),
            "variance": np.zeros(shape, np.float32),
            "no_data": np.zeros(shape, bool),
            "covered": np.zeros(shape, bool),
        }
        others = sorted(set(self._files) - {self._primary}, reverse=True)
        order = [(p, None) for p in others] + [(p, self._region(p)) for p in others]
        order += [(p, None) for p in self._files if p == self._primary]
        for patch, region in order:
            self._paste(canvas, self._files[patch], region)
        return canvas

    @staticmethod
    def _paste(canvas: dict[str, NDArray], one: WholeFile, region: tuple[int, int, int, int] | None) -> None:
        (fy, fx), (fh, fw) = one.start, one.image.shape
        top, bottom, left, right = fy, fy + fh, fx, fx + fw
        if region is not None:
            top, bottom = max(top, region[0]), min(bottom, region[1])
            left, right = max(left, region[2]), min(right, region[3])
        to = slice(top + MARGIN, bottom + MARGIN), slice(left + MARGIN, right + MARGIN)
        there = slice(top - fy, bottom - fy), slice(left - fx, right - fx)
        for name in ("image", "variance", "no_data"):
            canvas[name][to] = getattr(one, name)[there]
        canvas["covered"][to] = True

    def crop(self, yx0: tuple[int, int], size: tuple[int, int]) -> dict[str, NDArray]:
        """Return the planes of a box in tract pixels."""
        y, x = yx0[0] + MARGIN, yx0[1] + MARGIN
        assert y >= 0
        assert x >= 0
        return {name: plane[y : y + size[0], x : x + size[1]] for name, plane in self._canvas.items()}
