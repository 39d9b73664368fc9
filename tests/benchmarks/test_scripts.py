"""The maintainers' scripts run, on a tiny repository."""

import json
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.common import OurWay, scene, simulated
from benchmarks.page import filled
from benchmarks.page import main as draw_page
from benchmarks.peers import difference, peers_of
from benchmarks.scaling import crowded
from benchmarks.transforms import TRANSFORMS
from lsstcutouts.app.benchmark.measured import BenchmarkSettings
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulatedRepository

SETTINGS = BenchmarkSettings.of({"size": 12, "targets": 20, "bands": "gri"})


def figures(
    script: str, own: list[str], repository: SimulatedRepository, capfd: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """Run a script and return its JSON."""
    common = [f"demo={repository.root}", "size=12", "targets=300", "repeats=1", "threads=[1]", "bands=gri"]
    import_module(f"benchmarks.{script}").main([*common, *own])
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert found["figures"]
    return found


def test_large_plan_prints_figures(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (figure,) = figures("large_plan", ["patches=12", f"folder={tmp_path}"], dp2_repo, capfd)["figures"]
    assert (figure["delivered"], figure["patches"], figure["files"]) == (300, 12, 36)


def test_the_scripts_fill_the_page(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    both = f"repo=[{dp2_repo.root},{dp2_repo.root}]"
    own = {
        "peers": [both, "dense_targets=4", "sparse_targets=2", "butler_targets=2"],
        "kernel": [f"repo={dp2_repo.root}", "tile_rows=1", "builds=[host]"],
        "threads": [both, "dense_targets=4", "sparse_targets=2", "threads=[1,2]"],
        "scaling": [
            *(f"repo={dp2_repo.root}", f"folder={tmp_path}", "sides=[1,2,3]", "quick=true", "cells=1"),
            *("patch_targets=8", "counts=[20,40]", "sizes=[8,12]"),
        ],
        "layouts": [
            f"folder={tmp_path / 'layouts'}",
            "rows=40",
            "partition_bytes=40000",
            "seconds=0",
            "cold_seconds=0",
        ],
    }
    page = tmp_path / "speed.md"
    page.write_text("".join(f"{name}\n<!-- {name}: from benchmarks -->\nold\n<!-- end -->\n" for name in own))
    for name, settings in own.items():
        quick = [] if name in {"kernel", "layouts"} else ["least_seconds=0"]
        found = figures(name, [*settings, *quick], dp2_repo, capfd)
        assert {"machine", "load"} <= found.keys()
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        if name == "peers":
            measured = [row for row in found["figures"] if "cutouts/s" in row]
            assert {row["pixels"] for row in measured} == {"same"}
            assert {row["scene"] for row in measured} == {"dense", "sparse"}
        if name == "scaling":
            points = [row["of"] for row in found["figures"] if (row["series"], row["tiles"]) == ("patches", "empty")]
            assert points == ["1", "4"]
    draw_page([*(str(tmp_path / f"{name}.json") for name in own), f"page={page}"])
    text = page.read_text()
    assert "\nold\n" not in text
    assert text.count("\n| --- |") == len(own)
    for name in own:
        assert imread(tmp_path / "images" / f"speed-{name}.png").ndim == 3


def test_exports_prints_figures(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [f"folder={tmp_path / 'export'}", "rows=60", "partition_bytes=200000", "most_seconds=0"]
    (figure,) = figures("exports", own, dp2_repo, capfd)["figures"]
    assert figure["rows"] > 40
    assert min(value for name, value in figure.items() if "rows/s" in name or "over" in name) > 0


def test_transforms_are_measured_beside_the_loader(
    dp2_repo: SimulatedRepository, capfd: pytest.CaptureFixture[str]
) -> None:
    some = [name for name in TRANSFORMS if "," not in name and name != "RandomRotation"]
    given = ["batch_size=8", "least_seconds=0", f"transforms=[{','.join(some)}]"]
    found = figures("transforms", given, dp2_repo, capfd)["figures"]
    assert [row["what"] for row in found] == ["loader", "loader", *some]
    assert all(row["ms/batch"] > 0 and row["over loader, memory"] > 0 for row in found)
    with pytest.raises(ConfigurationError, match="must be out of NoiseAsinh"):
        figures("transforms", ["transforms=[Nothing]"], dp2_repo, capfd)
    with pytest.raises(ConfigurationError, match="are fewer than batch_size=500"):
        figures("transforms", ["batch_size=500"], dp2_repo, capfd)


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for 'peers'"):
        filled("nothing", "peers", "text")


def test_a_missing_repository_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--help says how to write one"):
        simulated(tmp_path / "absent")


@pytest.mark.parametrize("planes", [("image", "variance"), ("image", "variance", "mask")])
def test_peers_give_the_same_pixels_in_every_plane(dp2_repo: SimulatedRepository, planes: tuple[str, ...]) -> None:
    sample = scene(dp2_repo, SETTINGS, planes=planes)
    ours = OurWay(sample, SETTINGS, "reader", "empty", TileCache("100 MB"), 1)
    ways, reasons = peers_of(sample)
    assert {difference(way, ours, sample.rows) for way in ways} == {"same"}
    assert ("lsst.images reader" in reasons) == ("mask" in planes)
    assert ("torchfits subset reader" in reasons) == (find_spec("torchfits") is None)


def test_a_difference_is_told(dp2_repo: SimulatedRepository) -> None:
    sample = scene(dp2_repo, SETTINGS)
    ours = OurWay(sample, SETTINGS, "reader", "empty", TileCache("100 MB"), 1)

    class Off(OurWay):
        def pixels(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            made = dict(super().pixels(rows))
            made["image"][0, 0, 0, 0] += 1.0
            return made

    off = Off(sample, SETTINGS, "reader", "empty", TileCache("100 MB"), 1)
    assert difference(off, ours, sample.rows).startswith("image: 1 of ")


def test_states_of_the_cache_are_what_they_say(dp2_repo: SimulatedRepository) -> None:
    sample = scene(dp2_repo, SETTINGS, per_patch=3)
    _, counts = np.unique(sample.plan.primary[sample.rows], return_counts=True)
    assert counts.max() <= 3
    for state, decodes in (("empty", True), ("memory", False)):
        way = OurWay(sample, SETTINGS, "loader", state, TileCache("100 MB"), 1)
        way.prepare()()
        one_pass, before = way.prepare(), way.tiles.stats().misses
        assert one_pass() == len(sample.rows)
        assert (way.tiles.stats().misses > before) == decodes
    for state in ("new", "first"):
        way = OurWay(sample, SETTINGS, "reader", state, TileCache("100 MB"), 1)
        one_pass, kept = way.prepare(), way.tiles
        assert one_pass() == len(sample.rows)
        assert way.prepare() is not one_pass  # another reader, which knows no file
        assert (way.tiles is kept) == (state == "first")
        assert way.tiles.stats().entries == 0


def test_crowded_targets_are_spread_evenly(dp2_repo: SimulatedRepository) -> None:
    sample = scene(dp2_repo, SETTINGS)
    rows = crowded(replace(sample, rows=np.arange(10)), 40).rows
    np.testing.assert_array_equal(rows, np.repeat(np.arange(10), 4))
