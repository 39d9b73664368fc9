"""DP1 files: an exposure in the FITS layout of the LSST package ``afw``, written with astropy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ..sky.geometry import Box
from .exposure import CoaddPixels
from .simulated_skymap import SimulatedSkyMap

__all__ = ["FORMATTER", "STORAGE_CLASS", "write_exposure"]

STORAGE_CLASS = "ExposureF"
FORMATTER = "lsst.obs.base.formatters.fitsExposure.FitsExposureFormatter"

_NAMES = {
    "NO_DATA": "NO_DATA",
    "INTERPOLATED": "INTRP",
    "COSMIC_RAY": "CR",
    "SATURATED": "SAT",
    "DETECTION_EDGE": "EDGE",
    "CLIPPED": "CLIPPED",
    "REJECTED": "REJECTED",
    "DETECTED": "DETECTED",
    "INEXACT_PSF": "INEXACT_PSF",
}
_UNUSED = (
    "BAD",
    "DETECTED_NEGATIVE",
    "SUSPECT",
    "VIGNETTED",
    "STREAK",
    "CROSSTALK",
    "ITL_DIP",
    "NOT_DEBLENDED",
    "SENSOR_EDGE",
    "UNMASKEDNAN",
)
ARCHIVE_HDU = 5
"""1-based number of the HDU of the archive index, as in the primary header."""


def write_exposure(
    path: Path, pixels: CoaddPixels, skymap: SimulatedSkyMap, rng: np.random.Generator, data_id: Mapping[str, object]
) -> None:
    """Write a coadd as an afw exposure.

    Parameters
    ----------
    path
        Output file; its folder must exist.
    pixels
        Planes of the coadd.
    skymap
        Skymap of the coadd.
    rng
        Random numbers that assign mask planes to bits.
    data_id
        Data ID for the Butler provenance in the header.
    """
    bits = _mask_bits(rng)
    geometry = _geometry_cards(pixels.box, skymap)
    mask_cards = [(f"HIERARCH MP_{name}" if len(name) > 5 else f"MP_{name}", bit) for name, bit in bits.items()]
    primary = fits.PrimaryHDU()
    primary.header["AR_HDU"] = (ARCHIVE_HDU, "HDU (1-indexed) of the archive index")
    primary.header["FILTER"] = pixels.band
    for name, value in data_id.items():
        primary.header[f"HIERARCH LSST BUTLER DATAID {name.upper()}"] = value
    hdus = [
        primary,
        _plane("IMAGE", _image(pixels), [("BUNIT", "nJy"), *geometry]),
        _plane("MASK", _packed(pixels, bits), [("BUNIT", None), *mask_cards, *geometry]),
        _plane("VARIANCE", _variance(pixels), [("BUNIT", "nJy**2"), *geometry]),
        _archive_index(),
        _archive_table(),
    ]
    fits.HDUList(hdus).writeto(path)


def _mask_bits(rng: np.random.Generator) -> dict[str, int]:
    names = sorted((*_NAMES.values(), *_UNUSED))
    return {name: int(bit) for name, bit in zip(names, rng.permutation(len(names)), strict=True)}


def _packed(pixels: CoaddPixels, bits: dict[str, int]) -> NDArray[np.int32]:
    packed = np.zeros(pixels.box.shape, np.int32)
    for name, where in pixels.masks.items():
        packed |= where.astype(np.int32) << bits[_NAMES[name]]
    return packed


def _image(pixels: CoaddPixels) -> NDArray[np.float32]:
    return np.where(pixels.no_data, np.float32(np.nan), pixels.image)


def _variance(pixels: CoaddPixels) -> NDArray[np.float32]:
    """Return the variance ``(Y, X)``; pixels without data are marked differently in files with even and odd numbers."""
    nothing = np.nan if pixels.number % 2 else np.inf
    return np.where(pixels.no_data, np.float32(nothing), pixels.variance)


def _plane(name: str, data: NDArray[np.generic], cards: list[tuple[str, object]]) -> fits.CompImageHDU:
    """Return a losslessly compressed image HDU; each tile is one row."""
    hdu = fits.CompImageHDU(
        data, name=name, compression_type="GZIP_2", tile_shape=(1, data.shape[1]), quantize_level=0.0
    )
    hdu.header["EXTTYPE"] = name
    hdu.header["INHERIT"] = True
    for key, value in cards:
        hdu.header[key] = value
    return hdu


def _geometry_cards(box: Box, skymap: SimulatedSkyMap) -> list[tuple[str, object]]:
    """Return header cards with the WCS and the position of the array in the tract, in the three forms that afw writes."""
    wcs = skymap.wcs.wcs
    celestial = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": wcs.crval[0],
        "CRVAL2": wcs.crval[1],
        "CRPIX1": wcs.crpix[0] - box.x0,
        "CRPIX2": wcs.crpix[1] - box.y0,
        "CD1_1": wcs.cd[0, 0],
        "CD1_2": wcs.cd[0, 1],
        "CD2_1": wcs.cd[1, 0],
        "CD2_2": wcs.cd[1, 1],
        "RADESYS": "ICRS",
    }
    linear = {"CTYPE1A": "LINEAR", "CTYPE2A": "LINEAR", "CRPIX1A": 1.0, "CRPIX2A": 1.0}
    linear |= {"CRVAL1A": float(box.x0), "CRVAL2A": float(box.y0), "CUNIT1A": "PIXEL", "CUNIT2A": "PIXEL"}
    offset = {"LTV1": float(-box.x0), "LTV2": float(-box.y0)}
    return [*celestial.items(), *linear.items(), *offset.items()]


def _archive_index() -> fits.BinTableHDU:
    columns = [
        fits.Column("id", "J", array=[1]),
        fits.Column("cat.archive", "J", array=[1]),
        fits.Column("cat.persistable", "J", array=[0]),
        fits.Column("row0", "J", array=[0]),
        fits.Column("nrows", "J", array=[1]),
        fits.Column("name", "64A", array=["FilterLabel"]),
        fits.Column("module", "64A", array=["lsst.afw.image"]),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="ARCHIVE_INDEX")
    hdu.header["EXTTYPE"] = "ARCHIVE_INDEX"
    hdu.header["AR_CATN"] = 0
    hdu.header["AR_NCAT"] = 2  # with the index
    return hdu


def _archive_table() -> fits.BinTableHDU:
    columns = [fits.Column("band", "8A", array=["any"])]
    hdu = fits.BinTableHDU.from_columns(columns, name="FilterLabel")
    hdu.header["EXTTYPE"] = "ARCHIVE_DATA"
    hdu.header["AR_CATN"] = 1
    return hdu
