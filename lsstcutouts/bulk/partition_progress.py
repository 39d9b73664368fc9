"""Progress over the partitions of a large catalog."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..source.amounts import shown_bytes, shown_seconds
from ..source.progress import progress_bar
from .finished import PartitionResult

__all__ = ["partition_progress"]


@contextmanager
def partition_progress(title: str, partitions: int, *, shown: bool) -> Iterator[Callable[[PartitionResult], None]]:
    """Show a bar of partitions in the block; yields what takes the result of each.

    Parameters
    ----------
    title
        What is done.
    partitions
        Number of partitions that are left.
    shown
        Whether there is a bar.
    """
    start, rows, size, failed, done = time.monotonic(), 0, 0, 0, 0
    with progress_bar(title, partitions, shown=shown) as bar:

        def update(result: PartitionResult) -> None:
            nonlocal rows, size, failed, done
            rows, size = rows + result.rows, size + result.bytes
            failed, done = failed + bool(result.error), done + 1
            seconds = max(time.monotonic() - start, 1e-3)
            left = seconds / done * (partitions - done)
            state = f"{rows / seconds:,.0f} rows/s, {shown_bytes(size)}, {shown_seconds(left)} left"
            bar(done, state=f"{state}, {failed} failed" if failed else state)

        yield update
