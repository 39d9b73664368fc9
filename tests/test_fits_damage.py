"""Damaged files: errors of this package and nothing else, and memory in proportion to the file.

``python -m tests.fuzz`` searches for more with coverage as its guide; what it found has a test here.
"""

import contextlib
import random
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import CorruptFileError, FluxUnitError, LsstCutoutsError, UnsupportedFormatError
from lsstcutouts.fits import Coadd
from lsstcutouts.fits.fallback import decode_stream
from lsstcutouts.fits.headers import BadStructureError
from lsstcutouts.geom import YX

from .mutations import MemorySource, coadd_file, exercise, mutated, seeds
from .planes import examples

SHAPE = YX(24, 30)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return seeds()


def test_undamaged_files_are_fine(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        expected = {"fine"} if name.startswith("dp2") else {"fine", "PlaneError"}
        assert exercise(data) <= expected, name


@examples(500)
@given(number=st.integers(0, 2**32 - 1), data=st.data())
def test_damage_ends_in_our_errors(files: dict[str, bytes], number: int, data: st.DataObject) -> None:
    rng = random.Random(number)
    name = data.draw(st.sampled_from(sorted(files)))
    exercise(mutated(files[name], rng, rng.choice(list(files.values()))), thorough=False)


@examples(300)
@given(number=st.integers(0, 2**32 - 1), data=st.data())
def test_overwritten_bytes_end_in_our_errors(files: dict[str, bytes], number: int, data: st.DataObject) -> None:
    rng = random.Random(number)
    content = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] = rng.choice((0, 255, rng.randrange(256), *b"0123456789-' "))
    exercise(bytes(content), thorough=False)


# What the fuzzer found


def plain() -> bytes:
    return coadd_file(fits.ImageHDU(np.ones(SHAPE, np.float32)), fits.ImageHDU(np.zeros(SHAPE, np.int32)))


def compressed(compression: str = "GZIP_2", **settings: object) -> bytes:
    pixels = np.random.default_rng(1).normal(5, 2, SHAPE).astype(np.float32)
    hdu = fits.CompImageHDU(pixels, compression_type=compression, tile_shape=(12, 15), **settings)
    return coadd_file(hdu, fits.ImageHDU(np.zeros(SHAPE, np.int32)))


def with_card(data: bytes, key: str, value: str, nth: int = 0) -> bytes:
    """Return a file with another value in the ``nth`` card of a name."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(f"{key:<8}=".encode(), at + 1)
    return data[:at] + f"{key:<8}= {value:>20}".ljust(80).encode() + data[at + 80 :]


def opened(data: bytes) -> Coadd:
    return Coadd(MemorySource(data))


def read_image(data: bytes) -> object:
    return opened(data).read("image")


def test_numbers_longer_than_any_machine_type() -> None:
    with pytest.raises(CorruptFileError, match="NAXIS1"):
        read_image(with_card(plain(), "NAXIS1", "9" * 65))


@pytest.mark.parametrize("name", ["EXTNAME", "EXTVER", "HDRADDR"])
def test_index_columns_of_another_type(files: dict[str, bytes], name: str) -> None:
    data = files["dp2-lossless"]
    index = data.index(b"TTYPE1  = 'EXTNAME '")
    forms = {"EXTNAME": ("TFORM1", "B"), "EXTVER": ("TFORM2", "E"), "HDRADDR": ("TFORM5", "D")}
    key, code = forms[name]
    at = data.index(f"{key:<8}=".encode(), index)
    width = int(data[at + 10 : at + 40].split(b"'")[1].strip()[:-1] or 1)
    form = f"'{width}{code}'".ljust(10)
    broken = data[:at] + f"{key:<8}= {form}".ljust(80).encode() + data[at + 80 :]
    with pytest.raises(CorruptFileError, match=f"column {name}"):
        opened(broken)


def test_scales_that_are_no_numbers() -> None:
    data = compressed("RICE_1", quantize_method=1, dither_seed=1)
    number = next(n for n in range(1, 9) if f"TTYPE{n}  = 'ZSCALE".encode() in data)
    with pytest.raises(CorruptFileError, match="column ZSCALE"):
        read_image(with_card(data, f"TFORM{number}", "'8A      '"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("CTYPE1", "7"), ("CRVAL1", "'x'"), ("CTYPE1", "'\0RA---TAN'"), ("CTYPE2", "'RA---TAN'")],
)
def test_a_wcs_that_astropy_refuses(key: str, value: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((CorruptFileError, UnsupportedFormatError)):
            _ = opened(with_card(plain(), key, value)).wcs


def test_a_sip_order_that_asks_for_terabytes() -> None:
    data = with_card(with_card(plain(), "CTYPE1", "'RA---TAN-SIP'"), "CTYPE2", "'DEC--TAN-SIP'")
    at = data.index(b"BUNIT   =")
    with pytest.raises(LsstCutoutsError, match="A_ORDER"):
        _ = opened(data[:at] + b"A_ORDER =           1000000000".ljust(80) + data[at + 80 :]).wcs


def test_a_mask_with_an_offset_beyond_its_type() -> None:
    with pytest.raises(CorruptFileError, match="BZERO 1e\\+30"):
        opened(with_extra_card(plain(), "MP_BAD", "BZERO", "1E30")).read("mask")


def test_a_unit_beyond_floating_point() -> None:
    with pytest.raises(FluxUnitError, match="BUNIT"):
        _ = opened(with_card(plain(), "BUNIT", "'nJy**99999'")).flux_scale


def with_extra_card(data: bytes, place: str, key: str, value: str) -> bytes:
    """Return a file with another card in the place of one."""
    at = data.index(f"{place:<8}=".encode())
    return data[:at] + f"{key:<8}= {value:>20}".ljust(80).encode() + data[at + 80 :]


def huge_claims() -> dict[str, Callable[[], bytes]]:
    """Return files of a few kilobytes whose headers promise 10**9 rows or pixels and more."""

    def shared_stream() -> bytes:
        data = compressed("GZIP_2", quantize_level=0.0)
        at = data.index(b"XTENSION") + 2 * 2880
        first = data[at : at + 8]
        return data[:at] + (first[:4] + first[4:]) * 4 + data[at + 32 :]

    def groups() -> bytes:
        return with_card(with_card(plain(), "GCOUNT", "0"), "NAXIS2", "1000000000")

    def one_tile(compression: str) -> bytes:
        data = compressed(compression, quantize_level=16.0, quantize_method=1, dither_seed=1)
        for key, value in (("ZNAXIS1", 8000), ("ZNAXIS2", 8000), ("ZTILE1", 4000), ("ZTILE2", 4000)):
            data = with_card(data, key, str(value))
        return data

    return {
        "rows of pixels": lambda: with_card(plain(), "NAXIS2", "1000000000"),
        "rows without bytes": groups,
        "rows of tiles": lambda: with_card(compressed(), "NAXIS2", "1000000000"),
        "compressed pixels": lambda: with_card(compressed(), "ZNAXIS2", "1000000000"),
        "large tiles, RICE_1": lambda: one_tile("RICE_1"),
        "large tiles, GZIP_2": lambda: one_tile("GZIP_2"),
        "large tiles, HCOMPRESS_1": lambda: one_tile("HCOMPRESS_1"),
        "columns": lambda: with_card(compressed(), "TFORM1", "'999999999D'"),
        "fields": lambda: with_card(compressed(), "TFIELDS", "999"),
        "heap": lambda: with_card(compressed(), "THEAP" if b"THEAP" in compressed() else "PCOUNT", "1000000000000"),
    }


@pytest.mark.parametrize("claim", huge_claims())
def test_headers_that_lie_cost_nothing(claim: str) -> None:
    data = huge_claims()[claim]()
    exercise(data)  # whatever is imported on the way
    tracemalloc.start()
    try:
        with pytest.raises(LsstCutoutsError):
            read_image(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_tiles_that_share_a_stream() -> None:
    data = bytearray(compressed("GZIP_2", quantize_level=0.0))
    coadd = opened(bytes(data))
    layout = coadd.layout("image")
    hdu = coadd._structure.find("image")
    assert hdu is not None
    whole = hdu.data_size.to_bytes(4)
    for row in range(4):
        at = hdu.data_at + row * hdu.cards.integer("NAXIS1")
        data[at : at + 8] = whole + bytes(4)
    assert layout.tile_grid == (2, 2)
    with pytest.raises(CorruptFileError, match=r"tiles of \d+ bytes in"):
        read_image(bytes(data))


# The decoders of astropy believe what a stream says of itself


def stream(compression: str) -> tuple[bytearray, np.ndarray]:
    """Return the stream of a tile, and its pixels."""
    pixels = np.abs(np.random.default_rng(2).normal(20, 5, SHAPE)).astype(np.int32)
    hdu = fits.CompImageHDU(pixels, compression_type=compression, tile_shape=tuple(SHAPE))
    data = coadd_file(fits.ImageHDU(np.ones(SHAPE, np.float32)), hdu)
    layout = opened(data).layout("mask")
    at, size = int(layout.offsets[0]), int(layout.sizes[0])
    return bytearray(data[at : at + size]), pixels


@pytest.mark.parametrize("compression", ["HCOMPRESS_1", "PLIO_1"])
def test_whole_streams_are_decoded(compression: str) -> None:
    intact, pixels = stream(compression)
    got = decode_stream(compression, memoryview(intact), SHAPE, 0)
    np.testing.assert_array_equal(got.reshape(SHAPE), pixels)


HCOMPRESS_DAMAGE = {
    "no HCOMPRESS stream": (0, b"\0"),
    "2000 x 2000 pixels": (2, (2000).to_bytes(4) * 2),  # would be written behind the end of the tile
    "0 x 30 pixels": (2, bytes(4)),  # a division by zero, and the end of the process
    "255 bit planes": (22, b"\xff"),
}


@pytest.mark.parametrize("message", HCOMPRESS_DAMAGE)
def test_damaged_hcompress_headers(message: str) -> None:
    damaged, _ = stream("HCOMPRESS_1")
    at, new = HCOMPRESS_DAMAGE[message]
    damaged[at : at + len(new)] = new
    with pytest.raises(BadStructureError, match=message):
        decode_stream("HCOMPRESS_1", memoryview(damaged), SHAPE, 0)


@pytest.mark.parametrize("length", [0, 3, 24, 25, 30, 200, 400])
def test_truncated_hcompress_streams(length: int) -> None:
    damaged, _ = stream("HCOMPRESS_1")
    assert length < len(damaged)
    with pytest.raises(BadStructureError):
        decode_stream("HCOMPRESS_1", memoryview(damaged[:length]), SHAPE, 0)


PLIO_DAMAGE = {
    "to 32766 in": (6, (32766).to_bytes(2) + bytes(2)),
    "from word 0 to": (2, bytes(2)),
    "from word -1 to": (2, b"\xff\xff"),
    "to 3 in": (6, (3).to_bytes(2) + bytes(2)),
    "within an instruction": (-2, (0x1001).to_bytes(2)),
}


@pytest.mark.parametrize("message", PLIO_DAMAGE)
def test_damaged_plio_lists(message: str) -> None:
    damaged, _ = stream("PLIO_1")
    at, new = PLIO_DAMAGE[message]
    at %= len(damaged)
    damaged[at : at + len(new)] = new
    with pytest.raises(BadStructureError, match=message):
        decode_stream("PLIO_1", memoryview(damaged), SHAPE, 0)


@pytest.mark.parametrize("length", [0, 5, 13, 16, 100])
def test_truncated_plio_lists(length: int) -> None:
    damaged, _ = stream("PLIO_1")
    with pytest.raises(BadStructureError, match="a PLIO list"):
        decode_stream("PLIO_1", memoryview(damaged[:length]), SHAPE, 0)


@examples(150)
@given(number=st.integers(0, 2**32 - 1), compression=st.sampled_from(["HCOMPRESS_1", "PLIO_1"]))
def test_noise_in_streams_for_astropy(tmp_path: Path, number: int, compression: str) -> None:
    damaged, _ = stream(compression)
    rng = random.Random(number)
    for _ in range(rng.choice((1, 2, 20))):
        damaged[rng.randrange(rng.choice((26, len(damaged))))] = rng.choice((0, 255, rng.randrange(256)))
    with contextlib.suppress(BadStructureError):
        assert decode_stream(compression, memoryview(damaged), SHAPE, 0).shape == (SHAPE.y * SHAPE.x,)
