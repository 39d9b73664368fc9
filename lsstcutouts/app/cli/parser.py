"""The parser of hydra's own options, on every version of Python."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

__all__ = ["texts_as_help"]


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument whose help is a text."""
        if "help" in options:
            options["help"] = str(options["help"])
        return super().add_argument(*names, **options)


@contextmanager
def texts_as_help() -> Iterator[None]:
    """Let hydra make its parser of texts alone.

    As the help of ``--shell-completion``, hydra 1.3 gives an object that becomes a text when it is shown. From Python
    3.14 on, argparse looks into each help when it is added, and refuses this one ("badly formed help string").
    Only the name ``argparse`` inside hydra's module is replaced, and only in the block.
    """
    from hydra._internal import utils

    names = vars(utils)
    known = names.get("argparse")
    if known is None:  # a hydra that makes its parser elsewhere
        yield
        return
    names["argparse"] = SimpleNamespace(ArgumentParser=_Parser)
    try:
        yield
    finally:
        names["argparse"] = known
