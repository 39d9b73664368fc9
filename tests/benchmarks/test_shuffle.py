"""Shuffle widths compared, on a tiny repository."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks.shuffle import main
from lsstcutouts.testing import SimulatedRepository


def test_widths_are_compared_with_both_ends(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["widths=[1,4]", "size=12", "batch_size=8", "wide_cache=2.0"]
    main([f"wide={dp2_repo.root}", f"output={tmp_path / 'shuffle.png'}", *given])
    none, one, four, full = json.loads(capfd.readouterr().out)["figures"]
    assert [entry["name"] for entry in (none, one, four, full)] == ["none", "1", "4", "full"]
    assert none["distance"] < one["distance"] < full["distance"]
    assert all(entry["decodes"] == 0 for entry in (none, one, four, full))  # the cache holds all of the epoch before
    assert imread(tmp_path / "shuffle.png").ndim == 3
