"""Planes of all kinds for the tests of tile coding, and their comparison with astropy's own decoder.

``LSSTCUTOUTS_COUNTS=file`` writes how many boxes were compared, by the way they are coded; with
``--hypothesis-profile=many`` there are twenty times as many.
"""

import atexit
import collections
import json
import os
from pathlib import Path

import numpy as np
from astropy.io import fits
from hypothesis import strategies as st
from numpy.typing import NDArray

from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.layout import PlaneLayout
from lsstcutouts.sky.geometry import YX, Box

ORIGIN = YX(2850, -150)

lengths = st.integers(1, 60) | st.sampled_from([110, 151])
"""The longer ones together make tiles that use the 10 000 random numbers up twice."""
shapes = st.tuples(lengths, lengths)


@st.composite
def float_planes(draw: st.DrawFn) -> NDArray[np.float32]:
    """Noise with what coadds have: exact zeros, NaN, infinite and negative values, constant areas, stars."""
    ny, nx = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = rng.normal(draw(st.sampled_from([0.0, 5.0, 1e4])), draw(st.sampled_from([1e-3, 1.0, 300.0])), (ny, nx))
    for value in draw(st.lists(st.sampled_from([0.0, np.nan, np.inf, -7.5, 3e5]), max_size=3)):
        y, x = rng.integers(0, ny), rng.integers(0, nx)
        data[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = value
    return data.astype(draw(st.sampled_from([np.float32, np.float32, np.float64])))


@st.composite
def integer_planes(draw: st.DrawFn) -> NDArray[np.integer]:
    ny, nx = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.uint32]))
    values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (ny, nx), endpoint=True)
    return np.where(rng.random((ny, nx)) < 0.7, 1 << draw(st.integers(0, 6)), values).astype(dtype)


def tile_shapes(shape: tuple[int, int]) -> st.SearchStrategy[tuple[int, int]]:
    any_shape = st.tuples(st.integers(1, shape[0]), st.integers(1, shape[1]))
    # Not too many: astropy needs 0.1 ms for each.
    return any_shape.filter(lambda t: shape[0] * shape[1] < 500 * t[0] * t[1]) | st.sampled_from([(1, shape[1]), shape])


def boxes(shape: tuple[int, int]) -> st.SearchStrategy[Box]:
    def ordered(ends: tuple[int, int, int, int]) -> Box:
        (y0, y1), (x0, x1) = sorted(ends[:2]), sorted(ends[2:])
        return Box(y0, y1 + 1, x0, x1 + 1)

    y, x = st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)
    return st.tuples(y, y, x, x).map(ordered)


def write(path: Path, **planes: fits.ImageHDU | fits.CompImageHDU) -> Path:
    """Write planes to a file with afw's origin keywords."""
    for hdu in planes.values():
        hdu.header["LTV1"], hdu.header["LTV2"] = -ORIGIN.x, -ORIGIN.y
    fits.HDUList([fits.PrimaryHDU(), *planes.values()]).writeto(path, overwrite=True)
    return path


def assert_as_astropy(path: Path, plane: str, some: list[Box]) -> None:
    with fits.open(path) as hdus, open_coadd(path) as coadd:
        # Here astropy warns of infinite and too large values; this package does not.
        with np.errstate(all="ignore"):
            expected = hdus[plane.upper()].data.astype(np.int32 if plane == "mask" else np.float32)
        assert coadd.bbox == Box.from_start(ORIGIN, YX(*expected.shape))
        whole = coadd.read(plane)
        assert whole.dtype == expected.dtype
        assert whole.dtype.isnative
        assert_same_bits(whole, expected)
        layout = coadd.layout(plane)
        for box in (some := [*some, *_more_boxes(expected.shape, 16)]):
            assert_same_bits(coadd.read(plane, box.shifted(ORIGIN)), expected[box.slices()])
        for unit, pixels in enumerate(coadd.read_units(plane, range(layout.units))):
            assert pixels.flags.c_contiguous
            assert not pixels.flags.writeable
            assert_same_bits(pixels, expected[layout.unit_box(unit).slices()])
        _compared[_coding(layout)] += 1 + len(some) + layout.units


def _more_boxes(shape: tuple[int, ...], count: int) -> list[Box]:
    """Return boxes that Hypothesis need not choose."""
    rng = np.random.default_rng(shape)
    ends = [np.sort(rng.integers(0, n, (count, 2)), axis=1) + np.array([0, 1]) for n in shape]
    return [Box(*map(int, y), *map(int, x)) for y, x in zip(*ends, strict=True)]


_compared = collections.Counter[str]()
"""Boxes that were compared, by the way they are coded."""


def _coding(layout: PlaneLayout) -> str:
    method = layout.quantisation.method if layout.quantisation else "as stored"
    width = f" BYTEPIX {layout.rice[1]}" if layout.compression == "RICE_1" else ""
    others = "" if layout.kinds is None else " + tiles not quantised"
    return f"{layout.compression}{width}, {layout.stored.name}, {method}{others}"


@atexit.register
def _write_counts() -> None:
    if path := os.environ.get("LSSTCUTOUTS_COUNTS"):
        Path(path).write_text(json.dumps({**_compared, "total": _compared.total()}, indent=1, sort_keys=True))


def assert_same_bits(got: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    """Equal values, NaN where NaN, and the same sign of zero."""
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(expected) & ~np.isnan(expected))
