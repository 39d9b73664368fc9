"""Coadd files as afw wrote them at one time or another, with astropy; and boxes to compare in them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lsstcutouts.fits.coadd import Coadd
from lsstcutouts.sky.geometry import YX, Box

SHAPE = (61, 83)
START = YX(y=-150, x=14850)
BOXES = 25
"""Boxes compared in each plane of a file."""

GRID = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": 53.0, "CRVAL2": -28.0,
    "CRPIX1": 15000.0 - START.x, "CRPIX2": 15000.0 - START.y, "CD1_1": -0.2 / 3600, "CD1_2": 0.0, "CD2_1": 0.0,
    "CD2_2": 0.2 / 3600, "RADESYS": "ICRS",
}  # fmt: skip
LTV = {"LTV1": float(-START.x), "LTV2": float(-START.y)}
LINEAR = {
    "CTYPE1A": "LINEAR", "CTYPE2A": "LINEAR", "CRPIX1A": 1.0, "CRPIX2A": 1.0, "CRVAL1A": float(START.x),
    "CRVAL2A": float(START.y), "CUNIT1A": "PIXEL", "CUNIT2A": "PIXEL",
}  # fmt: skip
BITS = {"BAD": 0, "SAT": 1, "NO_DATA": 8, "DETECTED_NEGATIVE": 6, "INEXACT_PSF": 13, "UNMASKEDNAN": 15}

type Array = NDArray[np.generic]
type Cards = dict[str, object]


def image(seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(10, 50, SHAPE).astype(np.float32)


def mask(dtype: type[np.generic] = np.int32) -> Array:
    return np.random.default_rng(3).integers(0, 1 << 15, SHAPE).astype(dtype)


def mask_cards(bits: dict[str, int] = BITS) -> Cards:
    """Return the cards as afw writes them: long ones as HIERARCH."""
    return {f"HIERARCH MP_{name}" if len(name) > 5 else f"MP_{name}": bit for name, bit in bits.items()}


def plane(
    data: Array | None, *cards: Cards, name: str = "", kind: str = "", compression: str | None = None
) -> fits.ImageHDU | fits.CompImageHDU:
    """Return an HDU of EXTNAME ``name`` and EXTTYPE ``kind``, each as far as it is given."""
    if compression is None:
        hdu = fits.ImageHDU(data)
    else:
        hdu = fits.CompImageHDU(data, compression_type=compression, tile_shape=(1, SHAPE[1]), quantize_level=0.0)
    if kind:
        hdu.header["EXTTYPE"] = kind
    if name:
        hdu.header["EXTNAME"] = name
    for some in cards:
        for key, value in some.items():
            hdu.header[key] = value
    return hdu


def planes(*cards: Cards, named: bool = True, compression: str | None = None) -> list[fits.ImageHDU]:
    """Return image, mask and variance."""
    data = {"IMAGE": image(), "MASK": mask(), "VARIANCE": image(2) ** 2}
    return [
        plane(
            pixels, *cards, mask_cards() if kind == "MASK" else {}, name=kind if named else "", kind=kind,
            compression=compression,
        )
        for kind, pixels in data.items()
    ]  # fmt: skip


def save(path: Path, hdus: Iterable[fits.ImageHDU], primary: Cards | None = None) -> Path:
    """Write a file; cards named ``@SCALE`` and ``@ZERO`` become BSCALE and BZERO, which astropy would take away."""
    hdus = list(hdus)
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    whole = fits.HDUList([*first, *hdus])
    whole[0].header.update(primary or {})
    whole.writeto(path)
    path.write_bytes(path.read_bytes().replace(b"XSCALE  =", b"BSCALE  =").replace(b"XZERO   =", b"BZERO   ="))
    return path


def random_boxes(bbox: Box, count: int = BOXES, seed: int = 0) -> list[Box]:
    """Return boxes of any size within another, the whole among them."""
    rng = np.random.default_rng(seed)
    found = [bbox]
    for _ in range(count - 1):
        y, x = (np.sort(rng.integers((lo, lo), (hi, hi))) for lo, hi in ((bbox.y0, bbox.y1), (bbox.x0, bbox.x1)))
        found.append(Box(int(y[0]), int(y[1]) + 1, int(x[0]), int(x[1]) + 1))
    return found


def compare(coadd: Coadd, name: str, expected: Array, count: int = BOXES) -> None:
    """Compare random boxes, and every cache unit, of a plane with the whole plane by another reader."""
    dtype = np.int32 if name.startswith("mask") else np.float32
    expected = np.asarray(expected).astype(dtype)
    assert coadd.bbox.shape == expected.shape
    for box in random_boxes(coadd.bbox, count):
        pixels = coadd.read(name, box)
        assert pixels.dtype == dtype
        np.testing.assert_array_equal(pixels, expected[box.slices(coadd.bbox.start)], err_msg=f"{name} {box}")
    layout = coadd.layout(name)
    for unit, pixels in enumerate(coadd.read_units(name, range(layout.units))):
        np.testing.assert_array_equal(pixels, expected[layout.unit_box(unit).slices()], err_msg=f"{name} {unit}")
