"""Progress bars on standard error, in a terminal or a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Update", "counted", "progress_bar"]


class Update(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int | None = None, state: str = "") -> None:
        """Show how much is done, of how much (by default as before), and what else there is to say."""


@contextmanager
def progress_bar(
    title: str, total: int | None = None, *, shown: bool = True, of_bytes: bool = False, stays: bool = False
) -> Iterator[Update]:
    """Show a bar in the block; yields what moves it.

    Parameters
    ----------
    title
        What is done.
    total
        Of how much, if it is known.
    shown
        Whether there is a bar. (A quiet console would leave an empty widget in a notebook.)
    of_bytes
        Whether bytes are counted.
    stays
        Whether the bar remains after the block.
    """
    count = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (
        TextColumn(title, markup=False),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=not stays, disable=not shown) as bar:
        task = bar.add_task("", total=total, state="")

        def update(done: int, total: int | None = None, state: str = "") -> None:
            bar.update(task, completed=done, total=total, state=state)

        yield update


@contextmanager
def counted(
    title: str, progress: bool | Callable[[int, int], None] | None
) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what takes what is done and of how much: ``progress`` itself, or for True what moves a bar; else None."""
    if progress is True:
        with progress_bar(title) as update:
            yield update
    else:
        yield progress or None
