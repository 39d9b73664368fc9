"""The benchmark on a tiny repository: what it measures, compares, advises and writes. No speed is tested."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.machine import Load, load_now
from lsstcutouts.app.benchmark.measured import BenchmarkSettings, sample_of
from lsstcutouts.app.benchmark.result import (
    BenchmarkEntry,
    BenchmarkResult,
    StageShares,
    TileNeed,
    advice,
    limits,
    scatter,
)
from lsstcutouts.app.benchmark.run import benchmark
from lsstcutouts.app.benchmark.ways import ButlerWay, LoaderWay, MemoryWay, ReaderWay, Way, check_pixels, interleaved
from lsstcutouts.app.cli import main
from lsstcutouts.errors import ConfigurationError, PixelMismatchError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulatedRepository

SMALL: dict[str, Any] = {"size": 12, "batch_size": 8, "repeats": 1, "targets": 12, "butler_targets": 3}


def own(repo: SimulatedRepository, **others: Any) -> BenchmarkSettings:
    where = {"repo": str(repo.root), "collections": repo.collections, "catalog": str(repo.truth), "bands": "gri"}
    return BenchmarkSettings.of({**SMALL, **where, "dataset_type": repo.dataset_type, **others})


def entry(rates: tuple[float, ...], cache: str = "empty", threads: int = 1, **others: Any) -> BenchmarkEntry:
    return BenchmarkEntry(
        **{"way": "loader", "workers": 0, "targets": 10, **others}, cache=cache, threads=threads, rates=rates
    )


# Settings and sample.


def test_the_default_settings_are_those_of_the_class() -> None:
    import lsstcutouts.configs
    from omegaconf import OmegaConf

    path = Path(lsstcutouts.configs.__file__).parent / "benchmark.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert BenchmarkSettings.of(values) == BenchmarkSettings()
    assert set(values) - {"defaults", "hydra"} == set(BenchmarkSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"threads": []}, {"planes": "psf"}, {"cache": "cold"}, {"repeats": 1.5}, {"workers": -1}]
)
def test_a_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        BenchmarkSettings.of(wrong)


@pytest.mark.parametrize(
    "given", [{"repo": "x"}, {"repo": "x", "collections": "y"}, {"catalog": "t.parquet"}, {"plan": "p", "repo": "x"}]
)
def test_a_repository_comes_with_collections_and_a_catalog(given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"belong together: add .*=|remove repo="):
        BenchmarkSettings.of(given)


def test_the_sample_has_boxes_inside_their_files_in_every_band(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    sample = sample_of(own(dp2_repo, targets=30))
    assert len(sample.rows) == 30
    assert sample.patches == 2  # two of the four have all bands
    for row in sample.rows.tolist():
        with open_coadd(sample.plan.files.uri[sample.plan.patches.files[sample.plan.primary[row], 0]]) as coadd:
            assert coadd.bbox.contains(sample.box(row))
    sample.plan.save(tmp_path / "plan.parquet")
    saved = sample_of(BenchmarkSettings.of({"plan": str(tmp_path / "plan.parquet"), "targets": 30}))
    np.testing.assert_array_equal(saved.rows, sample.rows)


def test_bands_that_nothing_has_together(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(ConfigurationError, match="give bands= that the repository holds there"):
        sample_of(own(dp2_repo, bands="griz"))


# All ways give the same pixels, or nothing is measured.


@pytest.mark.parametrize("planes", [["image"], ["image", "variance", "mask"]])
def test_every_way_gives_the_same_pixels(dp2_repo: SimulatedRepository, planes: list[str]) -> None:
    settings = own(dp2_repo, planes=planes)
    sample, cache = sample_of(settings), TileCache("100 MB")
    reader = ReaderWay(sample, settings, "empty", cache)
    loaders = [LoaderWay(sample, settings, state, cache, threads=n) for state in ("empty", "full") for n in (1, 2)]
    with closing(ButlerWay(sample, 3)) as butler:
        check_pixels([butler, reader, *loaders, MemoryWay(sample, settings)], sample)


class Shifted(Way):
    """A way that reads beside the target."""

    name = "shifted"

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._shape = shape

    def prepare(self) -> Callable[[], int]:
        return lambda: 1

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        return {"image": np.ones((len(rows), *self._shape), np.float32)}


def test_a_way_with_other_pixels_stops_the_benchmark(dp2_repo: SimulatedRepository) -> None:
    settings = own(dp2_repo)
    sample = sample_of(settings)
    reader = ReaderWay(sample, settings, "empty", TileCache("100 MB"))
    with pytest.raises(PixelMismatchError, match="'shifted' and 'reader' give different pixels of"):
        check_pixels([reader, Shifted((3, 12, 12))], sample)


def test_ways_take_turns() -> None:
    order = list[str]()

    class Noted(Shifted):
        def __init__(self, name: str, most_runs: int = 10) -> None:
            self.name, self.most_runs = name, most_runs

        def prepare(self) -> Callable[[], int]:
            return lambda: len(order.append(self.name) or order)

    rates = interleaved([Noted("a"), Noted("b"), Noted("c", 1)], 3, least_seconds=0.0)
    assert order == ["a", "b", "c", "a", "b", "a", "b"]
    assert [len(of) for of in rates] == [3, 3, 1]
    assert [len(of) for of in interleaved([Noted("a")], 3, least_seconds=0.0, most_seconds=0.0)] == [1]


def test_the_start_of_worker_processes_is_no_part_of_a_rate(dp2_repo: SimulatedRepository) -> None:
    settings = own(dp2_repo)
    with closing(LoaderWay(sample_of(settings), settings, "full", TileCache("9 MB"), threads=1, workers=1)) as way:
        one_pass = way.prepare()
        assert way.start_seconds is not None
        assert one_pass() == 12


# Stages and words.


def test_an_idle_thread_is_no_time_spent() -> None:
    one_of_two = StageShares.of({"decode": 3.0, "assemble": 1.0, "hand-over": 9.0}, wall=4.0, cutouts=10)
    assert one_of_two.seconds == {"decode": 0.3, "assemble": 0.1, "other": 0.0}
    assert one_of_two.threads_used == 1.0
    assert one_of_two.largest == "decode"
    waiting = StageShares.of({"decode": 1.0}, wall=4.0, cutouts=1)
    assert waiting.share("other") == 0.75


def test_limits_name_the_largest_stage_of_each_state_once() -> None:
    decode, copy = StageShares({"decode": 0.8, "assemble": 0.2}, 1.0), StageShares({"assemble": 1.0}, 1.0)
    entries = [
        entry((10.0,), stages=decode),
        entry((9.0,), threads=2, stages=copy),
        entry((50.0,), "full", stages=copy),
    ]
    first, later = limits(entries, batch_size=100)
    assert "first epoch (empty cache): 80% of the work is decoding" in first
    assert "if its step takes less than 10,000 ms a batch of 100" in first
    assert "later epochs (cache filled by the first): 100% of the work is copying" in later
    assert "less than 2,000 ms" in later


ENOUGH = TileNeed(1 << 30, 2 << 30)


def test_advice_names_each_setting_once_and_only_for_clear_differences() -> None:
    disagreeing = [
        entry((100.0, 110.0)),
        entry((200.0, 210.0), threads=2),
        entry((2000.0, 2100.0), "full"),
        entry((1000.0, 1100.0), "full", threads=2),
    ]
    (told,) = advice(disagreeing, ENOUGH, disturbed=False)
    assert told.startswith("threads=1: 2,050 cutouts/s instead of 1,050 with 2")
    (cache,) = advice(
        disagreeing, TileNeed(4 << 30, 1 << 30), disturbed=False
    )  # then the first epoch decides: the default
    assert cache.startswith("cache_bytes:")
    overlapping = [entry((1000.0, 2000.0), "full"), entry((900.0, 1500.0), "full", threads=2)]
    assert advice(overlapping, ENOUGH, disturbed=False)[0].startswith("nothing;")
    assert "not compared; measure again" in advice(disagreeing, ENOUGH, disturbed=True)[0]
    workers = entry((9000.0,), "full", workers=2, start_seconds=4.0)
    (told,) = advice([*disagreeing, workers], ENOUGH, disturbed=False)
    assert told.startswith("num_workers=2: 9,000 cutouts/s")
    assert "started once, in 4.0 s" in told
    assert len(advice([*disagreeing, workers], TileNeed(4 << 30, 1 << 30), disturbed=False)) == 1


def test_runs_that_scatter_are_a_disturbance() -> None:
    assert scatter([entry((100.0, 110.0)), entry((200.0, 220.0)), entry((1.0, 9.0))]) == ""
    assert "differ by a factor of 2.0" in scatter([entry((100.0, 200.0)), entry((50.0, 100.0)), entry((1.0, 1.0))])


@pytest.mark.parametrize(("percent", "busy"), [(35.2, True), (0.5, False)])
def test_a_busy_machine_is_named_first(tmp_path: Path, percent: float, busy: bool) -> None:
    pressure = tmp_path / "cpu"
    pressure.write_text(f"some avg10={percent} avg60=1.00 avg300=1.00 total=1\n")
    load = load_now(pressure)
    assert (load.busy, load.value) == (busy, percent)
    assert load.text.startswith("WARNING") == busy
    assert load_now(tmp_path / "none").source == "load average"


# The verb.

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def found(
    dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BenchmarkResult, dict[str, Any]]:
    """Return the result of a small run and what its file holds."""
    folder = tmp_path_factory.mktemp("benchmark")
    result = benchmark(own(dp2_repo, output=str(folder), threads=[1, 2]))
    written: dict[str, Any] = json.loads((folder / "benchmark.json").read_text())
    assert written == json.loads(json.dumps(result.as_dict()))
    return result, written


def test_the_file_holds_figures_machine_and_settings(found: tuple[BenchmarkResult, dict[str, Any]]) -> None:
    _, told = found
    assert {"cpu", "cores", "memory", "kernel", "python", "packages", "lsstcutouts", "commit", "date"} <= set(
        told["machine"]
    )
    assert {"numpy", "torch", "imagecodecs", "lsst-images"} <= set(told["machine"]["packages"])
    assert set(told["load"]) == {"source", "value", "busy", "text"}
    assert {e["way"] for e in told["entries"]} == {"butler.get loop", "reader", "loader", "tensors in memory"}
    butler = told["entries"][0]
    for one in told["entries"]:
        assert 0 < one["min"] <= one["median"] <= one["max"]
        assert one["ratio_to_butler_get"] == pytest.approx(one["median"] / butler["median"])
        if one["stages"]:
            assert sum(one["stages"]["shares"].values()) == pytest.approx(1.0)
            assert one["stages"]["seconds"]["collate"] > 0.0
            assert (one["stages"]["seconds"]["decode"] == 0.0) == (one["cache"] == "full")
            assert (one["stages"]["hit_rate"] == 1.0) == (one["cache"] == "full")


def test_threads_that_have_nothing_to_share_are_not_measured(found: tuple[BenchmarkResult, dict[str, Any]]) -> None:
    _, told = found
    assert {e["threads"] for e in told["entries"]} == {1}
    assert told["left_out"] == ["threads=2: 12 targets are too few to be shared by so many threads"]


def test_the_picture_shows_something(found: tuple[BenchmarkResult, dict[str, Any]]) -> None:
    pixels = imread(found[1]["files"][0])
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[::5, ::5, 0])) > 20


def test_the_load_comes_before_the_table(found: tuple[BenchmarkResult, dict[str, Any]]) -> None:
    from dataclasses import replace

    from rich.console import Console

    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    entries = [
        replace(e, threads=16, rates=(154_321.0, 1_543_210.0)) if e.workers or e.stages else e for e in found[0].entries
    ]
    busy = Load("x", 50.0, True, "WARNING: the machine is busy")
    console.print(replace(found[0], load=busy, entries=entries).shown())
    console.file.close()
    shown = console.export_text()
    assert shown.startswith("WARNING: the machine is busy")
    assert "…" not in shown  # the table fits into 80 columns


def test_dp1_is_measured_without_butler_get(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    result = benchmark(own(dp1_repo, output=str(tmp_path), threads=1, cache="empty"))
    assert "butler.get loop" not in {e.way for e in result.entries}
    assert any("LSST stack" in text for text in result.left_out)


def test_the_command_measures_a_saved_plan(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.parquet"
    build_plan(dp2_repo.root, dp2_repo.truth, collections=dp2_repo.collections, bands="gri", size=12).save(path)
    common = ["benchmark", f"plan={path}", "targets=5", "butler_targets=2", "repeats=1", f"output={tmp_path / 'out'}"]
    assert main([*common, "cache=empty", "json=true"]) == 0
    assert json.loads(capfd.readouterr().out)["sample"]["targets"] == 5
    assert main([*common, "cache=empty"]) == 0
    shown = capfd.readouterr().out
    assert "butler.get loop" in shown
    assert "written:" in shown
