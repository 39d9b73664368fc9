"""The numbered sentences of docs/geometry.md, and the tests that hold the package to them."""

import re
from collections.abc import Callable
from pathlib import Path

CONTRACT = Path(__file__).parents[2] / "docs" / "geometry.md"


def sentence[F: Callable[..., object]](*numbers: int) -> Callable[[F], F]:
    """Say which sentences a test holds the package to."""
    assert set(numbers) <= set(sentences())
    return lambda test: test


def sentences() -> list[int]:
    """Return the numbers of the contract's sentences."""
    return [int(n) for n in re.findall(r"^(\d+)\. ", CONTRACT.read_text(), re.MULTILINE)]


def proven() -> set[int]:
    """Return the numbers that tests name."""
    tests = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    return {int(n) for names in re.findall(r"^@sentence\(([\d, ]+)\)$", tests, re.MULTILINE) for n in names.split(",")}
