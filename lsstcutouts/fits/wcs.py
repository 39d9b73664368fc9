"""Where an array lies on its tract's pixel grid, and the grid on the sky."""

import re
from typing import TYPE_CHECKING, Any

from lsstcutouts.geom import YX, TanProjection

from .headers import Cards, Hdu, UnknownFeatureError

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["array_origin", "astropy_wcs", "tan_projection"]

_WCS_KEY = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|(LON|LAT)POLE|RADE(C)?SYS|EQUINOX"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|PV[12]_\d+"
)
"""Keywords of a celestial WCS with TAN-SIP distortion. Dates are left out: they change no pixel, and astropy warns."""


def array_origin(cards: Cards, default: YX[int] | None = None) -> YX[int]:
    """Return the tract pixel of an array's first pixel, from ``LTV`` or else from the "A" WCS.

    Raises
    ------
    UnknownFeatureError
        The header has neither, and there is no default.
    """
    if "LTV1" in cards and "LTV2" in cards:
        return YX(y=-round(cards.number("LTV2")), x=-round(cards.number("LTV1")))
    if "CRVAL1A" in cards and "CRVAL2A" in cards:
        return YX(y=_offset(cards, 2), x=_offset(cards, 1))
    if default is None:
        raise UnknownFeatureError('no place on the tract: the header has neither LTV1 and LTV2 nor an "A" WCS')
    return default


def _offset(cards: Cards, axis: int) -> int:
    """Return the pixel that the linear "A" WCS gives an array's first pixel."""
    return round(cards.number(f"CRVAL{axis}A") + 1.0 - cards.number(f"CRPIX{axis}A", 1.0))


def tan_projection(hdu: Hdu, origin: YX[int]) -> TanProjection:
    """Return a header's celestial WCS over tract pixels.

    Raises
    ------
    UnknownFeatureError
        It is not a plain gnomonic projection in degrees.
    """
    cards = hdu.cards
    types = (cards.string("CTYPE1"), cards.string("CTYPE2"))
    if types != ("RA---TAN", "DEC--TAN"):
        raise UnknownFeatureError(f"the WCS is {types}, not a plain gnomonic projection")
    return TanProjection(
        crval=(cards.number("CRVAL1"), cards.number("CRVAL2")),
        crpix=(cards.number("CRPIX1") - 1.0 + origin.x, cards.number("CRPIX2") - 1.0 + origin.y),
        cd=_cd(cards),
    )


def _cd(cards: Cards) -> tuple[float, float, float, float]:
    """Return the CD matrix, or the one that PC and CDELT make (FITS standard 4.0, section 8.1)."""
    if any(key in cards for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")):
        return (
            cards.number("CD1_1", 0.0),
            cards.number("CD1_2", 0.0),
            cards.number("CD2_1", 0.0),
            cards.number("CD2_2", 0.0),
        )
    x, y = cards.number("CDELT1", 1.0), cards.number("CDELT2", 1.0)
    return (
        x * cards.number("PC1_1", 1.0),
        x * cards.number("PC1_2", 0.0),
        y * cards.number("PC2_1", 0.0),
        y * cards.number("PC2_2", 1.0),
    )


def astropy_wcs(hdu: Hdu, origin: YX[int]) -> "WCS":
    """Return a header's celestial WCS for astropy, over 0-based tract pixels.

    Raises
    ------
    UnknownFeatureError
        astropy finds no celestial WCS in the header.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS, Sip

    header = Header()
    for key in hdu.cards:
        value: Any = hdu.cards.get(key)
        if _WCS_KEY.fullmatch(key) and value is not None:
            # Files before 2016 spell it RADECSYS, of which astropy warns.
            header["RADESYS" if key == "RADECSYS" else key] = value
    if "CTYPE1" not in header:
        raise UnknownFeatureError("no celestial WCS in the header")
    wcs = WCS(header)
    shift = (origin.x, origin.y)
    wcs.wcs.crpix = wcs.wcs.crpix + shift
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix + shift)
    wcs.wcs.set()
    return wcs
