"""The rows that a catalog shall have of a larger table: an expression and a cone on the sky."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from .select import column_ranges, expression_columns, matching_rows

__all__ = ["OWN_NAMES", "Subset"]

OWN_NAMES = ("object_id", "ra", "dec")
"""Names that mean the id and the position of a target (degrees ICRS), whatever the columns of the table are called."""


@dataclass(frozen=True)
class Subset:
    """The rows of a table that are kept; all of them by default.

    Attributes
    ----------
    select
        Expression that must be true (`lsstcutouts.catalog.select.matching_rows`).
    cone
        RA, Dec and radius of a cone that contains the positions, degrees ICRS.

    Raises
    ------
    ConfigurationError
        If the expression has a syntax error, or the cone is not three numbers in their ranges.
    """

    select: str | None = None
    cone: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.select is not None:
            expression_columns(self.select)
        if self.cone is None:
            return
        numbers = not isinstance(self.cone, str) and all(isinstance(v, int | float) for v in self.cone)
        if not numbers or len(self.cone) != 3:
            raise ConfigurationError(
                f"cone={self.cone!r} must be RA, Dec and radius in degrees: cone=(53.1, -28.1, 0.5)"
            )
        ra, dec, radius = self.cone
        if not (-180 <= ra <= 360 and -90 <= dec <= 90 and 0 < radius <= 180):
            raise ConfigurationError(
                f"cone={tuple(self.cone)} is out of range: RA must be in -180 to 360, Dec in -90 to 90 and the radius in 0 to"
                " 180 degrees"
            )

    def __bool__(self) -> bool:
        return self.select is not None or self.cone is not None

    def __str__(self) -> str:
        given = {"select": self.select, "cone": None if self.cone is None else tuple(self.cone)}
        return " and ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that the test of a row needs, among them those of `OWN_NAMES`."""
        named = () if self.select is None else expression_columns(self.select)
        return tuple(dict.fromkeys([*named, *(() if self.cone is None else ("ra", "dec"))]))

    def may_match(self, statistics: Mapping[str, Any]) -> bool:
        """Return whether rows can match, of which the smallest and the largest value of some columns are known.

        Parameters
        ----------
        statistics
            ``{"min": ..., "max": ...}`` by column name, as Parquet files hold it.
        """
        ranges = {} if self.select is None else column_ranges(self.select)
        for name, bounds in ranges.items():
            known = statistics.get(name)
            if name in OWN_NAMES or known is None:
                continue
            try:
                if any(known["max"] < low or known["min"] > high for low, high in bounds):
                    return False
            except TypeError:  # a string and a number: `matching_rows` explains it
                continue
        return True

    def mask(self, columns: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
        """Return which of the rows are kept, ``(count,)``.

        Parameters
        ----------
        columns
            Values ``(count,)`` of `columns`, ``ra`` and ``dec`` in degrees ICRS.
        """
        kept = np.ones(count, np.bool_)
        if self.cone is not None:
            kept &= _separation(columns["ra"], columns["dec"], *self.cone[:2]) <= self.cone[2]
        if self.select is not None:
            kept &= matching_rows(self.select, columns, count)
        return kept


def _separation(ra: NDArray[np.float64], dec: NDArray[np.float64], ra0: float, dec0: float) -> NDArray[np.float64]:
    """Return angular distances ``(N,)``, degrees; NaN for a position that is not finite."""
    from astropy.coordinates import angular_separation

    with np.errstate(invalid="ignore"):
        return np.degrees(angular_separation(*np.radians([ra0, dec0]), np.radians(ra), np.radians(dec)))  # type: ignore[no-any-return]
