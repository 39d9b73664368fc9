"""A workaround for hydra's argument parser on Python 3.14."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

__all__ = ["texts_as_help"]


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, with its help as a string."""
        if "help" in options:
            options["help"] = str(options["help"])
        return super().add_argument(*names, **options)


@contextmanager
def texts_as_help() -> Iterator[None]:
    """Convert the help of hydra's options to strings in the block.

    Hydra 1.3 passes an object as the help of ``--shell-completion``. Since Python 3.14, argparse checks each help when it is
    added and rejects this one ("badly formed help string"). Only the name ``argparse`` in hydra's module is replaced.
    """
    from hydra._internal import utils

    names = vars(utils)
    known = names.get("argparse")
    if known is None:  # another version of hydra
        yield
        return
    names["argparse"] = SimpleNamespace(ArgumentParser=_Parser)
    try:
        yield
    finally:
        names["argparse"] = known
