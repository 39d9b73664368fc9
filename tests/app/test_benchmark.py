"""The benchmark on a tiny repository: what it measures, compares, tells and writes. No speed is tested."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from lsstcutouts.app.benchmark.bare import bare_decode, compressed_units, decoded
from lsstcutouts.app.benchmark.entries import Entry, Profile, ceiling_of
from lsstcutouts.app.benchmark.fields import Field, ensure_repository, field_of, own_field
from lsstcutouts.app.benchmark.planning import measure_planning
from lsstcutouts.app.benchmark.settings import Regime, Settings, regimes_of, scenes_of
from lsstcutouts.app.benchmark.throughput import Scenery, check_pixels, stages_of
from lsstcutouts.app.benchmark.timing import MANY, interleaved
from lsstcutouts.app.benchmark.words import advice
from matplotlib.image import imread
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.run import benchmark
from lsstcutouts.app.cli import main
from lsstcutouts.errors import ConfigurationError, PixelMismatchError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.memory import Memory
from lsstcutouts.fits.stages import STAGES
from lsstcutouts.testing import SimulatedRepository

SMALL: dict[str, Any] = {"density": "dense", "size": 12, "batch_size": 8, "repeats": 1, "least_seconds": 0.0}


def settings(repo: SimulatedRepository, **others: Any) -> Settings:
    named = {"dense": str(repo.root), "sparse": str(repo.root), "release": repo.release}
    return Settings.of({**SMALL, **named, "workers": 0, **others})


def field(repo: SimulatedRepository, **others: Any) -> Field:
    chosen = settings(repo, **others)
    return field_of(chosen, scenes_of(chosen)[0], repo)


def scenery(repo: SimulatedRepository, **others: Any) -> Scenery:
    return Scenery(field(repo, **others), settings(repo, **others))


def entry(way: str, rate: float, **others: Any) -> Entry:
    known = {"release": "dp2", "density": "dense", "size": 64, "planes": "image", "cache": "", "order": ""}
    return Entry(**{"way": way, **known, "threads": 1, "workers": 0, "targets": 10, "rates": (rate,), **others})


# What is measured.


def test_the_default_settings_are_those_of_the_class() -> None:
    import lsstcutouts.configs
    from omegaconf import OmegaConf

    path = Path(lsstcutouts.configs.__file__).parent / "benchmark.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert Settings.of(values) == Settings()
    assert set(values) - {"defaults", "hydra"} == set(Settings.__dataclass_fields__)


def test_regimes_are_the_product_of_the_settings() -> None:
    chosen = Settings.of({"workers": [0, 2], "threads": [1, 2], "order": ["shuffled"]})
    dense, sparse = scenes_of(chosen)
    found = regimes_of(chosen, dense)
    assert [(r.cache, r.threads, r.workers) for r in found] == [
        *(("cold", 1, 0), ("cold", 2, 0), ("cold", 1, 2)),
        *(("cleared", 1, 0), ("cleared", 2, 0)),
        *(("warm", 1, 0), ("warm", 2, 0), ("warm", 1, 2)),
    ]
    assert {(r.cache, r.workers) for r in regimes_of(chosen, sparse)} == {("cold", 0), ("cleared", 0)}
    assert [r.cores for r in found[:3]] == [1, 2, 2]


def test_everything_is_every_value_of_every_setting() -> None:
    chosen = Settings.of({"full": True})
    scenes = scenes_of(chosen)
    assert {(s.release, s.density) for s in scenes} == {(r, d) for r in ("dp1", "dp2") for d in ("dense", "sparse")}
    assert {(s.size, s.planes) for s in scenes} == {*((n, "image") for n in (32, 64, 128, 256)), (64, "all")}
    assert {r.workers for r in regimes_of(chosen, scenes[-1])} == {0, 1, 2}


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"threads": []}, {"release": "dp9"}, {"planes": "mask"}, {"device": "tpu"}, {"repeats": 1.5}],
)
def test_a_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Settings.of(wrong)


def test_a_repository_of_another_release_is_refused(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(ConfigurationError, match="a dp2 repository"):
        ensure_repository(settings(dp2_repo, release="dp1"), "dp1", "dense")


def test_dense_targets_share_a_patch_and_sparse_ones_are_few_in_each(dp2_repo: SimulatedRepository) -> None:
    dense = field(dp2_repo, targets=5)
    assert len(dense.rows) == 5
    assert len(np.unique(dense.plan.primary[dense.rows])) == 1
    sparse = field(dp2_repo, density="sparse", targets_per_patch=3)
    assert np.unique(sparse.plan.primary[sparse.rows], return_counts=True)[1].tolist() == [3, 3]  # two have all bands
    for row in sparse.rows.tolist():
        with open_coadd(sparse.plan.files.uri[sparse.plan.patches.files[sparse.plan.primary[row], 0]]) as coadd:
            assert coadd.bbox.contains(sparse.box(row))


# All ways give the same pixels, or nothing is measured.


@pytest.mark.parametrize("planes", ["image", "all"])
def test_every_way_gives_the_same_pixels(dp2_repo: SimulatedRepository, planes: str) -> None:
    with closing(scenery(dp2_repo, planes=planes, threads=1)) as made:
        ways = [way for way, _ in made.ways()]
        assert {way.name for way in ways} == {
            *("butler.get", "astropy section", "fitsio slices"),
            *("bare decode", "bare copy", "in memory", "reader", "loader"),
        }
        check_pixels(ways, made.field)
        assert set(ways[-1].pixels(made.field.rows[:2])) == set(made.field.scene.names)


def test_dp1_has_all_ways_but_the_butlers(dp1_repo: SimulatedRepository) -> None:
    with closing(scenery(dp1_repo, planes="all", threads=1)) as made:
        ways = [way for way, _ in made.ways()]
        assert "butler.get" not in {way.name for way in ways}
        assert any("LSST stack" in text for text in made.left_out)
        check_pixels(ways, made.field)


class Shifted:
    """A way that reads beside the target."""

    name = "shifted"
    most_runs = MANY

    def __init__(self, field: Field) -> None:
        self._field = field

    def prepare(self) -> Callable[[], int]:
        return lambda: 1

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        shape = len(rows), len(self._field.plan.bands), *self._field.plan.size
        return {"image": np.ones(shape, np.float32)}

    def close(self) -> None:
        pass


def test_a_way_with_other_pixels_stops_the_benchmark(dp2_repo: SimulatedRepository) -> None:
    told = "'shifted' and 'butler.get' give other pixels of dp2 dense, 12 px"
    with closing(scenery(dp2_repo)) as made, pytest.raises(PixelMismatchError, match=told):
        check_pixels([made.peers[0], Shifted(made.field)], made.field)


@pytest.mark.parametrize("threads", [1, 2])
def test_bare_decode_decodes_the_units_under_the_boxes_once(dp2_repo: SimulatedRepository, threads: int) -> None:
    one = field(dp2_repo, planes="all")
    parts = compressed_units(one)
    for patch, band, _, path in one.files():
        with open_coadd(path) as coadd:
            boxes = [one.box(r).relative_to(coadd.bbox.start) for r in one.rows[one.plan.primary[one.rows] == patch]]
            for plane in one.scene.names:
                under = sorted({unit for box in boxes for unit in coadd.layout(plane).units_under(box)})
                mine = [p for p in parts if (p.patch, p.band, p.plane) == (patch, band, plane)]
                assert [unit for p in mine for unit in p.units.tolist()] == under
    memory = Memory()
    assert bare_decode(parts, threads, memory) == sum(u.size for part in parts for u in decoded(part, memory)) > 0


def test_bare_decode_gives_the_pixels_of_the_file(dp2_repo: SimulatedRepository) -> None:
    one = field(dp2_repo, planes="all")
    memory = Memory()
    for part in compressed_units(one):
        with open_coadd(one.plan.files.uri[one.plan.patches.files[part.patch, part.band]]) as coadd:
            units = zip(
                decoded(part, memory), coadd.read_units(part.plane, part.units.tolist()), part.rows, strict=True
            )
            for found, whole, rows in units:
                assert len(found) >= min(rows, len(whole))
                np.testing.assert_array_equal(found, whole[: len(found)])


def test_ways_take_turns() -> None:
    order = list[str]()

    class Noted(Shifted):
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self) -> Callable[[], int]:
            return lambda: len(order.append(self.name) or order)

    dear = Noted("c")
    dear.most_runs = 1
    rates = interleaved([Noted("a"), Noted("b"), dear], 3, 0.0)
    assert order == ["a", "b", "c", "a", "b", "a", "b"]
    assert [len(of) for of in rates] == [3, 3, 1]


# Figures of figures.


def test_cold_passes_are_measured_against_decoding_and_warm_ones_against_copying() -> None:
    decode, copy = entry("bare decode", 1000.0, threads=2), entry("bare copy", 20000.0)
    entries = [entry("bare decode", 600.0), decode, copy, entry("butler.get", 10.0)]
    cold = entry("loader", 900.0, cache="cold", threads=1, workers=2)
    warm = entry("reader", 15000.0, cache="warm")
    assert ceiling_of(cold, entries) is decode
    assert cold.as_dict(entries)["ratio_to_ceiling"] == 0.9
    assert cold.as_dict(entries)["ratio_to_butler_get"] == 90.0
    assert ceiling_of(warm, entries) is copy
    assert ceiling_of(copy, entries) is None
    assert entry("loader", 1.0, cache="cold", size=32).as_dict(entries)["ratio_to_ceiling"] is None


def test_stages_add_up_to_the_time_that_passed() -> None:
    stages = stages_of({"decode": 3.0, "assemble": 1.0}, wall=2.5, threads=2, cutouts=10)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == pytest.approx(0.25)
    assert stages["decode"] == pytest.approx(0.15)
    assert stages["hand-over"] == pytest.approx(0.05)
    assert min(stages_of({"decode": 3.0}, wall=1.0, threads=2, cutouts=1).values()) == 0.0


# Words.


def profile(shares: dict[str, float], misses: int = 100, evictions: int = 0, **others: Any) -> Profile:
    one = entry("loader", 900.0, **{"cache": "cold", "order": "shuffled", **others})
    return Profile(one, shares, misses=misses, distinct=100, evictions=evictions)


@pytest.mark.parametrize(
    ("shares", "threads", "cores", "told"),
    [
        (
            {"decode": 0.8, "assemble": 0.2},
            1,
            4,
            "decoding takes 80% of the thread time: more threads help (threads=4;",
        ),
        ({"decode": 0.8, "assemble": 0.2}, 4, 4, "every core decodes already"),
        ({"read": 0.6, "decode": 0.4}, 1, 2, "reading bytes takes 60%"),
        ({"assemble": 0.9, "collate": 0.1}, 1, 2, "copying pixels takes 90%"),
        ({"hand-over": 0.7, "decode": 0.3}, 1, 2, "larger batches (batch_size=) help"),
    ],
)
def test_words_name_the_longest_stage(shares: dict[str, float], threads: int, cores: int, told: str) -> None:
    one = profile(shares, threads=threads)
    (text,) = advice([one.entry], [one], cores)
    assert told in text


def test_words_tell_of_a_cache_that_is_too_small() -> None:
    one = profile({}, misses=160, evictions=60)
    (text,) = advice([one.entry], [one], 2)
    assert "each tile is decoded 1.6 times a pass" in text
    assert "cache_bytes=" in text
    assert not advice([one.entry], [profile({})], 2)


def test_words_compare_worker_processes_and_threads() -> None:
    known = {"cache": "cold", "order": "shuffled"}
    entries = [
        entry("loader", 1000.0, **known),
        entry("loader", 1100.0, threads=2, **known),
        entry("loader", 300.0, workers=2, **known),
        entry("loader", 4000.0, workers=4, **known),
    ]
    told = advice(entries, [], 2, waiting=0.3)
    assert any("2 threads bring only 1.10 times" in text for text in told)
    assert any(
        "2 worker processes cost more than they bring (300 against 1,100 cutouts/s): num_workers=0" in t for t in told
    )
    assert any("num_workers=4" in text for text in told)
    assert any("waits for data in 30%" in text for text in told)


def test_words_tell_a_busy_machine_from_threads_that_hinder_each_other() -> None:
    known = {"cache": "cold", "order": "shuffled"}
    ours = [entry("loader", 1000.0, **known), entry("loader", 900.0, threads=2, **known)]
    bare = [entry("bare decode", 2000.0), entry("bare decode", 3900.0, threads=2)]
    assert "2 threads are slower than one (0.90 times): threads=1" in advice([*ours, *bare], [], 2)[0]
    busy = [bare[0], entry("bare decode", 2100.0, threads=2)]
    assert "decoding alone 1.05 times: the machine has no more cores to give now" in advice([*ours, *busy], [], 2)[0]


# The verb.


@pytest.fixture(scope="module")
def told(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the file of a small run holds."""
    folder = tmp_path_factory.mktemp("benchmark")
    chosen = settings(
        dp2_repo,
        root=str(folder),
        output=str(folder / "out"),
        density=["dense", "sparse"],
        order="shuffled",
        scaling_targets=40,
        planning_targets=300,
        planning_patches=12,
    )
    result = benchmark(chosen)
    written: dict[str, Any] = json.loads((folder / "out" / "benchmark.json").read_text())
    assert written == json.loads(json.dumps(result.as_dict()))
    return written


def test_the_file_holds_figures_machine_and_settings(told: dict[str, Any]) -> None:
    assert {"cpu", "cores", "memory", "kernel", "python", "packages", "lsstcutouts", "commit", "date"} <= set(
        told["machine"]
    )
    assert {"numpy", "torch", "imagecodecs", "lsst-images"} <= set(told["machine"]["packages"])
    assert told["settings"]["size"] == [12]
    ways = {(e["way"], e["density"]) for e in told["entries"]}
    for density in ("dense", "sparse"):
        assert {(way, density) for way in ("loader", "reader", "butler.get", "fitsio slices", "bare decode")} <= ways
    assert ("bare copy", "dense") in ways
    for one in told["entries"]:
        assert 0 < one["min"] <= one["median"] <= one["max"]


def test_ratios_in_the_file_are_those_of_its_entries(told: dict[str, Any]) -> None:
    dense = [e for e in told["entries"] if e["density"] == "dense"]
    butler = next(e for e in dense if e["way"] == "butler.get")
    for one in dense:
        assert one["ratio_to_butler_get"] == pytest.approx(one["median"] / butler["median"])
        if one["way"] == "loader":
            name = "bare copy" if one["cache"] == "warm" else "bare decode"
            ceiling = next(e for e in dense if e["way"] == name and e["threads"] == one["threads"])
            assert one["ratio_to_ceiling"] == pytest.approx(one["median"] / ceiling["median"])


def test_profiles_count_decodes_and_add_up(told: dict[str, Any]) -> None:
    assert {(p["density"], p["cache"], p["threads"]) for p in told["profiles"]} == {
        *(("dense", cache, n) for cache in ("cold", "cleared", "warm") for n in (1, 2)),
        *(("sparse", cache, n) for cache in ("cold", "cleared") for n in (1, 2)),
    }
    for one in told["profiles"]:
        assert list(one["seconds"]) == list(STAGES)
        assert sum(one["shares"].values()) == pytest.approx(1.0)
        assert one["seconds"]["collate"] > 0.0
        assert one["misses"] == (0 if one["cache"] == "warm" else one["distinct"])
        assert one["plan_seconds"] > 0.0


def test_the_further_figures_are_there(told: dict[str, Any]) -> None:
    found = {figure["what"]: figure for figure in told["figures"]}
    assert found["hit rate on repeated queries of one patch"]["value"] == 1.0
    assert "without torch" in found["import lsstcutouts"]["detail"]
    assert "200 of" not in found["planning 300 targets over 12 patches"]["detail"]
    assert found["cost of a cutout at 40 targets over 40"]["value"] > 0
    assert set(told["further"]["profile_cost"]) == {"cleared", "warm"}
    assert 0 <= told["further"]["waiting"]["with_first_batch"] <= 1


def test_the_picture_shows_something(told: dict[str, Any]) -> None:
    (path,) = (file for file in told["files"] if file.endswith(".png"))
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[::5, ::5, 0])) > 20


def test_planning_covers_every_patch(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    seconds, size = measure_planning(field(dp2_repo), tmp_path, 200, 14)
    assert seconds.detail == "200 of 200 targets delivered, 14 patches, 42 files"
    assert size.value > 10


def test_worker_processes_are_measured(dp2_repo: SimulatedRepository) -> None:
    with closing(scenery(dp2_repo)) as made, closing(made.loader(Regime("warm", "shuffled", 1, 1))) as way:
        assert way.prepare()() == len(way.field.rows)


def test_the_command_prints_json_alone(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = ["benchmark", f"dense={dp2_repo.root}", "density=dense", "what=hits", "size=12", f"output={tmp_path}"]
    assert main([*common, "json=true"]) == 0
    assert json.loads(capfd.readouterr().out)["figures"][0]["value"] == 1.0
    assert main(common) == 0
    shown = capfd.readouterr().out
    assert "hit rate on repeated queries" in shown
    assert "written:" in shown


# The user's own repository and catalog.


def own(repo: SimulatedRepository, **others: Any) -> Settings:
    where = {"repo": str(repo.root), "collections": repo.collections, "catalog": str(repo.truth), "bands": "gri"}
    return Settings.of({**SMALL, **where, "workers": 0, "threads": 1, **others})


@pytest.mark.parametrize("name", ["dp2_repo", "dp1_repo"])
def test_ones_own_catalog_is_measured(name: str, request: pytest.FixtureRequest) -> None:
    repo: SimulatedRepository = request.getfixturevalue(name)
    chosen = own(repo, targets=7, planes="all")
    (scene,) = scenes_of(chosen)
    assert str(scene) == "own catalog, 12 px, image+variance+mask"
    found, figure = own_field(chosen, scene)
    truth = pyarrow.parquet.read_table(repo.truth)
    assert len(found.rows) == 7
    assert set(found.plan.object_id.tolist()) <= set(truth["object_id"].to_pylist())
    assert figure.what == f"planning {len(truth)} targets"
    assert figure.detail.endswith("7 of them are measured")
    patches = found.plan.primary[found.rows]
    assert len(np.unique(patches)) <= 2  # those with most targets
    made = Scenery(found, chosen)
    with closing(made):
        ways = [way for way, _ in made.ways()]
        assert ("butler.get" in {way.name for way in ways}) == (name == "dp2_repo")
        check_pixels(ways, found)


def test_the_command_measures_ones_own(
    dp2_repo: SimulatedRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = [f"repo={dp2_repo.root}", f"collections={dp2_repo.collections}", f"catalog={dp2_repo.truth}", "bands=gri"]
    quick = ["size=12", "repeats=1", "least_seconds=0", "cache=cold", "order=shuffled", "threads=1", "workers=0"]
    quick += ["what=[throughput,hits,planning]", f"output={tmp_path / 'out'}", f"root={tmp_path / 'bench'}"]
    assert main(["benchmark", *where, *quick]) == 0
    shown = capfd.readouterr().out
    assert "own catalog, 12 px" in shown
    assert "butler.get" in shown
    assert "hit rate on repeated queries" in shown
    assert f"planning {len(pyarrow.parquet.read_table(dp2_repo.truth))} targets" in shown
    assert "target " not in shown.replace("bytes/target", "")  # no bound of this package's own
    assert "met" not in shown.split()
    assert not (tmp_path / "bench").exists()
    told = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert told["settings"]["repo"] == str(dp2_repo.root)
    assert {entry["release"] for entry in told["entries"]} == {"own"}


@pytest.mark.parametrize("given", [{"repo": "x"}, {"repo": "x", "collections": "y"}, {"catalog": "t.parquet"}])
def test_a_repository_comes_with_collections_and_a_catalog(given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"belong together: .* must be given"):
        Settings.of(given)


def test_bands_that_nothing_has_together(dp2_repo: SimulatedRepository) -> None:
    chosen = own(dp2_repo, bands="griz")
    with pytest.raises(ConfigurationError, match="give bands= that the repository holds there"):
        own_field(chosen, scenes_of(chosen)[0])
