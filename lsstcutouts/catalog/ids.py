"""Selects, concatenates, finds and hashes ids of targets, which are integers or strings."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Values", "concatenate_columns", "hash_ids", "repeats_ids", "rows_of_ids", "take_rows"]

type Ids = NDArray[np.int64] | NDArray[np.uint64] | list[str]
"""One id per target, ``(N,)``: int64, uint64 if one exceeds int64, or a list of strings."""

type Values = NDArray[Any] | list[str]
"""A column ``(N, ...)``: numbers as an array, strings as a list."""


def take_rows[V: (NDArray[Any], list[str], Values)](values: V, rows: NDArray[Any]) -> V:
    """Return some rows of a column ``(N, ...)``, by row numbers ``(n,)`` or a bool mask ``(N,)``."""
    if isinstance(values, list):
        numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return [values[row] for row in numbers.tolist()]
    return values[rows]  # type: ignore[no-any-return]


def concatenate_columns[V: (NDArray[Any], list[str], Values)](parts: Sequence[V]) -> V:
    """Return the rows of several columns of one kind as one column."""
    if isinstance(parts[0], list):
        return [text for part in parts for text in part]
    return np.concatenate(parts)


def repeats_ids(ids: Ids) -> bool:
    """Return whether one of the ids occurs more than once."""
    if isinstance(ids, list):
        return len(set(ids)) < len(ids)
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def rows_of_ids(known: Ids, wanted: Any) -> NDArray[np.int64]:
    """Return the row of each wanted id among the known ids, ``(n,)`` int64; -1 if it is not among them.

    Exact for all 64-bit integers; a string never equals a number.

    Parameters
    ----------
    known
        ``(N,)`` ids; of those that occur more than once one row is found.
    wanted
        ``(n,)`` integers or strings.
    """
    if isinstance(known, list):
        row = {text: i for i, text in enumerate(known)}
        texts = wanted if isinstance(wanted, list) else np.asarray(wanted).tolist()
        return np.array([row.get(text, -1) for text in texts], np.int64)
    array = np.asarray(wanted)
    if array.dtype.kind not in "iu" or not len(known):
        return np.full(len(array), -1, np.int64)
    # numpy compares int64 with uint64 as floats, which is not exact.
    limits = np.iinfo(known.dtype)
    there = np.array([limits.min <= int(end) <= limits.max for end in (array.min(initial=0), array.max(initial=0))])
    inside = np.ones(len(array), bool)
    if not there.all():
        inside = array >= 0 if known.dtype.kind == "u" else array <= np.array(limits.max, array.dtype)
    same = array.astype(known.dtype)
    order = np.argsort(known)
    row_of = order[np.minimum(np.searchsorted(known, same, sorter=order), len(known) - 1)]
    return np.where(inside & (known[row_of] == same), row_of, -1)


def hash_ids(ids: Ids, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return a 64-bit number per id, ``(N,)`` int64, that seeds per-target random numbers; equal on every machine.

    For an integer it is its own 64 bits; for a string the first 8 bytes of the SHA-256 of its UTF-8 bytes. With the catalog
    ``rows`` ``(N,)``, it is the same hash of id and row, as text with a zero byte between them: for ids that repeat.
    """
    if rows is not None:
        plain = ids if isinstance(ids, list) else np.asarray(ids).tolist()
        return hash_ids([f"{one}\0{row}" for one, row in zip(plain, rows.tolist(), strict=True)])
    if isinstance(ids, list):
        digests = (hashlib.sha256(text.encode()).digest()[:8] for text in ids)
        return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)
    return np.asarray(ids).view(np.int64)
