"""Small coadd files of every kind, ways to damage them, and what may come out of reading a damaged one.

Shared by the fuzzer (``python -m tests.support.fuzz``) and the tests of damaged files.
"""

import gzip
import io
import itertools
import random
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from lsst.daf.butler import Butler

from lsstcutouts.errors import LsstCutoutsError
from lsstcutouts.fits.coadd import Coadd
from lsstcutouts.fits.intact_tiles import read_intact_tiles
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulationConfig

from .repositories import simulated_once

BLOCK, CARD = 2880, 80
SHAPE = (24, 30)
MOST_PIXELS = 1 << 18
"""Of a whole plane that is read at once; of larger ones (headers that lie) a box."""


class ReadOutsideError(AssertionError):
    """The reader asked for bytes that the file does not have."""


class MemorySource:
    """A file in memory, which does not forgive a read outside of it."""

    gap = 1 << 10

    def __init__(self, data: bytes, uri: str = "memory") -> None:
        self.uri, self.size, self.stamp, self._data = uri, len(data), (len(data),), data

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ReadOutsideError(f"{length} bytes at {offset} of {self.size}")
        return self._data[offset : offset + length]

    def close(self) -> None:
        pass


def exercise(data: bytes, *, thorough: bool = True) -> set[str]:
    """Do with a file whatever the package does with files.

    Parameters
    ----------
    data
        Its bytes.
    thorough
        Whether to ask astropy for a WCS as well, which takes longer than all the rest.

    Returns
    -------
    outcomes
        Names of the errors, ``"fine"`` for what went well.

    Raises
    ------
    Exception
        Anything but an error of this package: a finding.
    """
    outcomes: set[str] = set()
    rng = random.Random(zlib.crc32(data))

    def attempt[T](call: Callable[[], T]) -> T | None:
        try:
            result = call()
        except LsstCutoutsError as error:
            outcomes.add(type(error).__name__)
            return None
        outcomes.add("fine")
        return result

    coadd = attempt(lambda: Coadd(MemorySource(data)))
    if coadd is None:
        return outcomes
    with coadd:
        planes = attempt(lambda: coadd.planes) or ("image",)
        for plane in planes:
            attempt(lambda plane=plane: coadd.unit(plane))
            # Not everything each time: many inputs are worth more than whole ones.
            if rng.random() < 0.5 and attempt(lambda plane=plane: coadd.layout(plane)) is not None:
                _read_plane(coadd, plane, rng, attempt)
        for name in ("mask_planes", "projection", "flux_scale"):
            attempt(lambda name=name: getattr(coadd, name))
        if thorough:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # astropy mends what it finds wrong in headers, and says so
                attempt(lambda: coadd.wcs)
        psf = attempt(lambda: coadd.psf) if rng.random() < 0.5 else None
        if psf is not None:
            cells = [rng.randrange(psf.grid.y * psf.grid.x) for _ in range(2)]
            attempt(lambda: coadd.read_psf([cell for cell in cells if cell not in psf.missing]))
            attempt(lambda: psf.cell_at(rng.randrange(-5, 99), rng.randrange(-5, 99)))
    return outcomes


def _read_plane(coadd: Coadd, plane: str, rng: random.Random, attempt: Callable[..., object]) -> None:
    layout, bbox = coadd.layout(plane), coadd.bbox
    if bbox.area <= MOST_PIXELS:
        attempt(lambda: coadd.read(plane))
    y, x = rng.randrange(bbox.y0, bbox.y1), rng.randrange(bbox.x0, bbox.x1)
    size = YX(min(rng.randint(1, 64), bbox.y1 - y), min(rng.randint(1, 64), bbox.x1 - x))
    attempt(lambda: coadd.read(plane, Box.from_start(YX(y, x), size)))
    unit = rng.randrange(layout.units)
    if attempt(lambda: coadd.read_units(plane, [unit, 0])) is None and layout.unit_box(unit).area <= MOST_PIXELS:
        attempt(lambda: read_intact_tiles(coadd.source, coadd.uri, layout, unit))


# Files


def seeds() -> dict[str, bytes]:
    """Return files by name: DP2 and DP1 as simulated, and one of astropy for each way to code pixels."""
    return {**_simulated(), **_written()}


def _simulated() -> dict[str, bytes]:
    files = {}
    for release, compression in (("dp2", "lossy16"), ("dp2", "lossless"), ("dp1", "lossless")):
        config = SimulationConfig(
            release=release,
            compression=compression,
            cells=(1, 2),
            cell=(20, 16),
            grid=(2, 3),
            patches=[1],
            bands="g",
            targets=2,
            missing=None,
        )
        repo = simulated_once(config)
        with Butler.from_config(repo.root, collections=repo.collections) as butler:
            (ref,) = butler.query_datasets(repo.dataset_type)
            files[f"{release}-{compression}"] = Path(butler.getURI(ref).ospath).read_bytes()
    return files


def _noise(seed: int = 1) -> np.ndarray:
    pixels = np.random.default_rng(seed).normal(5, 2, SHAPE).astype(np.float32)
    pixels[3:6, 4:9], pixels[10:12, 20:25] = 0.0, np.nan
    return pixels


def _bits(dtype: type) -> np.ndarray:
    pixels = np.zeros(SHAPE, dtype)
    pixels[2:9, 5:20], pixels[15:, 12:16] = 5, 64
    return pixels


def _written() -> dict[str, bytes]:
    files = {}
    for compression, method in itertools.product(("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"), (-1, 1, 2)):
        hdu = _compressed(_noise(), compression, quantize_level=16.0, quantize_method=method, dither_seed=3)
        mask = _mask(np.int32, "PLIO_1" if (compression, method) in {("GZIP_2", 1), ("RICE_1", 2)} else "GZIP_2")
        files[f"{compression}{method:+d}"] = coadd_file(hdu, mask)
    for compression in ("GZIP_1", "GZIP_2", "NOCOMPRESS"):
        hdu = _compressed(_noise(), compression, quantize_level=0.0)
        files[f"{compression}-floats"] = coadd_file(hdu, _mask(np.uint16, compression))
    for dtype in (np.uint8, np.int16, np.int32):
        hdu = _compressed(_bits(dtype), "RICE_1")
        hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.5, 3.0, 64
        files[f"RICE_1-{dtype.__name__}"] = coadd_file(hdu, _mask(dtype, "RICE_1"))
    unquantised = _noise()
    unquantised[:12, :15] = np.inf
    plain = fits.ImageHDU(_noise()), fits.ImageHDU(_bits(np.uint16))
    files["unquantised"] = coadd_file(_compressed(unquantised, "RICE_1", quantize_method=2), _mask(np.uint8, "GZIP_2"))
    files["plain"] = coadd_file(*plain)
    files["gzipped"] = gzip.compress(coadd_file(*plain), mtime=0)
    return files


def _compressed(pixels: np.ndarray, compression: str, **settings: object) -> fits.CompImageHDU:
    return fits.CompImageHDU(pixels, compression_type=compression, tile_shape=(12, 15), **settings)


def _mask(dtype: type, compression: str) -> fits.CompImageHDU:
    return _compressed(_bits(dtype), compression)


WCS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 53.0, "CRVAL2": -28.0, "CRPIX1": 10.0, "CRPIX2": 12.0}
WCS |= {"CD1_1": -5.6e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 5.6e-5}


def coadd_file(image: fits.ImageHDU, mask: fits.ImageHDU) -> bytes:
    """Return a file with afw's keywords."""
    for name, hdu in (("IMAGE", image), ("MASK", mask)):
        hdu.name = name
        hdu.header["LTV1"], hdu.header["LTV2"] = 150, -2850
        hdu.header.update(WCS if name == "IMAGE" else {"MP_BAD": 0, "MP_SAT": 2, "HIERARCH MP_NOT_DEBLENDED": 6})
    image.header["BUNIT"] = "nJy"
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image, mask]).writeto(buffer)
    return buffer.getvalue()


# Damage

_HEADER = re.compile(rb"SIMPLE  =|XTENSION=")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_VALUES = (
    *("0", "1", "-1", "2", "3", "4", "7", "8", "16", "31", "32", "64", "100", "255", "256", "999", "1000", "2880"),
    *(
        "65535",
        "65536",
        "1000000",
        "1000000000",
        "2147483647",
        "2147483648",
        "-2147483648",
        "4294967296",
        "1000000000000",
    ),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "9" * 30,
        "9" * 65,
        "1E10",
        "1E308",
        "1E400",
    ),
    *("-1E400", "NaN", "INF", "1.5", "0.0", "-0.0", "1E-300", "T", "F", "", "'", "''", "'x'", "1_0", "0x10", "(1,2)"),
    *(
        "'RICE_1  '",
        "'GZIP_1  '",
        "'GZIP_2  '",
        "'PLIO_1  '",
        "'HCOMPRESS_1'",
        "'NOCOMPRESS'",
        "'NO_DITHER'",
        "-32",
        "-64",
    ),
    *(
        "'SUBTRACTIVE_DITHER_1'",
        "'SUBTRACTIVE_DITHER_2'",
        "'1PB(9)  '",
        "'1QB     '",
        "'999999999D'",
        "'1PI     '",
        "'1PD'",
    ),
    *("'IMAGE   '", "'MASK    '", "'COMPRESSED_DATA'", "'ZBLANK  '", "'ZSCALE  '", "'1J      '", "'RA---TAN-SIP'"),
)
_KEYS = (
    *("NAXIS1", "NAXIS2", "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2", "PCOUNT", "GCOUNT", "THEAP", "BITPIX", "ZBITPIX"),
    *("ZCMPTYPE", "ZQUANTIZ", "ZDITHER0", "ZBLANK", "BLANK", "BSCALE", "BZERO", "ZSCALE", "ZZERO", "ZVAL1", "ZVAL2"),
    *("TFIELDS", "TFORM1", "TTYPE1", "TFORM2", "TTYPE2", "LTV1", "CRVAL1A", "CRPIX1", "CD1_1", "PC1_1", "INDXADDR"),
    *(
        "JSONADDR",
        "JSONSIZE",
        "INDXSIZE",
        "EXTNAME",
        "EXTVER",
        "MSKM0001",
        "MP_BAD",
        "BUNIT",
        "END",
        "ZIMAGE",
        "A_ORDER",
    ),
)
_WORDS = (0, 1, -1, 2, 24, 25, 255, 65535, 65536, 2**31 - 1, -(2**31), 2**24, 10**6, 10**9)


def mutated(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Return a damaged copy; ``other`` is a file to take pieces from."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        rng.choices(_MUTATIONS, _WEIGHTS)[0](out, rng, other)
    return bytes(out)


def _cards(data: bytes) -> list[int]:
    """Return the places of all header cards."""
    found = []
    for start in (match.start() for match in _HEADER.finditer(data) if match.start() % BLOCK == 0):
        at = start
        while at < len(data) and data[at : at + 8].strip() != b"END" and data[at : at + 8].isascii():
            found.append(at)
            at += CARD
    return found


def _value(out: bytearray, rng: random.Random, _: bytes) -> None:
    """Another value in a card, often in one that matters."""
    cards = _cards(out)
    keys = {key.encode().ljust(8) for key in _KEYS}
    chosen = [at for at in cards if bytes(out[at : at + 8]) in keys] if rng.random() < 0.8 else cards
    if not chosen:
        return
    at = rng.choice(chosen)
    old = bytes(out[at + 10 : at + CARD]).partition(b"/")[0].strip().decode("latin-1")
    value = rng.choice(_VALUES)
    if old.lstrip("-").isdigit() and rng.random() < 0.3:
        value = str(int(old[:25]) + rng.choice((-1, 1, -8, 8, -2880, 2880, int(old[:18]))))
    out[at + 10 : at + CARD] = value.rjust(20).encode().ljust(CARD - 10)[: CARD - 10]


def _key(out: bytearray, rng: random.Random, _: bytes) -> None:
    """Another key in a card, or two cards swapped, or one doubled."""
    cards = _cards(out)
    if len(cards) < 2:
        return
    a, b = rng.choice(cards), rng.choice(cards)
    kind = rng.randrange(3)
    if kind == 0:
        out[a : a + 10] = rng.choice(_KEYS).encode().ljust(8) + b"= "
    elif kind == 1:
        out[a : a + CARD], out[b : b + CARD] = out[b : b + CARD], out[a : a + CARD]
    else:
        out[a : a + CARD] = out[b : b + CARD]


def _table_word(out: bytearray, rng: random.Random, _: bytes) -> None:
    """Another number near the start of the data of an HDU, where tables have their rows."""
    starts = [m.start() for m in _HEADER.finditer(out) if m.start() % BLOCK == 0]
    if not starts:
        return
    start = rng.choice(starts)
    end = out.find(b"END" + b" " * 77, start)
    if end < 0:
        return
    width = rng.choice((4, 4, 8))
    at = -(-(end + CARD) // BLOCK) * BLOCK + width * rng.randrange(0, 1 + rng.choice((2, 12, 60)))
    if at + width <= len(out):
        old = int.from_bytes(out[at : at + width], signed=True)
        word = rng.choice((*_WORDS, old + 1, old - 1, old + 8, 2 * old)) % 256**width
        out[at : at + width] = word.to_bytes(width)


def _bytes(out: bytearray, rng: random.Random, _: bytes) -> None:
    """Some bytes flipped or overwritten anywhere."""
    if not out:
        return
    at = rng.randrange(len(out))
    length = min(rng.choice((1, 1, 1, 2, 4, 30, 300)), len(out) - at)
    kind = rng.randrange(4)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at : at + length] = rng.randbytes(length)
    else:
        out[at : at + length] = bytes([0 if kind == 2 else 255]) * length


def _tile_bytes(out: bytearray, rng: random.Random, other: bytes) -> None:
    """Bytes damaged where no header is."""
    cards = _cards(out)
    blocks = sorted(set(range(0, len(out), BLOCK)) - {at // BLOCK * BLOCK for at in cards})
    if not blocks:
        _bytes(out, rng, other)
        return
    at = rng.choice(blocks) + rng.choice((rng.randrange(BLOCK), rng.randrange(300)))
    length = rng.choice((1, 1, 2, 5, 40))
    out[at : at + length] = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))[
        : max(0, len(out) - at)
    ]


def _json(out: bytearray, rng: random.Random, _: bytes) -> None:
    """Damage in the JSON tree of lsst.images: other numbers, lost or changed characters, deep nesting."""
    start = out.find(b'{"')
    if start < 0:
        return
    stop = out.find(b"\0", start)
    kind = rng.randrange(4)
    numbers = list(_NUMBER.finditer(out, start, stop))
    if kind == 0 and numbers:
        match = rng.choice(numbers)
        new = rng.choice(_VALUES[:44]).encode()[: match.end() - match.start()]
        out[match.start() : match.end()] = new.rjust(match.end() - match.start())
        return
    at = rng.randrange(start, max(start + 1, stop))
    if kind == 1:
        out[at] = rng.choice(b'{}[]",:0n-x\x80')
    elif kind == 2:
        # The psf is near the end; aim there more often.
        psf = out.find(b'"psf"', start)
        at = rng.randrange(psf, min(psf + 1500, len(out))) if psf >= 0 else at
        out[at] = rng.choice(b'{}[]",:0n-x')
    else:
        length = min(rng.choice((20, 500, 3000)), max(1, stop - at))
        out[at : at + length] = rng.choice((b"[", b'{"a":', b"9")) * length
        del out[at + length : at + length * 5]


def _cut(out: bytearray, rng: random.Random, _: bytes) -> None:
    """The end cut off, or bytes taken out or put in."""
    if not out:
        return
    at = rng.choice((rng.randrange(len(out)), rng.randrange(len(out)) // BLOCK * BLOCK))
    kind = rng.randrange(4)
    if kind == 0:
        del out[at:]
    elif kind == 1:
        del out[at : at + rng.choice((1, 80, BLOCK))]
    elif kind == 2:
        out[at:at] = bytes(rng.choice((1, 80, BLOCK)))
    else:
        out.extend(bytes(rng.choice((1, BLOCK))))


def _splice(out: bytearray, rng: random.Random, other: bytes) -> None:
    """A piece of another file, or of this one, elsewhere."""
    piece = other or bytes(out)
    if not piece or not out:
        return
    start, at = rng.randrange(len(piece)), rng.randrange(len(out))
    if rng.random() < 0.7:
        start, at = start // BLOCK * BLOCK, at // BLOCK * BLOCK
    length = rng.choice((80, BLOCK, 2 * BLOCK, len(piece)))
    out[at : at + length] = piece[start : start + length]


_MUTATIONS = (_value, _key, _table_word, _bytes, _tile_bytes, _json, _cut, _splice)
_WEIGHTS = (30, 8, 15, 8, 20, 8, 5, 6)

__all__ = ["MemorySource", "ReadOutsideError", "coadd_file", "exercise", "mutated", "seeds"]
