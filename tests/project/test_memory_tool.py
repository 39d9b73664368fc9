"""The tool that measures the resident set, for a moment."""

import argparse
import csv
from pathlib import Path

import pytest
from matplotlib.image import imread

from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from ..support.memory import Faked, Limit, draw, verdict, watched, write

SETTINGS = {"batch": 16, "threads": 1}
LONG = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def plan_file(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.parquet"
    build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32).save(path)
    return path


UNDER_WAY = 2 * 8_000_000
"""Bytes of tiles of the batches under way, which are there whatever the budget."""


@pytest.mark.parametrize(
    ("minutes", "workers"),
    [
        (0.05, 0),
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(10, 0, marks=LONG),
        pytest.param(10, 2, marks=LONG),
    ],
)
def test_a_cache_smaller_than_its_working_set_keeps_the_bound(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], minutes: float, workers: int
) -> None:
    settings = argparse.Namespace(cache="1 MB", minutes=minutes, workers=workers, **SETTINGS)
    first, samples, alive = watched(plan_file, settings, Limit())
    assert alive
    assert samples[-1].stats.evictions > 0
    assert all(s.stats.bytes <= max(0, 1_000_000 - s.stats.reserved) + UNDER_WAY for s in samples)
    assert verdict(first, samples)
    assert "the bound held" in capsys.readouterr().out
    write(samples, tmp_path / "memory.csv")
    draw(first, samples, tmp_path / "memory.png", "a moment")
    with (tmp_path / "memory.csv").open() as file:
        assert [int(row["resident"]) for row in csv.DictReader(file)] == [s.resident for s in samples]
    assert imread(tmp_path / "memory.png").shape[1] > 500


def test_under_a_limit_that_is_used_up_little_is_kept_and_reading_goes_on(plan_file: Path, tmp_path: Path) -> None:
    """A faked limit below what the imports take: everything is short from the first look on."""
    limit = Faked(tmp_path, 100_000_000)
    limit.update(100_000_000)
    _, samples, alive = watched(
        plan_file, argparse.Namespace(cache="50 MB", minutes=0.05, workers=0, **SETTINGS), limit
    )
    assert alive
    assert samples[-1].stats.bytes <= UNDER_WAY
    assert samples[-1].cutouts > samples[0].cutouts
