"""The request for positions without a catalog, which `lsstcutouts.build_plan` draws on the sky that the coadds cover."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..errors import ConfigurationError

__all__ = ["FOOTPRINT_COLUMNS", "Footprint", "footprint_of"]

FOOTPRINT_COLUMNS = ("position", "view")
"""Columns of drawn positions that a batch may contain: number of the position, and of its view."""

_KINDS = ("uniform", "grid")


@dataclass(frozen=True)
class Footprint:
    """Positions on the covered sky instead of a catalog, for self-supervised training.

    Give it as ``catalog=Footprint(n=10000)``, or as ``catalog={"footprint": {"n": 10000}}`` in configurations. The plan
    draws the positions, which follow from these settings and the coadds of the repository. A position lies in the inner
    region of a patch that has a coadd, of the tract to which the skymap assigns it, so overlaps of tracts and patches
    count once. Ids are 0, 1, 2 ... in the order in which positions are drawn.

    Parameters
    ----------
    kind
        ``"uniform"``: ``n`` random positions, uniform on the sphere. ``"grid"``: the centres of a grid on the pixels of
        each tract, each once.
    n
        Number of positions of ``"uniform"``. A larger number keeps the first ones.
    spacing
        Of ``"grid"``: pixels, an angle such as ``"12 arcsec"``, or ``(y, x)`` of either. The default is the size of the
        cutouts, which then tile each tract without gaps and overlaps.
    seed
        Of the random positions, not negative; another seed gives other positions with the same ids.
    views
        How often each position is a target, with another id each time and neighbouring in the catalog. For several
        augmented views in one batch use `~lsstcutouts.transforms.Views` instead.
    bands
        In which bands a position must be covered: ``"any"`` or ``"all"`` of the bands of the plan, a number of them, or
        names such as ``"gi"`` or ``["g", "i"]``.
    min_valid
        Smallest fraction, 0 to 1, of the pixels of the cutout that a file covers and that are not ``NO_DATA``; a band with
        less does not count as covered. Reads the masks under the cutouts.
    min_depth
        Smallest depth, AB magnitude of a point source at 5 sigma: one number, or a number for each of some bands, such as
        ``{"i": 26}``, which then must be covered; a band with less does not count as covered. Reads masks, variances and
        PSFs under the cutouts.

    Raises
    ------
    ConfigurationError
        If a value is not allowed, or ``n`` is missing.
    """

    kind: Literal["uniform", "grid"] = "uniform"
    n: int | None = None
    spacing: Any = None
    seed: int = 0
    views: int = 1
    bands: str | int | Sequence[str] = "any"
    min_valid: float = 0.0
    min_depth: float | Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigurationError(
                f"footprint: kind must be one of {', '.join(_KINDS)}, got {self.kind!r}{_suggestion(self.kind, _KINDS)}"
            )
        unused = "spacing" if self.kind == "uniform" else "n"
        if getattr(self, unused) is not None:
            raise ConfigurationError(
                f"footprint: {unused}={getattr(self, unused)!r} has no effect on kind={self.kind!r}; leave it out"
            )
        if self.kind == "uniform" and self.n is None:
            raise ConfigurationError("footprint: n is missing; give the number of positions, such as n=10000")
        changed: dict[str, Any] = {
            "n": None if self.n is None else _whole("n", self.n, 1),
            "seed": _whole("seed", self.seed, 0),
            "views": _whole("views", self.views, 1),
            "spacing": _checked_spacing(self.spacing),
            "bands": _checked_bands(self.bands),
            "min_valid": _number("min_valid", self.min_valid, 0.0, 1.0),
            "min_depth": _checked_depth(self.min_depth),
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)
        if self.depth_by_band and isinstance(self.bands, int):
            raise ConfigurationError(
                f"footprint: bands={self.bands} does not fit min_depth={self.min_depth}, whose bands must be covered; give the"
                " names of all bands that must be covered, or one depth for all"
            )

    @property
    def depth_by_band(self) -> Mapping[str, float]:
        """Smallest depth of each band that has its own; empty for one number, or none."""
        return self.min_depth if isinstance(self.min_depth, Mapping) else {}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that are not the default, as plain values: ``{"footprint": {...}}`` takes them."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return {"kind": self.kind, **plain}

    def __str__(self) -> str:
        return f"footprint {', '.join(f'{name}={value}' for name, value in self.as_dict().items())}"


def footprint_of(source: Any) -> Footprint | None:
    """Return the request that a catalog is or holds, also under ``footprint`` in a dictionary; None for other catalogs.

    Raises
    ------
    ConfigurationError
        If it has an unknown or an invalid setting.
    """
    request = getattr(source, "footprint", source)  # of a `Catalog`
    if isinstance(request, Footprint):
        return request
    given = source.get("footprint") if isinstance(source, Mapping) else None
    if not isinstance(given, Mapping | Footprint):
        return None
    if others := [str(name) for name in source if name != "footprint"]:
        raise ConfigurationError(
            f"catalog has the settings footprint and {others[0]}; a footprint stands alone: leave {others[0]} out"
        )
    if isinstance(given, Footprint):
        return given
    known = [f.name for f in fields(Footprint)]
    for name in given:
        if name not in known:
            hint = _suggestion(name, known) or f"; there are {', '.join(known)}"
            raise ConfigurationError(f"footprint has no setting {name!r}{hint}")
    return Footprint(**{str(name): value for name, value in given.items()})


def _suggestion(value: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _float(value: object) -> float:
    """Return a number, also from text (YAML reads ``1e4`` as text); NaN for what is none."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _whole(name: str, value: object, least: int) -> int:
    number = _float(value)
    if not number.is_integer() or number < least:
        raise ConfigurationError(f"footprint: {name} must be an integer of at least {least}, got {value!r}")
    return int(value) if isinstance(value, int) else int(number)


def _number(name: str, value: object, low: float, high: float) -> float:
    number = _float(value)
    if not low <= number <= high:
        raise ConfigurationError(f"footprint: {name} must be a number from {low:g} to {high:g}, got {value!r}")
    return number


def _checked_spacing(value: Any) -> Any:
    """Return a spacing that hashes; the planner parses it as it parses a size."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _checked_bands(value: Any) -> str | int | tuple[str, ...]:
    if isinstance(value, str) and value in {"any", "all"}:
        return value
    if not math.isnan(_float(value)):
        return _whole("bands", value, 1)
    names = tuple(value) if isinstance(value, str | Sequence) else ()
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"footprint: bands must be 'any', 'all', a number of bands, or different names such as 'gi', got {value!r}"
        )
    return names


def _checked_depth(value: Any) -> float | dict[str, float] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(band): _number(f"min_depth of {band}", one, 0.0, 50.0) for band, one in value.items()} or None
    return _number("min_depth", value, 0.0, 50.0)
