"""Which file gives which pixel, and which tiles hold them: against painting and slicing, without a file."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lsstcutouts.fits.kernels import paste_rows
from lsstcutouts.read.needed import Candidates, Grids, Pieces, candidates_of, pieces_of, tiles_needed
from lsstcutouts.sky.geometry import YX, Box

from ..support.examples import examples

PATCH, SIDE = 40, 3
"""Pixels of an inner region, and patches along a side of the tract."""


class Sky:
    """Nine patches, whose files reach beyond them by different borders; some are missing."""

    def __init__(self, rng: np.random.Generator, bands: int, missing: float) -> None:
        self.bands = bands
        number = np.arange(SIDE * SIDE)
        y, x = PATCH * (number // SIDE), PATCH * (number % SIDE)
        self.inner = np.column_stack([y, y + PATCH, x, x + PATCH])
        there = rng.random((SIDE * SIDE, bands)) >= missing
        self.files = np.where(there, np.cumsum(there).reshape(there.shape) - 1, -1)
        self.patch = np.nonzero(there)[0]
        grow = rng.integers(0, PATCH, (there.sum(), 4)) * (-1, 1, -1, 1)
        self.holds = self.inner[self.patch] + grow

    def pixels_of(self, file: int) -> Box:
        return Box(*self.holds[file].tolist())

    def targets(self, rng: np.random.Generator, count: int, size: YX[int]) -> Any:
        """Return a plan of boxes whose middle lies in their primary patch."""
        middle = rng.integers(0, SIDE * PATCH, (count, 2))
        yx0 = middle - np.asarray(size) // 2
        primary = middle[:, 0] // PATCH * SIDE + middle[:, 1] // PATCH
        others = [[p for p in range(SIDE * SIDE) if p != own and rng.random() < 0.9] for own in primary.tolist()]
        start = np.cumsum([0, *map(len, others)])
        return SimpleNamespace(
            primary=primary.astype(np.int32),
            yx0=yx0,
            others_start=start,
            others=np.array([p for each in others for p in each], np.int64),
            patches=SimpleNamespace(files=self.files, inner=self.inner),
            bands=tuple("ugrizy"[: self.bands]),
            size=size,
        )

    def painted(self, plan: Any, target: int, band: int) -> NDArray[np.int64]:
        """Return the file of each pixel of a box, -1 for none: the last one painted is the first in precedence."""
        y0, x0 = plan.yx0[target].tolist()
        owner = np.full(plan.size, -1)
        others = plan.others[plan.others_start[target] : plan.others_start[target + 1]].tolist()

        def paint(patch: int, region: Box | None) -> None:
            if (file := int(self.files[patch, band])) >= 0:
                area = self.pixels_of(file)
                area = area if region is None else area.intersection(region)
                area = area.intersection(Box(y0, y0 + plan.size.y, x0, x0 + plan.size.x))
                if not area.is_empty:
                    owner[area.slices(YX(y0, x0))] = file

        for patch in reversed(others):
            paint(patch, None)
        for patch in reversed(others):
            paint(patch, Box(*self.inner[patch].tolist()))
        paint(int(plan.primary[target]), None)
        return owner


def divided(sky: Sky, plan: Any) -> tuple[NDArray[np.int64], Candidates, Pieces]:
    targets = np.arange(len(plan.primary))
    candidates, first = candidates_of(plan, targets), plan.yx0.astype(np.int64)
    return first, candidates, pieces_of(first, plan.size, sky.bands, candidates, sky.pixels_of)


skies = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 6)
)  # seed, bands, share of files that are missing, targets
box_sizes = st.tuples(st.integers(1, 100), st.integers(1, 100))


@examples(150)
@given(skies, box_sizes)
def test_every_pixel_comes_from_the_first_file_that_holds_it(what: tuple[int, int, float, int], size) -> None:
    seed, bands, missing, count = what
    rng = np.random.default_rng(seed)
    sky = Sky(rng, bands, missing)
    plan = sky.targets(rng, count, YX(*size))
    first, candidates, pieces = divided(sky, plan)
    assert (np.diff(pieces.channel) >= 0).all()
    for channel in range(count * bands):
        target, band = divmod(channel, bands)
        want = sky.painted(plan, target, band)
        got, times = np.full(size, -1), np.zeros(size, int)
        for k in np.flatnonzero(pieces.channel == channel).tolist():
            at = Box(*pieces.area[k].tolist()).slices(YX(*first[target].tolist()))
            got[at], times[at] = pieces.file[k], times[at] + 1
        np.testing.assert_array_equal(got, want)
        assert times.max(initial=0) <= 1
        assert pieces.full[channel] == (want >= 0).all()
        assert not pieces.whole[channel] or (pieces.channel == channel).sum() == 1
    assert set(candidates.files_of(np.ones(count * bands, bool))) >= set(pieces.file.tolist())


def test_files_that_a_box_does_not_need_are_not_asked_for() -> None:
    rng = np.random.default_rng(0)
    sky = Sky(rng, 1, 0.0)
    plan = sky.targets(rng, 1, YX(3, 3))
    plan.yx0[:] = sky.inner[plan.primary[0], [0, 2]] + 5
    asked: list[int] = []

    def pixels_of(file: int) -> Box:
        asked.append(file)
        return sky.pixels_of(file)

    pieces_of(plan.yx0, plan.size, 1, candidates_of(plan, np.array([0])), pixels_of)
    assert asked == [int(sky.files[plan.primary[0], 0])]


@examples(150)
@given(skies, box_sizes, st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_copies_of_tiles_are_crops_of_files(what: tuple[int, int, float, int], size, tile) -> None:
    """Each pixel of a file holds a number of its own; boxes that are pasted from its tiles show who gave what."""
    seed, bands, missing, count = what
    rng = np.random.default_rng(seed)
    sky = Sky(rng, bands, missing)
    plan = sky.targets(rng, count, YX(*size))
    first, _, pieces = divided(sky, plan)
    files, place = np.unique(pieces.file, return_inverse=True)
    shape = np.column_stack(
        [sky.holds[files][:, 1] - sky.holds[files][:, 0], sky.holds[files][:, 3] - sky.holds[files][:, 2]]
    )
    steps = np.maximum(1, np.asarray(tile) - rng.integers(0, 3, (len(files), 2)))  # files may differ
    grids = Grids(sky.holds[files][:, [0, 2]], shape, steps)
    needed = tiles_needed(first, bands, pieces.channel, place, pieces.area, grids)
    pixels = {
        file: np.random.default_rng(int(file)).normal(size=shape[i]).astype(np.float32) for i, file in enumerate(files)
    }

    grid = -(-shape // steps)
    key = needed.file * 10**6 + needed.tile
    assert (np.diff(key) > 0).all()  # each once, in ascending order
    assert (needed.tile < grid.prod(axis=1)[needed.file]).all()
    assert (needed.rows <= needed.height).all()
    assert (needed.copies[:, 5] + needed.copies[:, 7] <= needed.width[needed.copies[:, 0]]).all()
    assert (np.diff(needed.copies[:, 1]) >= 0).all()

    tiles = []
    for f, t, rows, width in zip(needed.file, needed.tile, needed.rows, needed.width, strict=True):
        y, x = divmod(int(t), int(grid[f, 1]))
        part = pixels[files[f]][y * steps[f, 0] :, x * steps[f, 1] :][:rows, :width]
        assert part.shape == (rows, width)
        tiles.append(np.ascontiguousarray(part))
    got = np.full((count * bands, *size), np.nan, np.float32)
    for k, channel, y, x, from_y, from_x, rows, columns in needed.copies.tolist():
        got[channel, y : y + rows, x : x + columns] = tiles[k][from_y : from_y + rows, from_x : from_x + columns]
    for channel in range(count * bands):
        target, band = divmod(channel, bands)
        owner, (y0, x0) = sky.painted(plan, target, band), first[target].tolist()
        want = np.full(size, np.nan, np.float32)
        for file in np.unique(owner[owner >= 0]).tolist():
            at = np.nonzero(owner == file)
            low_y, _, low_x, _ = sky.holds[file].tolist()
            want[at] = pixels[file][at[0] + y0 - low_y, at[1] + x0 - low_x]
        np.testing.assert_array_equal(got[channel], want)
    if paste_rows is not None:
        compiled = np.full_like(got, np.nan)
        addresses = np.array([one.ctypes.data for one in tiles], np.uint64)
        paste_rows(
            needed.copies, addresses, needed.width, compiled.ctypes.data, compiled.strides[0], compiled.strides[1]
        )
        np.testing.assert_array_equal(compiled, got)


def test_nothing_is_needed_of_nothing() -> None:
    none, areas = np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    pairs = np.zeros((0, 2), np.int64)
    needed = tiles_needed(pairs, 3, none, none, areas, Grids(pairs, pairs, pairs))
    assert (len(needed.tile), needed.copies.shape) == (0, (0, 8))
    pieces = pieces_of(pairs, YX(5, 5), 3, Candidates(none, none, areas), lambda _: pytest.fail("no file"))
    assert len(pieces.channel) == len(pieces.whole) == 0
