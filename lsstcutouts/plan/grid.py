"""Your own pixel grid: the settings, and the projection of each cutout that follows from them."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy import units
from numpy.typing import NDArray

from ..errors import ConfigurationError
from ..sky.geometry import YX, TanProjection, box_start

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["INTERPOLATIONS", "MARGINS", "SUPPORT", "Grid", "Placed"]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]

INTERPOLATIONS = {"nearest": 0, "bilinear": 1, "biquadratic": 2, "bicubic": 3}
"""Interpolations, and the order of the spline of each."""

SUPPORT = (1, 1, 2, 3)
"""By order of the spline, pixels on each side of a place whose weights count: those further away have at most 1 % each, for
the second order 2 %."""

MARGINS = (1, 1, 9, 12)
"""By order, pixels on each side from which an interpolation takes 1e-7 or more of a pixel: 0.172 and 0.268 to this power."""

_TOLERANCE = 0.01
"""Pixels by which the projection of a cutout may differ from a WCS that is no gnomonic projection, as for the WCS of files."""

_EXACT = 1e-6
"""Pixels within which a WCS is a gnomonic projection."""

_REACH = 2000
"""Pixels on each side of the reference pixel where this is tested."""


@dataclass(frozen=True)
class Grid:
    """Your own pixel grid for the cutouts, instead of that of the tract.

    Without a ``wcs``, each cutout has a grid of its own with the target exactly in the middle: a gnomonic projection.
    With a ``wcs``, each cutout is a box of whole pixels on its grid, around the target as boxes are on tracts, so that it
    can be laid over another image pixel by pixel. The size of the cutouts is in pixels of the grid.

    Pixels are interpolated from those of the tract, and across the border of a tract from those of its neighbours.

    Parameters
    ----------
    north_up
        Whether y grows to the north and x to the west, at the target; otherwise the axes are those of its tract.
    pixel_scale
        Arcseconds a pixel, a number or text such as ``"0.1 arcsec"``; by default that of the tract.
    wcs
        An astropy WCS, the text of a FITS header or a mapping of its cards: orientation, projection and pixel scale. It is
        kept as text.
    interpolation
        Spline of order 0 to 3 through the pixels: ``"nearest"``, ``"bilinear"``, ``"biquadratic"`` or ``"bicubic"``. The
        default is the most accurate one.

    Raises
    ------
    ConfigurationError
        If a value is not allowed, or nothing is asked for.
    """

    north_up: bool = False
    pixel_scale: float | str | None = None
    wcs: str | Mapping[str, Any] | Any | None = None
    interpolation: Literal["nearest", "bilinear", "biquadratic", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        if not isinstance(self.north_up, bool):
            raise ConfigurationError(f"north_up of a grid must be true or false, got {self.north_up!r}")
        if not isinstance(self.interpolation, str) or self.interpolation not in INTERPOLATIONS:
            raise ConfigurationError(
                f"interpolation of a grid must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        object.__setattr__(self, "pixel_scale", _checked_scale(self.pixel_scale))
        if self.wcs is not None and (self.north_up or self.pixel_scale is not None):
            raise ConfigurationError(
                "a grid has either a wcs, which says orientation and pixel scale, or north_up and pixel_scale; got both"
            )
        if self.wcs is not None:
            object.__setattr__(self, "wcs", _header_text(self.wcs))
        elif not self.north_up and self.pixel_scale is None:
            raise ConfigurationError(
                "a grid needs north_up=True, pixel_scale= or wcs=; for the pixels of the tract leave it out"
            )

    @classmethod
    def of(cls, given: object) -> "Grid | None":
        """Return a grid from one, from a mapping of its arguments as in a configuration, or None where nothing is asked for.

        Raises
        ------
        ConfigurationError
            If it is something else.
        """
        if given is None or isinstance(given, Grid):
            return given
        names = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping) or not set(given) <= {*names, "_target_"}:
            raise ConfigurationError(
                f"grid must be a Grid, or a mapping of its arguments {', '.join(names)}, such as {{north_up: true}}, got {given!r}"
            )
        asked = {name: value for name, value in given.items() if name != "_target_"}
        if not asked.get("north_up") and asked.get("pixel_scale") is None and asked.get("wcs") is None:
            return None
        return cls(**asked)

    @property
    def order(self) -> int:
        """Order of the spline."""
        return INTERPOLATIONS[self.interpolation]

    def scale(self, tract: YX[float]) -> YX[float]:
        """Return arcseconds a pixel along ``(y, x)``, for tracts with this pixel scale; of a WCS at its reference pixel."""
        if self.wcs is not None:
            wcs = _wcs_of(str(self.wcs))
            return (_gnomonic(wcs) or _local(wcs, *(np.asarray(wcs.wcs.crpix[1::-1]) - 1))).pixel_scale
        return tract if self.pixel_scale is None else YX(float(self.pixel_scale), float(self.pixel_scale))

    def place(
        self,
        ra: Floats,
        dec: Floats,
        size: YX[int],
        tract: NDArray[np.int64],
        projections: Mapping[int, TanProjection],
        scale: YX[float],
    ) -> "Placed":
        """Return the grids of the cutouts of ``N`` targets.

        Parameters
        ----------
        ra, dec
            ``(N,)`` degrees ICRS.
        size
            Rows and columns of a cutout.
        tract, projections
            ``(N,)`` tract of each target, and the projection of each tract.
        scale
            Arcseconds a pixel of the tracts ``(y, x)``.

        Raises
        ------
        ConfigurationError
            If the WCS of the grid cannot be said in the eight numbers of a cutout.
        """
        if self.wcs is not None:
            return _placed_on(_wcs_of(str(self.wcs)), ra, dec, size)
        count, mine = len(ra), self.scale(scale)
        wcs = np.empty((count, 8))
        middle = (np.asarray(size, np.float64) - 1) / 2
        if self.north_up:
            wcs[:, 0], wcs[:, 1] = ra, dec
            wcs[:, 2:4] = middle[::-1]
            wcs[:, 4:] = -mine.x / 3600, 0, 0, mine.y / 3600
        else:
            for number in np.unique(tract).tolist():
                rows, one = np.flatnonzero(tract == number), projections[number]
                ratio = YX(mine.y / one.pixel_scale.y, mine.x / one.pixel_scale.x)
                y, x = one.sky_to_pixel(ra[rows], dec[rows])
                wcs[rows, :2] = one.crval
                wcs[rows, 2] = middle[1] + (one.crpix[0] - x) / ratio.x
                wcs[rows, 3] = middle[0] + (one.crpix[1] - y) / ratio.y
                wcs[rows, 4:] = np.asarray(one.cd) * [ratio.x, ratio.y, ratio.x, ratio.y]
        return Placed(wcs, np.zeros((count, 2), np.int64), np.zeros((count, 2), np.float32))


@dataclass(frozen=True, eq=False)
class Placed:
    """The grids of ``N`` cutouts.

    Attributes
    ----------
    wcs
        ``(N, 8)`` projection over the pixels of each cutout, as in a batch: the numbers of a `TanProjection`.
    yx0
        ``(N, 2)`` first pixel ``(y, x)`` on the grid of the given WCS; 0 where each cutout has a grid of its own.
    offset
        ``(N, 2)`` target minus middle of the cutout, pixels ``(y, x)``; 0 where each has a grid of its own.
    """

    wcs: Floats
    yx0: Ints
    offset: NDArray[np.float32]


def _placed_on(wcs: "WCS", ra: Floats, dec: Floats, size: YX[int]) -> Placed:
    """Return boxes of whole pixels on the grid of a WCS."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs import NoConvergence

    exact = _gnomonic(wcs)
    if exact is not None:
        centre = np.stack(exact.sky_to_pixel(ra, dec), axis=-1)
    else:
        try:
            x, y = wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
        except NoConvergence as error:
            raise ConfigurationError(
                f"the distortions of the WCS of the grid cannot be inverted at every target: {error}; choose targets near its reference point"
            ) from error
        centre = np.stack([y, x], axis=-1)
    if not np.isfinite(centre).all():
        n = int(np.flatnonzero(~np.isfinite(centre).all(axis=1))[0])
        raise ConfigurationError(
            f"the WCS of the grid does not reach the target at ra {ra[n]:.5f}, dec {dec[n]:.5f}; choose targets near its reference point"
        )
    yx0 = box_start(centre, size)
    numbers = np.empty((len(ra), 8))
    if exact is not None:
        numbers[:] = [*exact.crval, *exact.crpix, *exact.cd]
    else:
        half = (np.asarray(size) - 1) / 2
        for n, middle in enumerate(yx0 + half):
            one = _local(wcs, *middle)
            numbers[n] = [*one.crval, *one.crpix, *one.cd]
            _check_local(wcs, one, middle, half, float(ra[n]), float(dec[n]))
    numbers[:, 2:4] -= yx0[:, ::-1]
    return Placed(numbers, yx0, (centre - (yx0 + (np.asarray(size) - 1) / 2)).astype(np.float32))


def _sky(wcs: "WCS", y: Any, x: Any) -> tuple[Floats, Floats]:
    """Return ``(ra, dec)``, degrees ICRS, of pixels of a WCS, whatever its celestial frame."""
    sky = wcs.pixel_to_world(np.asarray(x), np.asarray(y)).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def _local(wcs: "WCS", y: float, x: float) -> TanProjection:
    """Return the gnomonic projection that touches the sky at a pixel and has the scale and orientation of a WCS there."""
    step = 0.5
    ra, dec = _sky(wcs, [y, y, y, y - step, y + step], [x, x - step, x + step, x, x])
    plane = TanProjection((float(ra[0]), float(dec[0])), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    eta, xi = plane.sky_to_pixel(ra[1:], dec[1:])
    cd = (xi[1] - xi[0], xi[3] - xi[2], eta[1] - eta[0], eta[3] - eta[2])
    return TanProjection(plane.crval, (float(x), float(y)), tuple(float(c) / (2 * step) for c in cd))  # type: ignore[arg-type]


def _gnomonic(wcs: "WCS") -> TanProjection | None:
    """Return a WCS as gnomonic projection, in whatever frame and however turned it is written; None if it is another one."""
    x, y = (float(c) - 1 for c in wcs.wcs.crpix)
    # A plane that touches the sky at the same point is the same but for a matrix, which any two directions give.
    at_y, at_x = (np.array([0.0, y_or_x, -y_or_x]) for y_or_x in (1.0, 1.0))
    steps_y, steps_x = np.meshgrid(at_y * _REACH, at_x * _REACH, indexing="ij")
    ra, dec = _sky(wcs, y + steps_y, x + steps_x)
    if not np.isfinite([ra, dec]).all():
        return None
    plane = TanProjection((float(ra[0, 0]), float(dec[0, 0])), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    eta, xi = plane.sky_to_pixel(ra, dec)
    cd = [(one[0, 1] - one[0, 2], one[1, 0] - one[2, 0]) for one in (xi, eta)]
    matrix = np.array(cd) / (2 * _REACH)
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        return None
    found = TanProjection(plane.crval, (x, y), tuple(map(float, matrix.ravel())))  # type: ignore[arg-type]
    again = found.sky_to_pixel(ra, dec)
    off = np.hypot(again.y - (y + steps_y), again.x - (x + steps_x))
    return found if bool((off < _EXACT).all()) else None


def _check_local(wcs: "WCS", one: TanProjection, middle: Floats, half: Floats, ra: float, dec: float) -> None:
    """Raise if a projection differs from the WCS anywhere in a box, as found at its corners and edges."""
    steps = np.array([(j, i) for j in (-1, 0, 1) for i in (-1, 0, 1)]) * half + middle
    there = one.sky_to_pixel(*_sky(wcs, steps[:, 0], steps[:, 1]))
    off = float(np.hypot(there.y - steps[:, 0], there.x - steps[:, 1]).max())
    if not off <= _TOLERANCE:
        raise ConfigurationError(
            f"the WCS of the grid bends by {off:.3g} px over the cutout at ra {ra:.5f}, dec {dec:.5f}; at most {_TOLERANCE} px can be "
            "said of it: use a WCS without distortions, a smaller size, or targets nearer to its reference point"
        )


def _checked_scale(scale: object) -> float | None:
    if scale is None:
        return None
    number: object = scale
    if isinstance(scale, str | units.Quantity):
        try:
            quantity = units.Quantity(scale)
            number = float(quantity.value if quantity.unit == units.one else quantity.to_value(units.arcsec))
        except (TypeError, ValueError, units.UnitsError) as error:
            raise ConfigurationError(
                f"pixel_scale of a grid must be arcseconds a pixel, such as 0.1 or '0.1 arcsec', got {scale!r}"
            ) from error
    if isinstance(number, bool) or not isinstance(number, int | float | np.number) or not 0 < number < math.inf:
        raise ConfigurationError(f"pixel_scale of a grid must be positive arcseconds a pixel, got {scale!r}")
    return float(number)


def _header_text(wcs: Any) -> str:
    """Return the celestial part of a WCS as text of a FITS header, one card a line.

    Raises
    ------
    ConfigurationError
        If it is no WCS of the sky.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    if isinstance(wcs, str):
        if "CTYPE" not in wcs:
            raise ConfigurationError(
                f"wcs of a grid is text without a CTYPE card; give the text of a FITS header, got {wcs[:80]!r}"
            )
        wcs = Header.fromstring(wcs, sep="\n" if "\n" in wcs.strip() else "")
    if isinstance(wcs, Mapping):  # a Header is one, too
        wcs = _read_header(wcs)
    if not isinstance(wcs, WCS):
        raise ConfigurationError(
            f"wcs of a grid must be an astropy WCS, the text of a FITS header, or a mapping of its cards, got {type(wcs).__name__}"
        )
    if not wcs.has_celestial:
        raise ConfigurationError(
            f"wcs of a grid must have two axes on the sky; its axes are {', '.join(wcs.wcs.ctype) or 'none'}"
        )
    on_sky = wcs if wcs.naxis == 2 else wcs.celestial  # which changes the order of axes that begin with the declination
    if np.linalg.matrix_rank(on_sky.pixel_scale_matrix) < 2:
        raise ConfigurationError(
            f"wcs of a grid has pixels without area: its matrix is {on_sky.pixel_scale_matrix.tolist()} degrees a pixel"
        )
    text: str = on_sky.to_header(relax=True).tostring(sep="\n", endcard=False, padding=False)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _read_header(cards: Mapping[str, Any]) -> "WCS":
    """Return the WCS of the cards of a header."""
    from astropy.io.fits import Header, VerifyError
    from astropy.wcs import WCS, FITSFixedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # dates of other images, which do not matter here
        try:
            wcs = WCS(cards if isinstance(cards, Header) else Header(dict(cards)))
            wcs.wcs.set()
        except (KeyError, MemoryError, TypeError, ValueError, VerifyError) as error:  # wcslib's own are ValueErrors
            raise ConfigurationError(f"wcs of a grid cannot be read: {error}") from error
    return wcs


def _wcs_of(text: str) -> "WCS":
    """Return the WCS that `_header_text` wrote."""
    from astropy.io.fits import Header

    return _read_header(Header.fromstring(text, sep="\n"))
