"""The maintainers' scripts run, on a tiny repository."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.testing import SimulatedRepository


@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("peers", ["peer_targets=3", "butler_targets=2"]),
        ("kernel", ["tiles=4"]),
        ("threads", []),
        ("scaling", ["counts=[20,40]"]),
        ("large_plan", ["patches=12"]),
    ],
)
def test_a_script_prints_figures(
    script: str, own: list[str], dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = [f"demo={dp2_repo.root}", "size=12", "targets=300", "repeats=1", "threads=[1]", "bands=gri"]
    folder = [f"folder={tmp_path}"] if script == "large_plan" else []
    import_module(f"benchmarks.{script}").main([*common, *own, *folder])
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert found["figures"]
    if script == "large_plan":
        (figure,) = found["figures"]
        assert (figure["delivered"], figure["patches"], figure["files"]) == (300, 12, 36)
