"""The compiled loops against the plain ones, bit for bit, and without them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lsstcutouts import build_plan
from lsstcutouts.fits import kernels
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.codecs import decode_tiles, rice_hole, rice_padding
from lsstcutouts.fits.decode import decode_units, read_together
from lsstcutouts.fits.decode import streams_of as tile_streams
from lsstcutouts.fits.fused import RiceTiles, decode_fused, is_fused
from lsstcutouts.fits.headers import BadStructureError
from lsstcutouts.fits.layout import PLAIN, PlaneLayout
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.sky.geometry import YX
from lsstcutouts.source.byte_source import Scratch, Streams, open_source
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.examples import examples
from ..support.oracle import expected
from ..support.planes import assert_same_bits, float_planes, tile_shapes, write
from ..support.repositories import simulated_once

pytestmark = pytest.mark.skipif(not kernels.FUSED, reason="numba is not installed")


def quantised(path: Path, pixels: NDArray[np.floating], data: st.DataObject) -> Path:
    hdu = fits.CompImageHDU(
        pixels,
        name="IMAGE",
        compression_type="RICE_1",
        tile_shape=data.draw(tile_shapes(pixels.shape)),
        quantize_level=data.draw(st.sampled_from([16.0, 4.0, -0.25, -1e33])),
        quantize_method=data.draw(st.sampled_from([1, 2])),
        dither_seed=data.draw(st.integers(1, 10000)),
    )
    return write(path, image=hdu)


def tile_a_unit(path: Path) -> PlaneLayout:
    """Return the layout as it would be if every tile were large enough to be a cache unit."""
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    return replace(layout, unit_shape=layout.tile_shape, unit_grid=layout.tile_grid)


def plain(layout: PlaneLayout, tile: int, stream: memoryview) -> NDArray[np.float32]:
    return decode_tiles(layout, layout.tiles_under(layout.unit_box(tile)), [tile], [stream])


def streams_of(path: Path, layout: PlaneLayout, tiles: NDArray[np.int64]) -> Streams:
    return Streams(open_source(path), layout.offsets[tiles], layout.sizes[tiles], rice_padding(layout.rice[0])).read()


def fused(
    layout: PlaneLayout, tiles: NDArray[np.int64], rows: NDArray[np.int64], streams: Streams
) -> list[tuple[int, NDArray[np.float32]]]:
    """Return status and pixels of tiles, in two parts of one call; NaN where nothing was written."""
    out = np.full((len(tiles), layout.tile_shape.y * layout.tile_shape.x + 3), np.nan, np.float32)
    to = out.ctypes.data + np.arange(len(tiles), dtype=np.uint64) * np.uint64(out.strides[0])
    whole = RiceTiles(layout, tiles, rows, streams, to)
    (status,) = decode_fused([whole])
    return list(zip(status.tolist(), out, strict=True))


@examples(120)
@given(data=st.data())
def test_tiles_are_those_of_the_plain_path(tmp_path: Path, data: st.DataObject) -> None:
    path = quantised(tmp_path / "fused.fits", data.draw(float_planes()).astype(np.float32), data)
    layout = tile_a_unit(path)
    quantised_tiles = layout.kinds is None or bool((layout.kinds == PLAIN).any())
    assert is_fused(layout) == quantised_tiles  # one pixel alone is always stored losslessly
    assume(quantised_tiles)
    tiles = np.array(data.draw(st.permutations(range(layout.units)))[:40], np.int64)
    streams = streams_of(path, layout, tiles)
    height = np.array([layout.unit_box(t).shape.y for t in tiles.tolist()])
    rows = np.ceil(height * data.draw(st.sampled_from([1.0, 0.5, 0.1]))).astype(np.int64)
    views = streams.views()
    for i, (status, pixels) in enumerate(fused(layout, tiles, rows, streams)):
        if status < 0:  # stored in another way
            assert layout.kinds is not None
            assert layout.kinds[tiles[i]] != 0
            continue
        expected = plain(layout, int(tiles[i]), views[i])[: rows[i]]
        assert_same_bits(pixels[: expected.size].reshape(expected.shape), expected)
        assert np.isnan(pixels[expected.size :]).all()
        assert status > 0 or np.isfinite(expected).all()


@examples(60)
@given(data=st.data())
def test_units_come_in_the_order_asked_for_whatever_decodes_them(tmp_path: Path, data: st.DataObject) -> None:
    path = quantised(tmp_path / "units.fits", data.draw(float_planes()).astype(np.float32), data)
    layout = tile_a_unit(path)
    with open_coadd(path) as coadd:
        whole = coadd.read("image")
    units = data.draw(st.lists(st.integers(0, layout.units - 1), min_size=1, max_size=20))
    for unit, got in zip(units, decode_units(open_source(path), layout, units), strict=True):
        assert_same_bits(got, whole[layout.unit_box(unit).slices()])


@st.composite
def integers(draw: st.DrawFn) -> NDArray[np.int32]:
    """Tiles of integers whose blocks are constant, narrow, wide, of rare jumps, or random bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        n, centre = int(rng.integers(1, 90)), int(rng.integers(-(2**30), 2**30))
        width = draw(st.sampled_from([0, 1, 30, 2**12, 2**24, 2**30]))
        values = centre + rng.integers(-width, width + 1, n)
        values[rng.random(n) < draw(st.sampled_from([0.0, 0.05]))] += 2**28
        parts.append(values)
    return np.clip(np.concatenate(parts), -(2**31), 2**31 - 1).astype(np.int32)


def fused_integers(
    streams: Sequence[bytes], counts: Sequence[int], block: int
) -> list[tuple[int, NDArray[np.float32]]]:
    """Return the kernel's status and pixels of each stream; scale and dither are such that the integers come out."""
    memory = [np.frombuffer(stream + rice_padding(block), np.uint8) for stream in streams]
    out = [np.full(count + 1, -1.5, np.float32) for count in counts]
    ones, none = np.ones(len(streams)), np.zeros(len(streams), np.int64)
    status = kernels.decode_rice(
        np.array([one.ctypes.data for one in memory], np.uint64),
        np.array([len(stream) for stream in streams], np.uint64),
        np.array([one.ctypes.data for one in out], np.uint64),
        np.array(counts, np.int64),
        block,
        rice_hole(max(counts), block, 4),
        ones,
        0 * ones,
        np.full(10_000, 0.5),
        np.zeros(10_000, np.int64),
        none,
        False,
        none,
        False,
    )
    assert all(one[-1] == -1.5 for one in out)  # nothing is written behind the pixels
    return [(code, one[:-1]) for code, one in zip(status.tolist(), out, strict=True)]


@examples(300)
@given(tiles=st.lists(integers(), min_size=1, max_size=5), block=st.sampled_from([16, 32, 64]), data=st.data())
def test_integers_of_all_kinds(tiles: list[NDArray[np.int32]], block: int, data: st.DataObject) -> None:
    """Tiles of any number and length, of which only the first pixels may be wanted."""
    streams = [imagecodecs.rcomp_encode(values, nblock=block) for values in tiles]
    counts = [data.draw(st.integers(1, len(values))) for values in tiles]
    for (status, pixels), values in zip(fused_integers(streams, counts, block), tiles, strict=True):
        assert status == 0
        np.testing.assert_array_equal(pixels, values[: len(pixels)].astype(np.float32))


@examples(300)
@given(tiles=st.lists(integers(), min_size=1, max_size=3), data=st.data())
def test_damaged_streams_give_what_the_plain_decoder_gives_or_nothing(
    tiles: list[NDArray[np.int32]], data: st.DataObject
) -> None:
    streams = []
    for values in tiles:
        stream = bytearray(imagecodecs.rcomp_encode(values, nblock=32))
        for _ in range(data.draw(st.integers(0, 3))):
            stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        streams.append(bytes(stream[: data.draw(st.integers(1, len(stream)))]))
    found = fused_integers(streams, [len(values) for values in tiles], 32)
    for (status, pixels), stream, values in zip(found, streams, tiles, strict=True):
        if status < 0:
            continue  # the plain path decides
        padded = memoryview(stream + rice_padding(32))[: len(stream)]
        expected = imagecodecs.rcomp_decode(padded, shape=(len(values),), dtype="i4", nblock=32)
        np.testing.assert_array_equal(pixels, expected.astype(np.float32))


@examples(60)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_damaged_tile_does_not_change_the_others(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    tiles = [rng.integers(-500, 500, rng.integers(500, 3000)).astype(np.int32) for _ in range(5)]
    streams = [bytearray(imagecodecs.rcomp_encode(values, nblock=32)) for values in tiles]
    broken = data.draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
    for k in broken:
        del streams[k][data.draw(st.integers(1, len(streams[k]) - 1)) :]
    found = fused_integers([bytes(stream) for stream in streams], [len(values) for values in tiles], 32)
    for k, ((status, pixels), values) in enumerate(zip(found, tiles, strict=True)):
        assert status == (-1 if k in broken else 0)
        if k not in broken:
            np.testing.assert_array_equal(pixels, values.astype(np.float32))


def test_a_hole_of_zeros_is_left_to_the_plain_path() -> None:
    values = np.random.default_rng(0).integers(-500, 500, 22500).astype(np.int32)
    stream = bytearray(imagecodecs.rcomp_encode(values, nblock=32))
    hole = rice_hole(len(values), 32, 4)
    for at in (0, 1, len(stream) - hole - 1, 777):
        damaged = bytearray(stream)
        damaged[at : at + hole] = bytes(hole)
        assert fused_integers([bytes(damaged)], [len(values)], 32)[0][0] == -1
        damaged[at : at + hole] = bytes(hole - 3) + b"\x01" * 3
        assert not kernels.rice._has_hole(np.frombuffer(damaged, np.uint8).ctypes.data, len(damaged), hole)


def test_tiles_that_claim_too_much_are_left_to_the_plain_path(tmp_path: Path) -> None:
    """A header that claims many pixels for few bytes must not make the kernel take memory for them."""
    hdu = fits.CompImageHDU(
        np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32),
        name="IMAGE",
        compression_type="RICE_1",
        tile_shape=(8, 8),
        quantize_method=2,
    )
    path = write(tmp_path / "claim.fits", image=hdu)
    layout = tile_a_unit(path)
    huge = replace(layout, shape=YX(60_000, 60_000), tile_shape=YX(60_000, 60_000), unit_shape=YX(60_000, 60_000))
    with pytest.raises(BadStructureError, match="fewer bytes than"):
        decode_units(open_source(path), huge, [0])
    nowhere, one = np.zeros(1, np.uint64), np.zeros(1, np.int64)
    (status,) = decode_fused([RiceTiles(huge, one, one + 60_000, streams_of(path, layout, one), nowhere)])
    assert status.tolist() == [-1]


def test_tiles_of_several_planes_are_one_call(tmp_path: Path) -> None:
    """Of different settings, too: each part gets its own status and pixels."""
    rng, scratch, parts, wants = np.random.default_rng(0), Scratch(), [], []
    out = np.full((12, 64 * 64), np.nan, np.float32)
    for k, method in enumerate((1, 2, 1)):
        pixels = rng.normal(size=(128, 128)).astype(np.float32)
        pixels[:64, :64] = np.nan if k == 2 else 1
        hdu = fits.CompImageHDU(
            pixels, name="IMAGE", compression_type="RICE_1", tile_shape=(64, 64), quantize_method=method
        )
        path = write(tmp_path / f"{k}.fits", image=hdu)
        layout, tiles = tile_a_unit(path), rng.permutation(4)
        to = out.ctypes.data + (4 * k + np.arange(4, dtype=np.uint64)) * np.uint64(out.strides[0])
        parts.append(
            RiceTiles(layout, tiles, np.full(4, 64), tile_streams(open_source(path), layout, tiles, scratch), to)
        )
        with open_coadd(path) as coadd:
            wants += [coadd.read("image")[layout.unit_box(tile).slices()] for tile in tiles.tolist()]
    assert read_together([part.streams for part in parts]) == [None] * 3
    status = np.concatenate(decode_fused(parts)).tolist()
    assert sum(code >= 0 for code in status) >= 9
    for one, code, want in zip(out, status, wants, strict=True):
        assert code < 0 or np.array_equal(one.reshape(64, 64), want, equal_nan=True)


def run(code: str, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    ).stdout.strip()


CHECKSUM = """
import hashlib, sys
import numpy as np
from lsstcutouts.fits import kernels
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
plan = build_plan(sys.argv[1], sys.argv[1] + "/truth.parquet", collections="dp2", bands="gri", size=40)
batch = CutoutReader(plan, ReaderOptions(planes=("image", "variance", "valid"))).read(np.arange(len(plan)))
print(kernels.FUSED, hashlib.sha256(b"".join(batch[n].tobytes() for n in ("image", "variance", "valid"))).hexdigest())
"""


@pytest.fixture(scope="module")
def large_cells() -> SimulatedRepository:
    """A repository whose tiles are cache units of their own, as in DP2."""
    config = SimulationConfig(cells=2, cell=(120, 130), grid=4, patches=2, bands="gr", targets=60, missing=((5, "g"),))
    return simulated_once(config)


@pytest.mark.parametrize("whole_tiles", [True, False])
def test_batches_are_those_of_the_butler(large_cells: SimulatedRepository, *, whole_tiles: bool) -> None:
    plan = build_plan(large_cells.root, large_cells.truth, collections="dp2", bands="gr", size=(40, 33))
    with open_coadd(plan.files.uri[0]) as coadd:
        assert is_fused(coadd.layout("image"))
    options = ReaderOptions(planes=("image", "variance", "valid"))
    reader = CutoutReader(plan, options, cache=TileCache("100 MB"), whole_tiles=whole_tiles)
    batches = [reader.read(part) for part in np.array_split(np.random.default_rng(0).permutation(len(plan)), 7)]
    for batch in batches:
        for n, target in enumerate(batch["object_id"].tolist()):
            want = expected(large_cells, plan, int(np.flatnonzero(plan.object_id == target)[0]))
            for name in ("image", "variance", "valid"):
                np.testing.assert_array_equal(batch[name][n], getattr(want, name))


def test_they_are_the_same_without_numba(large_cells: SimulatedRepository) -> None:
    root = str(large_cells.root)
    fused, left_out = run(CHECKSUM, root), run(CHECKSUM, root, LSSTCUTOUTS_KERNELS="plain")
    assert fused.split()[0] == "True"
    assert left_out.split()[0] == "False"
    assert fused.split()[1] == left_out.split()[1]
