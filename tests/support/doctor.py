"""Runs single checks of the doctor."""

from pathlib import Path
from typing import Any

from lsstcutouts.app.doctor import Result, Settings, diagnose
from lsstcutouts.testing import SimulatedRepository

GB = 10**9


def one(name: str, settings: Settings | None = None) -> Result:
    (result,) = diagnose(settings, names=[name]).results.values()
    assert bool(result.todo) == (result.status != "pass")
    assert "\n" not in result.detail + result.todo
    return result


def settings_of(repo: SimulatedRepository, root: Path | None = None, **others: Any) -> Settings:
    return Settings(repo=str(root or repo.root), collections=repo.collections, **others)
