"""Table of predictions with one row per catalog row."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..catalog.ids import Values, concatenate_columns, take_rows
from ..errors import ConfigurationError, PlanError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Outcome
from ..read.report import Report

__all__ = ["DESCRIPTION", "META", "joined", "prediction_table", "reserved_names"]

DESCRIPTION = "prediction.json"
"""File that describes a prediction by partitions, in its folder."""

META = "lsstcutouts.predictions"
"""Key of the Parquet metadata of prediction files."""


def reserved_names(plan: CutoutPlan) -> set[str]:
    """Return the column names that a model must not use."""
    own = {"row", "object_id", "object_hash", "ra", "dec", "tract", "patch", "outcome", "reason"}
    return own | {f"quality_{band}" for band in plan.bands} | set(plan.columns)


def joined(parts: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """Concatenate batches or the predictions of ranks; empty ones are ignored.

    Raises
    ------
    ConfigurationError
        If their columns differ.
    """
    filled = [part for part in parts if len(part.get("object_id", ()))]
    if not filled:  # keeps names and types of the columns
        return dict(max(parts, key=len, default={"object_id": np.zeros(0, np.int64)}))
    names = list(filled[0])
    for part in filled:
        if list(part) != names:
            raise ConfigurationError(
                f"predict_step returned the columns {names} for one batch but {list(part)} for another; return the same "
                "columns for every batch"
            )
    return {name: concatenate_columns([part[name] for part in filled]) for name in names}


def prediction_table(
    plan: CutoutPlan, predicted: Mapping[str, Values], report: Report, metadata: Mapping[str, Any] | None = None
) -> Any:
    """Return an Arrow table with one row per catalog row, in catalog order.

    Parameters
    ----------
    plan
        Plan with the targets and the rejected catalog rows.
    predicted
        ``object_id`` ``(n,)`` (also ``object_hash`` if ids repeat), and the outputs of the model for these, ``(n, ...)``.
    report
        Report of all ranks.
    metadata
        Additional entries for the Parquet metadata.

    Returns
    -------
    pyarrow.Table
        ``row``, ``object_id``, ``ra``, ``dec``, ``tract``, ``patch`` (-1 outside the coverage), the outputs of the model
        (null without a prediction), ``outcome``, ``reason`` (null with a prediction), ``quality_BAND`` with `Quality`
        bits, and the columns of the plan.

    Raises
    ------
    PlanError
        If an object was predicted twice or is not in the plan, or if the plan has a catalog row twice.
    """
    import pyarrow

    lost = plan.rejected
    catalog_row = np.concatenate([plan.row, lost.row]).astype(np.int64)
    order = np.argsort(catalog_row, kind="stable")
    if (np.diff(catalog_row[order]) == 0).any():
        raise PlanError("the plan contains a catalog row twice; make the plan again")
    index_of_target = _target_indices(plan, predicted)  # (n,) target indices
    source = np.full(len(order), -1, np.int64)  # row of ``predicted`` for each catalog row
    source[index_of_target] = np.arange(len(index_of_target))
    source = source[order]
    outcome, quality, causes = _row_outcomes(plan, report, source >= 0, catalog_row[order])
    outside = np.full(len(lost), -1, np.int64)
    columns: dict[str, Any] = {
        "row": catalog_row[order],
        "object_id": take_rows(concatenate_columns([plan.object_id, lost.object_id]), order),
        "ra": np.concatenate([plan.ra, lost.ra])[order],
        "dec": np.concatenate([plan.dec, lost.dec])[order],
        "tract": np.concatenate([plan.tract, outside])[order],
        "patch": np.concatenate([plan.patch, outside])[order],
        **{
            name: _take_or_null(values, source)
            for name, values in predicted.items()
            if name not in {"object_id", "object_hash"}
        },
        "outcome": _dictionary_array(outcome, {int(o): o.name.lower() for o in Outcome}),
        "reason": causes,
        **{f"quality_{band}": quality[:, b] for b, band in enumerate(plan.bands)},
        **{
            name: _take_or_null(concatenate_columns([values, lost.columns[name]]), order)
            for name, values in plan.columns.items()
        },
    }
    about = {
        "version": __version__,
        "plan": plan.fingerprint(),
        "bands": list(plan.bands),
        "size": list(plan.size),
        "repo": plan.repo if plan.pixels is None else plan.pixels.folder,
        "collections": list(plan.collections),
        "dataset_type": plan.dataset_type,
        "rows": len(order),
        "outcomes": _counted(outcome),
        "failures": report.as_dict()["failures"],
        **(metadata or {}),
    }
    return pyarrow.table(columns).replace_schema_metadata({META: json.dumps(about)})


def _counted(outcome: NDArray[np.uint8]) -> dict[str, int]:
    values, counts = np.unique(outcome, return_counts=True)
    return {Outcome(v).name.lower(): int(c) for v, c in zip(values.tolist(), counts, strict=True)}


def _target_indices(plan: CutoutPlan, predicted: Mapping[str, Values]) -> NDArray[np.int64]:
    """Return the target indices of the predicted objects, ``(n,)``."""
    index_of_target, ids = plan.targets_in(predicted), predicted["object_id"]
    unknown = np.flatnonzero(index_of_target < 0)
    if len(unknown):
        raise PlanError(
            f"{len(unknown)} predicted objects are not in the plan, the first one is {ids[unknown[0]]}; predict with the plan of "
            "the data module"
        )
    found, counts = np.unique(index_of_target, return_counts=True)
    twice = found[counts > 1]
    if len(twice):
        raise PlanError(
            f"{len(twice)} objects were predicted more than once, the first one is {plan.object_id[twice[0]]}; give "
            "each rank different rows, as CutoutDataModule does"
        )
    return index_of_target


def _row_outcomes(
    plan: CutoutPlan, report: Report, has: NDArray[np.bool_], catalog_row: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int32], Any]:
    """Return outcome ``(R,)``, quality bits ``(R, B)`` and reason ``(R,)`` of each catalog row."""
    import pyarrow

    whole = Report(plan)  # rejected rows are set, all others are NOT_READ
    there = np.searchsorted(catalog_row, report.row)
    whole.outcome[there], whole.quality[there] = report.outcome, report.quality
    outcome, quality = whole.outcome, whole.quality
    # Batches are read ahead: a target can be read without being predicted.
    outcome[~has & (outcome == Outcome.DELIVERED)] = Outcome.NOT_READ
    outcome[has] = Outcome.DELIVERED
    number, failures = report.first_failures()
    lost, lost_texts = plan.rejected.texts()
    texts = [outcome.text for outcome in Outcome] + [f"{Outcome.READ_ERROR.text}: {f.cause}" for f in failures]
    texts += lost_texts
    index = np.zeros(len(outcome), np.int32)
    for i, one in enumerate(Outcome):
        index[outcome == one] = i
    failed = (number >= 0) & (outcome[there] == Outcome.READ_ERROR)
    index[there[failed]] = len(Outcome) + number[failed]
    index[np.searchsorted(catalog_row, plan.rejected.row)] = len(Outcome) + len(failures) + lost
    distinct = list(dict.fromkeys(texts))  # a row's reason may be that of its outcome
    index = np.array([distinct.index(text) for text in texts], np.int32)[index]
    return outcome, quality, pyarrow.DictionaryArray.from_arrays(pyarrow.array(index, mask=has), distinct)


def _dictionary_array(values: NDArray[np.uint8], names: Mapping[int, str]) -> Any:
    """Return the name of each value as a dictionary-encoded array."""
    import pyarrow

    keys = np.array(sorted(names))
    index = np.searchsorted(keys, values).astype(np.int32)
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(index), [names[key] for key in keys.tolist()])


def _take_or_null(values: Values, source: NDArray[np.int64]) -> Any:
    """Return ``values[source]`` as Arrow values, null where ``source`` is -1; arrays ``(n, D)`` become lists."""
    import pyarrow

    nothing = source < 0
    taken = pyarrow.array(source, mask=nothing)
    if isinstance(values, list):
        return pyarrow.array(values, pyarrow.string()).take(taken)
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1:
        return flat.take(taken)
    width = int(np.prod(values.shape[1:]))
    return pyarrow.FixedSizeListArray.from_arrays(flat, width).take(taken)
