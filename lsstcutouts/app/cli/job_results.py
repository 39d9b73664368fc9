"""What is said at the end of a job over the partitions of a catalog."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bulk.partition_job import JobResult
from ...plan.quality import Outcome
from ...source.amounts import shown_bytes
from ...source.writing import atomic_file

__all__ = ["shown_result", "write_report"]

_NAMED = 10
"""Failures that are printed; the report has all."""


def shown_result(one: JobResult, used_by: str = "") -> str:
    """Return what has been written, for people.

    Parameters
    ----------
    one
        The result.
    used_by
        What takes the output besides LSDB.
    """
    lines = [
        f"{one.folder}: {one.finished} of {one.partitions} partitions, {one.files} files, {shown_bytes(one.bytes)}"
    ]
    lines += [f"  {count:,} rows {Outcome[name.upper()].text}" for name, count in sorted(one.outcomes.items())]
    new = one.finished - one.skipped
    lines.append(f"  {new} partitions in {one.seconds:.0f} s" if new else "  everything was finished before")
    lines += [f"  unreadable, {rows} rows: {cause}" for cause, rows in list(one.failures.items())[:_NAMED]]
    lines += [f"  partition {name} failed: {error}" for name, error in list(one.failed.items())[:_NAMED]]
    if len(one.failed) > _NAMED:
        lines.append(f"  {len(one.failed) - _NAMED} more partitions failed; report.json names all")
    complete = f"  complete: a HATS collection, for lsdb.open_catalog {used_by}".rstrip()
    return "\n".join([*lines, complete if one.complete else "  not complete: the same command continues"])


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what a run has done as ``report.json`` in its folder."""
    with atomic_file(folder / "report.json") as file:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
