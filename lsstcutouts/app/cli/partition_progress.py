"""Progress over the partitions of a large catalog."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...bulk.finished import PartitionResult
from ...source.amounts import shown_bytes

__all__ = ["partition_progress", "shown_seconds"]


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
