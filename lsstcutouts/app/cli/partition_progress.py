"""Progress over the partitions of a large catalog, and what is said at the end."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...bulk.finished import PartitionResult
from ...bulk.partition_job import JobResult
from ...plan.quality import Outcome
from ...source.amounts import shown_bytes
from ...source.writing import atomic_file

__all__ = ["partition_progress", "shown_result", "shown_seconds", "write_report"]

_NAMED = 10
"""Failures that are printed; the report has all."""


@contextmanager
def partition_progress(title: str, partitions: int, *, quiet: bool) -> Iterator[Callable[[PartitionResult], None]]:
    """Show a bar of partitions in the block; yields what takes the result of each.

    Parameters
    ----------
    title
        What is done.
    partitions
        Number of partitions that are left.
    quiet
        Whether nothing is shown.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    start, rows, size, failed, done = time.monotonic(), 0, 0, 0, 0
    with Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True) as bar:
        task = bar.add_task("", total=partitions, state="")

        def update(result: PartitionResult) -> None:
            nonlocal rows, size, failed, done
            rows, size = rows + result.rows, size + result.bytes
            failed, done = failed + bool(result.error), done + 1
            seconds = max(time.monotonic() - start, 1e-3)
            left = seconds / done * (partitions - done)
            state = f"{rows / seconds:,.0f} rows/s, {shown_bytes(size)}, {shown_seconds(left)} left"
            bar.update(task, completed=done, state=f"{state}, {failed} failed" if failed else state)

        yield update


def shown_seconds(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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
