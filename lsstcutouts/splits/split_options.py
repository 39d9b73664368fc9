"""How targets are dealt to splits, as users say it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from ..catalog.select import expression_columns
from ..errors import ConfigurationError

__all__ = ["DEFAULT_HEALPIX_ORDER", "OWN_COLUMNS", "SPLITS", "Leaks", "SplitBy", "SplitSettings", "Splits"]

SPLITS = ("train", "val", "test", "predict")
"""Names of the splits. ``predict`` is every target, and may share pixels with the others."""

OWN_COLUMNS = ("object_id", "ra", "dec", "tract", "patch")
"""What a plan knows of each target, whatever the catalog's columns."""

_DEALT = ("train", "val", "test")

DEFAULT_HEALPIX_ORDER = 7
"""Cells of 0.46 degrees, about seven patches of Rubin's skymaps each: few targets lie at their edges."""

type Splits = Mapping[str, float] | Mapping[str, Sequence[int] | str | os.PathLike[str]] | str
type SplitBy = Literal["auto", "tract", "patch", "block", "healpix"]
type Leaks = Literal["drop", "raise", "warn"]


@dataclass(frozen=True)
class SplitSettings:
    """How targets are dealt.

    Attributes
    ----------
    fractions
        Share of the targets in each split; empty where they are dealt otherwise.
    column
        Catalog column with the names of the splits.
    ids
        Object ids of each split, or a file of them.
    by
        What is never divided by fractions: tracts, patches, blocks within patches, or HEALPix cells of ``order``. ``"auto"``
        takes patches, and blocks where there are fewer than four patches.
    leaks
        What becomes of targets whose boxes share pixels with a more protected split's.
    select
        Expression on catalog columns for each split.
    seed
        Which area goes where.
    """

    fractions: Mapping[str, float]
    column: str | None
    ids: Mapping[str, Any]
    by: SplitBy
    order: int
    leaks: Leaks
    select: Mapping[str, str]
    seed: int

    @classmethod
    def of(
        cls,
        splits: Splits | None,
        *,
        split_by: SplitBy = "auto",
        healpix_order: int = DEFAULT_HEALPIX_ORDER,
        leaks: Leaks | None = None,
        select: str | Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> Self:
        """Return settings from arguments.

        Raises
        ------
        ConfigurationError
            If they cannot be.
        """
        _check_choice("split_by", split_by, get_args(SplitBy.__value__))
        if leaks is not None:
            _check_choice("leaks", leaks, get_args(Leaks.__value__))
        if isinstance(healpix_order, bool) or not isinstance(healpix_order, int) or not 0 <= healpix_order <= 17:
            raise ConfigurationError(f"healpix_order must be a whole number from 0 to 17, got {healpix_order!r}")
        fractions, column, ids = _kinds({"train": 0.8, "val": 0.2} if splits is None else splits)
        return cls(
            fractions,
            column,
            ids,
            split_by,
            healpix_order,
            leaks or ("drop" if fractions else "warn"),
            _selections(select),
            seed,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Catalog columns that the dealing needs."""
        named = [name for expression in self.select.values() for name in expression_columns(expression)]
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
            f"splits must map split names to fractions or to object ids, or name a catalog column, got {splits!r}"
        )
    given = {str(name): value for name, value in splits.items()}
    unknown = set(given) - set(_DEALT)
    if unknown:
        raise ConfigurationError(f"splits name {', '.join(sorted(unknown))}; there are train, val and test")
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in given.values()]
    if not any(numbers):
        return {}, None, given
    if not all(numbers):
        raise ConfigurationError(f"splits must all be fractions, or all object ids, got {given}")
    fractions = {name: float(value) for name, value in given.items()}
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigurationError(f"the fractions of splits must lie in 0..1 and add up to 1, got {fractions}")
    return fractions, None, {}


def _selections(select: str | Mapping[str, str] | None) -> dict[str, str]:
    if select is None:
        return {}
    # Predictions are wanted of everything unless it is said otherwise.
    chosen = dict.fromkeys(_DEALT, select) if isinstance(select, str) else {str(k): str(v) for k, v in select.items()}
    unknown = set(chosen) - set(SPLITS)
    if unknown:
        raise ConfigurationError(f"select names {', '.join(sorted(unknown))}; there are {', '.join(SPLITS)}")
    for expression in chosen.values():
        expression_columns(expression)  # says what cannot be read
    return chosen


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
