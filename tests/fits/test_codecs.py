"""Every compression that FITS knows, bit for bit against astropy's own decoder."""

import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import CorruptFileError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.codecs import dither_sequence, rice_padding
from lsstcutouts.sky.geometry import Box

from ..support.examples import examples
from ..support.planes import (
    assert_as_astropy,
    boxes,
    float_planes,
    integer_planes,
    shapes,
    tile_shapes,
    write,
)


@examples(100)
@given(data=st.data())
def test_quantised_floats(tmp_path: Path, data: st.DataObject) -> None:
    pixels = data.draw(float_planes())
    compression = data.draw(st.sampled_from(["RICE_1", "GZIP_1", "GZIP_2"]))
    hdu = fits.CompImageHDU(
        pixels,
        name="IMAGE",
        compression_type=compression,
        tile_shape=data.draw(tile_shapes(pixels.shape)),
        quantize_level=data.draw(st.sampled_from([16.0, 4.0, -0.25])),
        quantize_method=data.draw(st.sampled_from([-1, 1, 2])),
        dither_seed=data.draw(st.integers(1, 10000)),
    )
    path = write(tmp_path / "quantised.fits", image=hdu)
    assert_as_astropy(path, "image", data.draw(st.lists(boxes(pixels.shape), max_size=3)))


@examples(60)
@given(data=st.data())
def test_lossless_floats(tmp_path: Path, data: st.DataObject) -> None:
    pixels = data.draw(float_planes())
    compression = data.draw(st.sampled_from(["GZIP_1", "GZIP_2", "NOCOMPRESS", None]))
    if compression is None:
        hdu = fits.ImageHDU(pixels, name="IMAGE")
    else:
        tile = data.draw(tile_shapes(pixels.shape))
        hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type=compression, tile_shape=tile, quantize_level=0.0)
    path = write(tmp_path / "lossless.fits", image=hdu)
    assert_as_astropy(path, "image", data.draw(st.lists(boxes(pixels.shape), max_size=3)))


@examples(100)
@given(data=st.data())
def test_integers(tmp_path: Path, data: st.DataObject) -> None:
    compression = data.draw(st.sampled_from(["RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS", None]))
    pixels = data.draw(integer_planes())
    if compression is None:
        hdu = fits.ImageHDU(pixels, name="MASK")
    else:
        tile = data.draw(tile_shapes(pixels.shape))
        hdu = fits.CompImageHDU(pixels, name="MASK", compression_type=compression, tile_shape=tile)
    path = write(
        tmp_path / "integers.fits", image=fits.ImageHDU(np.zeros(pixels.shape, np.float32), name="IMAGE"), mask=hdu
    )
    # A uint32 mask comes as int32: bit 31 is the sign, and so it is meant.
    assert_as_astropy(path, "mask", data.draw(st.lists(boxes(pixels.shape), max_size=3)))


@examples(40)
@given(data=st.data())
def test_integer_images(tmp_path: Path, data: st.DataObject) -> None:
    """The image plane as integers, delivered as float32; unsigned types have a BZERO."""
    compression = data.draw(st.sampled_from(["RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"]))
    pixels = data.draw(integer_planes())
    tile = data.draw(tile_shapes(pixels.shape))
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type=compression, tile_shape=tile)
    path = write(tmp_path / "integers.fits", image=hdu)
    assert_as_astropy(path, "image", data.draw(st.lists(boxes(pixels.shape), max_size=3)))


@examples(30)
@given(data=st.data())
def test_plio(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(shapes)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    pixels = np.zeros(shape, data.draw(st.sampled_from([np.uint8, np.int16, np.int32])))
    pixels[rng.random(shape) < data.draw(st.sampled_from([0.0, 0.01, 0.5]))] = 120
    pixels[: shape[0] // 2, shape[1] // 3 :] = rng.integers(0, np.iinfo(pixels.dtype).max >> 8 or 2)
    tile = data.draw(tile_shapes(shape).filter(lambda t: shape[0] * shape[1] < 30 * t[0] * t[1]))
    hdu = fits.CompImageHDU(pixels, name="MASK", compression_type="PLIO_1", tile_shape=tile)
    image = fits.ImageHDU(np.zeros(pixels.shape, np.float32), name="IMAGE")
    path = write(tmp_path / "plio.fits", image=image, mask=hdu)
    assert_as_astropy(path, "mask", data.draw(st.lists(boxes(shape), max_size=2)))


@examples(40)
@given(data=st.data())
def test_hcompress(tmp_path: Path, data: st.DataObject) -> None:
    """Lossless and lossy, smoothed or not; floats, integers and integers with a BZERO; smaller tiles at the edges."""
    shape = data.draw(st.tuples(st.integers(4, 40), st.integers(4, 40)))
    tile = data.draw(st.tuples(st.integers(4, shape[0]), st.integers(4, shape[1])))
    if 0 < shape[0] % tile[0] < 4 or 0 < shape[1] % tile[1] < 4:
        tile = shape  # astropy writes no HCOMPRESS tile of fewer than 4 rows or columns
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int16, np.uint16, np.int32]))
    pixels = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(100, 9, shape).astype(dtype)
    hdu = fits.CompImageHDU(
        pixels,
        name="IMAGE",
        compression_type="HCOMPRESS_1",
        tile_shape=tile,
        hcomp_scale=data.draw(st.sampled_from([0, 0, 3])),
        hcomp_smooth=data.draw(st.booleans()),
        quantize_level=16.0,
        quantize_method=data.draw(st.sampled_from([-1, 1, 2])),
        dither_seed=data.draw(st.integers(1, 10000)),
    )
    path = write(tmp_path / "hcompress.fits", image=hdu)
    assert_as_astropy(path, "image", data.draw(st.lists(boxes(shape), max_size=2)))


@pytest.mark.parametrize("compression", ["PLIO_1", "HCOMPRESS_1"])
def test_a_thousand_tiles_take_well_under_a_second(tmp_path: Path, compression: str) -> None:
    """0.06 s when measured; a file in memory for each tile would take 17 s."""
    pixels = (np.arange(4_000_000).reshape(4000, 1000) // 37 % 5).astype(np.int32)
    tile = (4, 1000) if compression == "HCOMPRESS_1" else (1, 1000)
    pixels = pixels[: 1000 * tile[0]]
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type=compression, tile_shape=tile)
    path = write(tmp_path / "many.fits", image=hdu)
    with open_coadd(path) as coadd:
        start = time.perf_counter()
        found = coadd.read("image")
        assert time.perf_counter() - start < 3
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("stored", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("compression", [None, "RICE_1", "GZIP_2"])
def test_scaled_integers_are_floats(tmp_path: Path, stored: type, compression: str | None) -> None:
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 120, (40, 50)).astype(stored)
    raw[3, 4] = 99
    plain = fits.ImageHDU(raw, name="IMAGE")
    hdu = plain if compression is None else fits.CompImageHDU(raw, name="IMAGE", compression_type=compression)
    path = write(tmp_path / "scaled.fits", image=hdu)
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus[1].header["BSCALE"], hdus[1].header["BZERO"], hdus[1].header["BLANK"] = 0.37, -12.5, 99
    with fits.open(path) as hdus:
        assert np.isnan(hdus["IMAGE"].data[3, 4])
    assert_as_astropy(path, "image", [Box(2, 9, 3, 44)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_floats(tmp_path: Path, dtype: type) -> None:
    pixels = np.random.default_rng(6).normal(0, 3, (40, 50)).astype(dtype)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type="RICE_1", quantize_method=1, dither_seed=4)
    path = write(tmp_path / "scaled.fits", image=hdu)
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus[1].header["BSCALE"], hdus[1].header["BZERO"] = 2.7, 0.1
    assert_as_astropy(path, "image", [])


def test_unquantised_tiles_are_read(tmp_path: Path) -> None:
    """A tile without noise cannot be quantised and is stored as gzipped floats beside quantised ones."""
    pixels = np.random.default_rng(7).normal(0, 1, (60, 60)).astype(np.float32)
    pixels[:30, :30] = np.inf
    hdu = fits.CompImageHDU(
        pixels, name="IMAGE", compression_type="RICE_1", tile_shape=(30, 30), quantize_method=2, dither_seed=1
    )
    path = write(tmp_path / "inf.fits", image=hdu)
    assert_as_astropy(path, "image", [])
    with open_coadd(path) as coadd:
        kinds = coadd.layout("image").kinds
    assert kinds is not None
    assert kinds.tolist() == [1, 0, 0, 0]


def test_exact_zeros_stay_zero(tmp_path: Path) -> None:
    pixels = np.random.default_rng(8).normal(5, 1, (150, 150)).astype(np.float32)
    pixels[20:40, 30:70] = 0.0
    hdu = fits.CompImageHDU(pixels, name="IMAGE", tile_shape=(150, 150), quantize_method=2, dither_seed=9999)
    path = write(tmp_path / "zeros.fits", image=hdu)
    assert_as_astropy(path, "image", [])
    with open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.read("image") == 0, pixels == 0)


@pytest.mark.parametrize("method", [-1, 1, 2])
@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_2"])
def test_tiles_of_dp2s_size(tmp_path: Path, compression: str, method: int) -> None:
    """22 500 pixels use the 10 000 random numbers up twice; the seed makes the second tile start over."""
    pixels = np.random.default_rng(8).normal(5, 1, (150, 450)).astype(np.float32)
    hdu = fits.CompImageHDU(
        pixels,
        name="IMAGE",
        compression_type=compression,
        tile_shape=(150, 150),
        quantize_method=method,
        dither_seed=9999,
    )
    assert_as_astropy(write(tmp_path / "tiles.fits", image=hdu), "image", [Box(10, 90, 140, 320)])


def test_dither_sequence_is_the_standards() -> None:
    """FITS standard 4.0, appendix I: the seed after 10 000 draws is 1043618065."""
    sequence, starts = dither_sequence()
    assert sequence[-1] == np.float32(1043618065 / 2147483647)
    assert sequence[0] == np.float32(16807 / 2147483647)
    assert len(sequence) == len(starts) == 10000
    assert min(starts) >= 0
    assert max(starts) < 500


def rewritten(path: Path, change: dict[int, int]) -> None:
    data = bytearray(path.read_bytes())
    for at, value in change.items():
        data[at] = value
    path.write_bytes(data)


@pytest.mark.parametrize("compression", ["GZIP_1", "GZIP_2"])
def test_a_flipped_byte_of_a_gzipped_tile_is_found(tmp_path: Path, compression: str) -> None:
    pixels = np.random.default_rng(9).normal(0, 1, (8, 40)).astype(np.float32)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type=compression, tile_shape=(8, 20), quantize_level=0.0)
    path = write(tmp_path / "gzip.fits", image=hdu)
    intact = path.read_bytes()
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    start, size = int(layout.offsets[1]), int(layout.sizes[1])
    for at in range(start, start + size, 3):
        if at - start in {3, 4, 5, 6, 7, 8, 9}:
            continue  # flags, time and system of the gzip header: not part of the pixels
        path.write_bytes(intact)
        rewritten(path, {at: intact[at] ^ 0x41})
        with open_coadd(path) as coadd:
            coadd.read("image", coadd.bbox._replace(x1=-130))
            with pytest.raises(CorruptFileError, match="image plane: tile 1: "):
                coadd.read("image")


@examples(100)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["cut", "zeros", "noise", "flip"]))
def test_damaged_rice_tiles_end_in_pixels_or_an_error(tmp_path: Path, seed: int, kind: str) -> None:
    """Rice has no checksum: damage may pass as other pixels, but it neither crashes nor hangs."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 10 ** rng.uniform(-2, 4), (30, 40)).astype(np.float32)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", tile_shape=(30, 40), quantize_method=1, dither_seed=1)
    path = write(tmp_path / "rice.fits", image=hdu)
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    start, size = int(layout.offsets[0]), int(layout.sizes[0])
    data = bytearray(path.read_bytes())
    first = start + int(rng.integers(0, size))
    if kind == "flip":
        data[first] ^= 1 << int(rng.integers(0, 8))
    else:
        length = start + size - first
        data[first : start + size] = bytes(length) if kind != "noise" else rng.bytes(length)
    path.write_bytes(data[:first].ljust(len(data), b"\0") if kind == "cut" else data)
    with open_coadd(path) as coadd:
        try:
            assert coadd.read("image").shape == (30, 40)
        except CorruptFileError as error:
            assert "image plane: tile 0: " in str(error)  # noqa: PT017


def test_padding_ends_every_search() -> None:
    assert len(rice_padding(32)) >= 5 * 32 + 8
    assert set(rice_padding(16)) == {0xFF}


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.float32)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type="GZIP_1", tile_shape=(4, 4), quantize_level=0.0)
    path = write(tmp_path / "bomb.fits", image=hdu)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(10_000_000)) + packer.flush()
    with open_coadd(path) as coadd:
        start = int(coadd.layout("image").offsets[0])
        hdu_at = coadd._structure.find("image").data_at  # type: ignore[union-attr]
    data = bytearray(path.read_bytes()[:start]) + bomb
    data[hdu_at : hdu_at + 4] = struct.pack(">i", len(bomb))
    header = data.index(b"PCOUNT")
    data[header : header + 80] = f"PCOUNT  = {len(bomb):20d}".ljust(80).encode()
    path.write_bytes(data + bytes(-len(data) % 2880))
    with open_coadd(path) as coadd, pytest.raises(CorruptFileError, match="10000000 bytes where at most 128"):
        coadd.read("image")


def test_64_bit_integers_stored_as_32(tmp_path: Path) -> None:
    pixels = np.arange(400, dtype=np.int64).reshape(20, 20)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", compression_type="RICE_1")
    with warnings.catch_warnings():
        # From 7.2 on astropy says that it stores them as 32 bits; before, it does so in silence.
        warnings.simplefilter("ignore", AstropyUserWarning)
        path = write(tmp_path / "wide.fits", image=hdu)
    assert_as_astropy(path, "image", [])


@examples(20)
@given(data=st.data())
def test_a_hole_in_a_rice_stream_is_noticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rice streams have no checksum, but zeros where bytes were lost stand for more blocks than a tile has."""
    width = data.draw(st.sampled_from([1, 2, 4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    limit = {1: 200, 2: 30_000, 4: 2**20}[width]
    pixels = rng.integers(0, limit, (40, 50)).astype({1: np.uint8, 2: np.int16, 4: np.int32}[width])
    path = tmp_path_factory.mktemp("hole") / "rice.fits"
    image = fits.CompImageHDU(pixels, name="IMAGE", compression_type="RICE_1", tile_shape=(40, 50))
    image.header["LTV1"] = image.header["LTV2"] = 0
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
        np.testing.assert_array_equal(coadd.read("image"), pixels)
    start, size = int(layout.offsets[0]), int(layout.sizes[0])
    length = data.draw(st.integers(64 * width + 80, size - 1))
    at = data.draw(st.integers(0, size - length))
    with path.open("r+b") as file:
        file.seek(start + at)
        file.write(bytes(length))
    with open_coadd(path) as coadd, pytest.raises(CorruptFileError, match="tile 0"):
        coadd.read("image")


@pytest.mark.parametrize("other", [77, 2**31 - 1])
@pytest.mark.parametrize("value", [0, 5, -2147483646])
def test_tiles_of_one_value_are_no_holes(tmp_path: Path, value: int, other: int) -> None:
    """The longest runs of zeros that a sound stream has; with a few other pixels at either end as well."""
    for place in (slice(0), slice(1), slice(-1, None), slice(0, None, 2399), slice(31, None, 64), slice(32, None, 63)):
        pixels = np.full((48, 50), value, np.int32)
        pixels.reshape(-1)[place] = other
        image = fits.CompImageHDU(pixels, name="IMAGE", compression_type="RICE_1", tile_shape=(48, 50))
        image.header["LTV1"] = image.header["LTV2"] = 0
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "one.fits", overwrite=True)
        with open_coadd(tmp_path / "one.fits") as coadd:
            np.testing.assert_array_equal(coadd.read("image"), pixels.astype(np.float32))
