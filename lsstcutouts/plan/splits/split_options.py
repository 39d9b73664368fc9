"""Which targets belong to training, validation and test: the options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ...catalog.select import expression_columns
from ...errors import ConfigurationError
from ..read_options import check_choice

__all__ = ["DEFAULT_HEALPIX_ORDER", "OWN_COLUMNS", "SPLITS", "Leaks", "SplitBy", "SplitOptions", "Splits"]

SPLITS = ("train", "val", "test", "predict")
"""Names of the splits. ``predict`` is every target, and may share pixels with the others."""

OWN_COLUMNS = ("object_id", "ra", "dec", "tract", "patch")
"""What a plan knows of each target, whatever the catalog's columns."""

_ASSIGNED = ("train", "val", "test")

DEFAULT_HEALPIX_ORDER = 7
"""Cells of 0.46 degrees, about seven patches of Rubin's skymaps each: few targets lie at their edges."""

type Splits = Mapping[str, float] | Mapping[str, Sequence[int] | str | os.PathLike[str]] | str
type SplitBy = Literal["auto", "tract", "patch", "block", "healpix"]
type Leaks = Literal["drop", "raise", "warn"]


@dataclass(frozen=True, eq=False)
class SplitOptions:
    """Which targets belong to training, validation and test.

    Parameters
    ----------
    shares
        Fraction of the targets in each split, such as ``{"train": 0.8, "val": 0.2}``; or the name of a catalog column that
        holds ``train``, ``val`` or ``test``; or split names mapped to object ids, or to files of object ids. Not used
        with one catalog for each split. ``predict`` is always every target.
    by
        Area of sky whose targets are all in one split: ``"tract"``, ``"patch"``, ``"block"`` (within a patch) or
        ``"healpix"``. ``"auto"`` uses patches, or blocks if there are fewer than four patches.
    healpix_order
        Order of the HEALPix cells of ``by="healpix"``; 7 is 0.46 degrees.
    leaks
        What happens to targets whose boxes share pixels with targets of another split: ``"drop"`` leaves them out of
        training or validation (the data module lists them), ``"raise"`` is an error, ``"warn"`` logs a warning. By default
        shares drop, and a column or ids warn.
    select
        Expression on catalog columns, such as ``"mag_i < 23 and label >= 0"``, that the targets of train, val and test
        must meet; or one expression for each split by name, ``predict`` too. A missing value meets no expression.

    Raises
    ------
    ConfigurationError
        If a value is not allowed.
    """

    shares: Splits | None = None
    by: SplitBy = "auto"
    healpix_order: int = DEFAULT_HEALPIX_ORDER
    leaks: Leaks | None = None
    select: str | Mapping[str, str] | None = None
    fractions: Mapping[str, float] = field(init=False, repr=False)
    """Share of the targets in each split; empty if a column or ids are given."""
    column: str | None = field(init=False, repr=False)
    """Catalog column with the names of the splits."""
    ids: Mapping[str, Any] = field(init=False, repr=False)
    """Object ids of each split, or a file of them."""
    expressions: Mapping[str, str] = field(init=False, repr=False)
    """Expression of ``select`` for each split."""

    def __post_init__(self) -> None:
        check_choice("by", self.by, get_args(SplitBy.__value__))
        if self.leaks is not None:
            check_choice("leaks", self.leaks, get_args(Leaks.__value__))
        order = self.healpix_order
        if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order <= 17:
            raise ConfigurationError(f"healpix_order must be an integer from 0 to 17, got {order!r}")
        fractions, column, ids = _kinds({"train": 0.8, "val": 0.2} if self.shares is None else self.shares)
        derived = {"fractions": fractions, "column": column, "ids": ids, "expressions": _selections(self.select)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, splits: "SplitOptions | Splits | None") -> "SplitOptions":
        """Return options from what an argument ``splits`` may be: options, plain shares or None."""
        return splits if isinstance(splits, SplitOptions) else cls(splits)

    @property
    def leak_policy(self) -> Leaks:
        """What happens to leaks: ``leaks``, or its default."""
        return self.leaks or ("drop" if self.fractions else "warn")

    @property
    def columns(self) -> tuple[str, ...]:
        """Catalog columns that the splits need."""
        named = [name for expression in self.expressions.values() for name in expression_columns(expression)]
        wanted = dict.fromkeys([*([] if self.column is None else [self.column]), *named])
        return tuple(name for name in wanted if name not in OWN_COLUMNS)

    def __str__(self) -> str:
        if self.column is not None:
            return f"splits={self.column!r}"
        return f"splits={dict(self.fractions) or dict.fromkeys(self.ids, '...')}"


def _kinds(splits: Any) -> tuple[dict[str, float], str | None, dict[str, Any]]:
    """Return fractions, the name of a column, and lists of ids, of which one is given."""
    if isinstance(splits, str):
        return {}, splits, {}
    if not isinstance(splits, Mapping) or not splits:
        raise ConfigurationError(
            f"shares must map split names to fractions or to object ids, or be the name of a catalog column, got {splits!r}"
        )
    given = {str(name): value for name, value in splits.items()}
    unknown = set(given) - set(_ASSIGNED)
    if unknown:
        raise ConfigurationError(f"shares has unknown splits: {', '.join(sorted(unknown))}; use train, val and test")
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in given.values()]
    if not any(numbers):
        return {}, None, given
    if not all(numbers):
        raise ConfigurationError(f"shares must be either all fractions or all object ids, got {given}")
    fractions = {name: float(value) for name, value in given.items()}
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigurationError(
            f"the fractions of the splits must be between 0 and 1 and add up to 1, got {fractions}"
        )
    return fractions, None, {}


def _selections(select: str | Mapping[str, str] | None) -> dict[str, str]:
    if select is None:
        return {}
    # All targets are predicted by default.
    chosen = (
        dict.fromkeys(_ASSIGNED, select) if isinstance(select, str) else {str(k): str(v) for k, v in select.items()}
    )
    unknown = set(chosen) - set(SPLITS)
    if unknown:
        raise ConfigurationError(f"select has unknown splits: {', '.join(sorted(unknown))}; use {', '.join(SPLITS)}")
    for expression in chosen.values():
        expression_columns(expression)  # raises for an expression that cannot be read
    return chosen
