"""Where the cache is, and its budget, as the environment says."""

from pathlib import Path

import pytest

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.source.disk.cache_settings import cache_budget, cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "/home/someone/.cache/lsstcutouts"),
        ({"XDG_CACHE_HOME": "/scratch/x"}, "/scratch/x/lsstcutouts"),
        ({"XDG_CACHE_HOME": ""}, "/home/someone/.cache/lsstcutouts"),
        ({"LSSTCUTOUTS_CACHE": "/fast", "XDG_CACHE_HOME": "/scratch/x"}, "/fast"),
        ({"LSSTCUTOUTS_CACHE": "~/fast"}, "/home/someone/fast"),
        ({"LSSTCUTOUTS_CACHE": ""}, None),
        ({"LSSTCUTOUTS_CACHE": "0"}, None),
        ({"LSSTCUTOUTS_CACHE": "Off"}, None),
        ({"LSSTCUTOUTS_CACHE": "none"}, None),
    ],
)
def test_the_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None) -> None:
    for name in ("LSSTCUTOUTS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (None if expected is None else Path(expected))


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), ("20 GB", 20_000_000_000), ("1000000", 1_000_000), ("0", 0)]
)
def test_the_budget(monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", text)
    assert cache_budget() == expected


def test_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSSTCUTOUTS_CACHE_BYTES", raising=False)
    assert cache_budget() is None


def test_a_wrong_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "much")
    with pytest.raises(
        ConfigurationError, match=r"LSSTCUTOUTS_CACHE_BYTES='much' is not a number of bytes; use .*20 GB"
    ):
        cache_budget()
