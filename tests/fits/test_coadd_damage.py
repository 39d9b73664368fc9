"""Damaged files: errors of this package and nothing else, and memory in proportion to the file.

``python -m tests.support.fuzz`` searches for more with coverage as its guide; what it found has a test here.
"""

import contextlib
import random
import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import CorruptFileError, FluxUnitError, LsstCutoutsError, UnsupportedFormatError
from lsstcutouts.fits.coadd import Coadd
from lsstcutouts.fits.layout import PlaneLayout
from lsstcutouts.sky.geometry import YX

from ..support.examples import examples
from ..support.mutations import MemorySource, coadd_file, exercise, mutated, seeds

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
    # The index is a short cut: the headers say the same.
    with opened(broken) as coadd, opened(data) as same:
        for plane in same.planes:
            np.testing.assert_array_equal(coadd.read(plane), same.read(plane))
        assert coadd.psf == same.psf


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


def test_tiles_that_run_into_each_other() -> None:
    data = bytearray(compressed("GZIP_2", quantize_level=0.0))
    hdu = opened(bytes(data))._structure.find("image")
    assert hdu is not None
    data[hdu.data_at : hdu.data_at + 8] = hdu.cards.integer("PCOUNT").to_bytes(4) + bytes(4)
    with pytest.raises(CorruptFileError, match=r"tiles need \d+ bytes, but their HDU has"):
        read_image(bytes(data))


# Streams of PLIO and HCOMPRESS say themselves how long and how large they are


def stream(compression: str) -> tuple[bytes, PlaneLayout, np.ndarray]:
    """Return a file whose mask is one tile, the layout of the mask, and its pixels."""
    pixels = np.abs(np.random.default_rng(2).normal(20, 5, SHAPE)).astype(np.int32)
    hdu = fits.CompImageHDU(pixels, compression_type=compression, tile_shape=tuple(SHAPE))
    data = coadd_file(fits.ImageHDU(np.ones(SHAPE, np.float32)), hdu)
    return data, opened(data).layout("mask"), pixels


def with_stream(compression: str, change: Callable[[bytearray], None], length: int | None = None) -> Coadd:
    """Return a file with a changed, or shorter, stream."""
    data, layout, _ = stream(compression)
    at, size = int(layout.offsets[0]), int(layout.sizes[0])
    new = bytearray(data[at : at + size])
    change(new)
    out = bytearray(data[:at] + new[:size] + data[at + size :])
    if length is not None:
        mask = opened(data)._structure.find("mask")
        assert mask is not None
        out[mask.data_at : mask.data_at + 4] = (length // (2 if compression == "PLIO_1" else 1)).to_bytes(4)
    return opened(bytes(out))


def overwritten(at: int, new: bytes) -> Callable[[bytearray], None]:
    def change(stream: bytearray) -> None:
        stream[at : at + len(new)] = new

    return change


@pytest.mark.parametrize("compression", ["HCOMPRESS_1", "PLIO_1"])
def test_whole_streams_are_decoded(compression: str) -> None:
    data, _, pixels = stream(compression)
    np.testing.assert_array_equal(opened(data).read("mask"), pixels)


@pytest.mark.parametrize("new", [(0, b"\0"), (2, (2000).to_bytes(4) * 2), (2, bytes(4)), (2, b"\xff" * 8)])
def test_hcompress_streams_of_another_shape(new: tuple[int, bytes]) -> None:
    """The decoder would make an array of the shape that the stream announces."""
    with pytest.raises(CorruptFileError, match="tile 0: no HCOMPRESS stream of"):
        with_stream("HCOMPRESS_1", overwritten(*new)).read("mask")


@pytest.mark.parametrize("length", [3, 24, 30, 200, 400])
def test_truncated_hcompress_streams(length: int) -> None:
    with pytest.raises(CorruptFileError, match="tile 0: "):
        with_stream("HCOMPRESS_1", lambda _: None, length).read("mask")


@pytest.mark.parametrize("length", [4, 12, 16, 100])
def test_truncated_plio_lists(length: int) -> None:
    with pytest.raises(CorruptFileError, match="tile 0: PLIO line list"):
        with_stream("PLIO_1", lambda _: None, length).read("mask")


@examples(300)
@given(number=st.integers(0, 2**32 - 1), compression=st.sampled_from(["HCOMPRESS_1", "PLIO_1"]))
def test_noise_in_streams(number: int, compression: str) -> None:
    rng = random.Random(number)

    def change(stream: bytearray) -> None:
        for _ in range(rng.choice((1, 2, 20))):
            stream[rng.randrange(rng.choice((26, len(stream))))] = rng.choice((0, 255, rng.randrange(256)))

    with contextlib.suppress(CorruptFileError):
        assert with_stream(compression, change).read("mask").shape == SHAPE
