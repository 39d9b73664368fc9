"""Position of an array on the pixel grid of its tract, and the WCS of the grid."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial.polynomial import polyval2d
from numpy.typing import ArrayLike, NDArray

from ..sky.geometry import YX, TanProjection
from .headers import BadStructureError, Cards, Hdu, UnknownFeatureError

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["PixelProjection", "SipProjection", "array_origin", "astropy_wcs", "pixel_projection"]

_HIGHEST_ORDER = 9
"""Order of the highest SIP polynomial (Shupe et al. 2005)."""

_WCS_KEY = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|(LON|LAT)POLE|RADE(C)?SYS|EQUINOX"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|PV[12]_\d+"
)
"""Keywords of a celestial WCS with TAN-SIP distortion. Dates are left out: they change no pixel, and astropy warns."""


@dataclass(frozen=True, slots=True, eq=False)
class SipProjection:
    """A gnomonic projection with polynomial distortion of the pixels (TAN-SIP; Shupe et al. 2005).

    Attributes
    ----------
    tan
        The projection.
    a, b
        Coefficients ``[p, q]`` of ``u^p v^q`` that x and y are moved by, with ``(u, v)`` the pixel less ``tan.crpix``.
    """

    tan: TanProjection
    a: NDArray[np.float64]
    b: NDArray[np.float64]

    @property
    def crval(self) -> tuple[float, float]:
        """Tangent point ``(ra, dec)``, degrees ICRS."""
        return self.tan.crval

    def pixel_to_sky(self, y: ArrayLike, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ``(ra, dec)`` in degrees ICRS, RA in [0, 360), of tract pixels; the shape is that of ``y`` and ``x``."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        u, v = x - self.tan.crpix[0], y - self.tan.crpix[1]
        return self.tan.pixel_to_sky(y + polyval2d(u, v, self.b), x + polyval2d(u, v, self.a))


type PixelProjection = TanProjection | SipProjection


def array_origin(cards: Cards, default: YX[int] | None = None) -> YX[int]:
    """Return the tract pixel of an array's first pixel, from ``LTV``, from the "A" WCS, or from both.

    afw writes both and reads the second; ``lsst.images`` writes the second and reads the first, where it is there.

    Raises
    ------
    BadStructureError
        They contradict each other.
    UnknownFeatureError
        The header has neither, and there is no default.
    """
    ltv, linear = _ltv_origin(cards), _linear_origin(cards)
    if ltv is not None and linear is not None and ltv != linear:
        raise BadStructureError(f'the first pixel is {ltv} by LTV1 and LTV2, but {linear} by the "A" WCS')
    origin = ltv or linear or default
    if origin is None:
        raise UnknownFeatureError('no position on the tract: the header has neither LTV1 and LTV2 nor an "A" WCS')
    return origin


def _ltv_origin(cards: Cards) -> YX[int] | None:
    if "LTV1" not in cards or "LTV2" not in cards:
        return None
    return YX(y=-_whole("LTV2", cards.number("LTV2")), x=-_whole("LTV1", cards.number("LTV1")))


def _linear_origin(cards: Cards) -> YX[int] | None:
    # Before 2014 afw left CTYPE2A out; a second WCS of another type is something else.
    if "CRVAL1A" not in cards or "CRVAL2A" not in cards or cards.string("CTYPE1A", "LINEAR") != "LINEAR":
        return None
    y, x = (cards.number(f"CRVAL{n}A") + 1.0 - cards.number(f"CRPIX{n}A", 1.0) for n in (2, 1))
    return YX(y=_whole("CRVAL2A", y), x=_whole("CRVAL1A", x))


def _whole(key: str, value: float) -> int:
    """Return the whole pixel of a keyword; raise if it lies between two pixels."""
    if abs(value - round(value)) > 1e-3:
        raise BadStructureError(f"the array starts between pixels: {key} gives {value}")
    return round(value)


def pixel_projection(hdu: Hdu, origin: YX[int]) -> PixelProjection:
    """Return a header's celestial WCS over tract pixels.

    Raises
    ------
    UnknownFeatureError
        It is not a gnomonic projection in degrees, plain or with SIP distortions.
    """
    cards = hdu.cards
    types = (cards.string("CTYPE1"), cards.string("CTYPE2"))
    if types not in {("RA---TAN", "DEC--TAN"), ("RA---TAN-SIP", "DEC--TAN-SIP")}:
        raise UnknownFeatureError(f"the WCS has CTYPE {types}; only TAN and TAN-SIP are read")
    crval = cards.number("CRVAL1"), cards.number("CRVAL2")
    # At the north pole the default is another one (Calabretta & Greisen 2002, section 2.2).
    turn = cards.number("LONPOLE", 0.0 if crval[1] >= 90.0 else 180.0) - 180.0
    tan = TanProjection(
        crval=crval,
        crpix=(cards.number("CRPIX1") - 1.0 + origin.x, cards.number("CRPIX2") - 1.0 + origin.y),
        cd=_turned(_cd(cards), turn) if turn else _cd(cards),
    )
    # Some writers leave "-SIP" out of CTYPE; astropy applies the distortions there too.
    if "A_ORDER" not in cards and "B_ORDER" not in cards:
        return tan
    return SipProjection(tan, _sip(cards, "A"), _sip(cards, "B"))


def _turned(cd: tuple[float, float, float, float], degrees: float) -> tuple[float, float, float, float]:
    """Return the matrix for ``LONPOLE`` 180 that gives the same sky as one for that many degrees more."""
    (c, s), (c11, c12, c21, c22) = (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))), cd
    return float(c * c11 + s * c21), float(c * c12 + s * c22), float(c * c21 - s * c11), float(c * c22 - s * c12)


def _sip(cards: Cards, axis: str) -> NDArray[np.float64]:
    """Return the SIP coefficients of an axis."""
    order = cards.integer(f"{axis}_ORDER", most=_HIGHEST_ORDER)
    coefficients = np.zeros((order + 1, order + 1))
    for p in range(order + 1):
        for q in range(order + 1 - p):
            coefficients[p, q] = cards.number(f"{axis}_{p}_{q}", 0.0)
    return coefficients


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
    BadStructureError
        A keyword of the WCS has a value of the wrong type.
    UnknownFeatureError
        astropy finds no celestial WCS in the header.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS, Sip

    cards, shift = list(_wcs_cards(hdu.cards)), (origin.x, origin.y)
    if "CTYPE1" not in dict(cards):
        raise UnknownFeatureError("no celestial WCS in the header")
    try:
        wcs = WCS(Header(cards))
        wcs.wcs.crpix = wcs.wcs.crpix + shift
        if wcs.sip is not None:
            sip = wcs.sip
            wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix + shift)
        wcs.wcs.set()
    except (ValueError, TypeError, KeyError) as error:
        raise UnknownFeatureError(f"astropy finds no WCS: {error}") from error
    return wcs


def _wcs_cards(cards: Cards) -> Iterator[tuple[str, str | float]]:
    """Yield the keywords of the celestial WCS and their values."""
    for key in cards:
        if _WCS_KEY.fullmatch(key) and cards.get(key) is not None:
            # Files before 2016 spell it RADECSYS, of which astropy warns.
            yield "RADESYS" if key == "RADECSYS" else key, _wcs_value(cards, key)


def _wcs_value(cards: Cards, key: str) -> str | float:
    """Return a value of the type that astropy takes for granted."""
    if key.startswith(("CTYPE", "CUNIT", "RADE")):
        return cards.string(key)
    if key.endswith("_ORDER"):  # astropy makes arrays of order times order coefficients
        return cards.integer(key, most=_HIGHEST_ORDER)
    return cards.number(key)
