"""The maintainers' scripts run, on a tiny repository."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tile_bytes import compressed_units, decoded
from lsstcutouts.app.benchmark.measured import BenchmarkSettings, sample_of
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.memory import Memory
from lsstcutouts.testing import SimulatedRepository


@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("peers", ["peer_targets=3", "butler_targets=2"]),
        ("ceilings", ["copy_bytes=1000000"]),
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


def test_tiles_under_the_boxes_are_decoded_once(dp2_repo: SimulatedRepository) -> None:
    planes = ["image", "variance", "mask"]
    sample = sample_of(BenchmarkSettings.of({"demo": str(dp2_repo.root), "size": 12, "planes": planes, "bands": "gri"}))
    parts, memory = compressed_units(sample), Memory()
    for patch, band, _, path in sample.files():
        with open_coadd(path) as coadd:
            for plane in planes:
                mine = [part for part in parts if (part.patch, part.band, part.plane) == (patch, band, plane)]
                units = [unit for part in mine for unit in part.units.tolist()]
                assert units == sorted(set(units))
                whole = coadd.read_units(plane, units)
                quantisation = mine[0].layout.quantisation
                step = 0.0 if quantisation is None else float(quantisation.scale.max())
                for found, expected in zip([u for part in mine for u in decoded(part, memory)], whole, strict=True):
                    np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=step)
