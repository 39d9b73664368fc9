"""Statistics of the training split: against whole files, whoever fits them, and through files and checkpoints."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from lsstcutouts.app.cli import main
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, StatisticsError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.splits.assignment import SplitAssignment
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch, Compose, Lupton, NoiseAsinh
from lsstcutouts.transforms.fit import fit_statistics, sampled
from lsstcutouts.transforms.statistics import QUANTILES, BandStatistics, Statistics

from ..loader.test_module import Watcher, data_of, trainer_of
from ..support.oracle import expected

BANDS = "gri"


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands=BANDS, size=24)


@pytest.fixture(scope="module")
def fitted(plan: CutoutPlan) -> Statistics:
    return fit_statistics(plan, np.arange(len(plan)), sample=50)


def statistics_of(**noise: float) -> Statistics:
    bands = {b: BandStatistics(0.5, n, {0.5: 0.5, 0.99: 1e-5}, 10, 2) for b, n in noise.items()}
    return Statistics(bands, "nJy", "deep_coadd", (24, 32), 0, 10, 2, 768, "f" * 64)


def oracle(repo: SimulatedRepository, plan: CutoutPlan, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return the valid pixels of each band, from whole files."""
    cutouts = [expected(repo, plan, t) for t in targets.tolist()]
    return {b: np.concatenate([c.image[i][c.valid[i]] for c in cutouts]) for i, b in enumerate(plan.bands)}


def check_against(found: Statistics, pixels: dict[str, np.ndarray]) -> None:
    assert list(found.bands) == list(pixels)
    for band, values in pixels.items():
        one, exact = found.bands[band], values.astype(np.float64)
        assert one.pixels == len(values)
        assert one.median == pytest.approx(np.median(exact), rel=1e-6)
        assert one.noise == pytest.approx(1.4826 * np.median(np.abs(exact - np.median(exact))), rel=1e-5)
        assert list(one.quantiles) == list(QUANTILES)
        np.testing.assert_allclose(list(one.quantiles.values()), np.quantile(exact, QUANTILES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("release", ["dp1", "dp2"])
def test_statistics_are_those_of_the_valid_pixels(release: str, request: pytest.FixtureRequest) -> None:
    """Bands are absent in two patches, there are holes, and boxes that leave the coverage."""
    repo = request.getfixturevalue(f"{release}_repo")
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands=BANDS, size=(24, 30))
    rows = np.arange(0, len(plan), 2)
    found = fit_statistics(plan, rows, sample=10_000)
    cutouts = [expected(repo, plan, t) for t in rows.tolist()]
    assert not all(c.valid.all() for c in cutouts)
    assert not all(c.present.all() for c in cutouts)
    check_against(found, oracle(repo, plan, rows))
    assert found.targets == len(rows)
    assert [one.targets for one in found.bands.values()] == np.sum([c.valid.any((1, 2)) for c in cutouts], 0).tolist()
    assert (found.size, found.unit, found.dataset_type) == ((24, 30), "nJy", "deep_coadd")
    assert found.pixels_per_target == 24 * 30
    assert found.plan == plan.fingerprint()


def test_the_sample_is_drawn_from_the_rows_by_the_seed(dp2_repo: SimulatedRepository, plan: CutoutPlan) -> None:
    rows = np.arange(len(plan))[::3]
    chosen = sampled(plan, rows, 10, seed=1)
    assert len(set(chosen.tolist())) == 10
    assert set(chosen.tolist()) <= set(rows.tolist())
    assert set(chosen.tolist()) < set(sampled(plan, rows, 15, seed=1).tolist())
    assert set(chosen.tolist()) != set(sampled(plan, rows, 10, seed=2).tolist())
    found = fit_statistics(plan, rows, sample=10, seed=1)
    check_against(found, oracle(dp2_repo, plan, chosen))
    assert found != fit_statistics(plan, rows, sample=10, seed=2)


@given(st.permutations(range(20)), st.integers(0, 2**40))
def test_the_sample_does_not_depend_on_the_order_of_the_rows(plan: CutoutPlan, rows: list[int], seed: int) -> None:
    found = sampled(plan, np.array(rows), 7, seed=seed)
    np.testing.assert_array_equal(found, sampled(plan, np.arange(20), 7, seed=seed))


@pytest.mark.parametrize("max_pixels", [1 << 22, 2000])
def test_neither_catalog_order_nor_threads_matter(
    dp2_repo: SimulatedRepository, plan: CutoutPlan, max_pixels: int
) -> None:
    """Also where each target gives a part of its pixels."""
    catalog = Catalog.from_any(dp2_repo.truth)
    order = np.random.default_rng(0).permutation(len(catalog))
    other = build_plan(dp2_repo.root, catalog[order], collections="dp2", bands=BANDS, size=24)
    assert not np.array_equal(plan.object_id, other.object_id)
    settings = {"sample": 30, "max_pixels": max_pixels}
    one = fit_statistics(plan, np.arange(len(plan)), threads=1, **settings)
    two = fit_statistics(other, np.arange(len(other)), threads=3, **settings)
    assert one.bands == two.bands
    assert one.pixels_per_target == min(24 * 24, max_pixels // 30)
    assert all(b.pixels <= max_pixels for b in one.bands.values())


def test_policies_of_the_training_decide_who_counts(dp2_repo: SimulatedRepository, plan: CutoutPlan) -> None:
    """A target that is left out in training is left out here; planes and fills make no difference."""
    options = ReaderOptions(missing_band="skip", fill="noise", planes=("image", "variance"))
    whole = [t for t in range(len(plan)) if expected(dp2_repo, plan, t).present.all()]
    assert 0 < len(whole) < len(plan)
    found = fit_statistics(plan, np.arange(len(plan)), options)
    assert found.targets == len(whole)
    check_against(found, oracle(dp2_repo, plan, np.array(whole)))
    zero, nan = (fit_statistics(plan, np.arange(9), ReaderOptions(missing_band=m)) for m in ("zero", "nan"))
    assert zero == nan


def test_a_band_that_the_sample_lacks_is_named(plan: CutoutPlan) -> None:
    without_g = np.flatnonzero(plan.patches.files[plan.primary][:, 0] < 0)
    without_g = np.array([t for t in without_g.tolist() if not plan.others_of(t)])
    assert len(without_g)
    with pytest.raises(StatisticsError, match=r"band g has no valid pixel.*leave g out of bands, use a larger sample"):
        fit_statistics(plan, without_g)
    with pytest.raises(StatisticsError, match="no target"):
        fit_statistics(plan, np.zeros(0, np.int64))
    with pytest.raises(ConfigurationError, match="sample=0"):
        fit_statistics(plan, np.arange(3), sample=0)


def test_progress_is_told(plan: CutoutPlan) -> None:
    told: list[tuple[int, int]] = []
    fit_statistics(plan, np.arange(20), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (20, 20)


def test_files_give_back_what_was_saved(fitted: Statistics, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a folder" / "statistics.yaml")
    assert Statistics.load(tmp_path / "a folder" / "statistics.yaml") == fitted
    odd = statistics_of(y=1e-5, on=1e20, u=2.0)
    odd.save(tmp_path / "odd.yaml")
    assert Statistics.load(tmp_path / "odd.yaml") == odd
    text = (tmp_path / "odd.yaml").read_text()
    assert text.startswith("# Pixels of each band")
    assert "noise: 2.0" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("version: 2", "version: 99"), "version"),
        (lambda text: text.replace("median: 0.5", "median: much"), "damaged"),
        (lambda text: text.replace("noise: 2.0", "noise: -1"), "noise positive"),
        (lambda text: text.replace("noise: 2.0", "noise: .nan"), "finite"),
        (lambda text: text.replace("quantiles:", "quantile:"), "damaged"),
        (lambda text: text[: text.index("bands")], "damaged"),
        (lambda text: text.replace("bands:", "bands: ["), "cannot be read"),
        (lambda _: "", "are not statistics of version"),
        (lambda _: "\x00", "cannot be read"),
    ],
)
def test_damaged_files_say_so(change, words: str, tmp_path: Path) -> None:
    path = tmp_path / "statistics.yaml"
    statistics_of(g=2.0).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(StatisticsError, match=words):
        Statistics.load(path)
    with pytest.raises(StatisticsError, match="lsstcutouts normalise"):
        Statistics.load(tmp_path / "nowhere.yaml")


def test_statistics_are_put_in_the_order_of_the_channels() -> None:
    found = statistics_of(g=1.0, r=2.0, i=3.0)
    assert list(found.ordered("ig", unit="nJy").bands) == ["i", "g"]
    with pytest.raises(StatisticsError, match=r"bands g,r,i but not u,z.*bands=u,g,z"):
        found.ordered("ugz")
    with pytest.raises(StatisticsError, match="in nJy, but the pixels are in native"):
        found.ordered("g", unit="native")


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    return all(map(plain, value)) if isinstance(value, list) else type(value) in {int, float, str}


def test_the_state_is_plain(fitted: Statistics) -> None:
    assert plain(fitted.as_dict())
    assert Statistics.from_dict(fitted.as_dict()) == fitted
    assert yaml.safe_load(yaml.safe_dump(fitted.as_dict())) == fitted.as_dict()


def test_the_data_module_fits_to_the_training_split_alone(dp2_repo: SimulatedRepository) -> None:
    """Once, whatever else it holds; validation and test pixels are never asked for."""
    data = data_of(dp2_repo, normalisation=Compose([NoiseAsinh(), AsinhStretch(3.0)]), seed=3)
    assert data.statistics is None
    data.setup()
    plan, rows = data.splits["train"]
    assert data.statistics is not None
    check_against(data.statistics, oracle(dp2_repo, plan, rows))
    asinh = data.normalisation[0]
    assert asinh.noise.flatten().tolist() == pytest.approx([b.noise for b in data.statistics.bands.values()])
    before = data.statistics
    data.setup("test")
    assert data.statistics is before
    other = data_of(dp2_repo)
    other.setup()
    assert other.statistics is None
    assert "normalisation" not in other.state_dict()


def test_absurd_values_of_another_split_change_nothing(dp2_repo: SimulatedRepository, plan: CutoutPlan) -> None:
    """A validation split whose files cannot even be read."""
    train, val = (replace(plan) for _ in range(2))
    broken = replace(val, files=replace(val.files, uri=tuple("/nowhere" for _ in val.files.uri)))
    data = data_of(dp2_repo, normalisation=NoiseAsinh())
    data.plans.assignment = SplitAssignment({"train": (train, np.arange(20)), "val": (broken, np.arange(20, 40))})
    data.setup()
    assert data.statistics.bands == fit_statistics(plan, np.arange(20)).bands


def test_every_rank_has_the_same_statistics(dp2_repo: SimulatedRepository, tmp_path: Path, monkeypatch) -> None:
    """The first process of a node fits and writes; another loads; a third, which finds no file, comes to the same."""
    first, second, alone = (data_of(dp2_repo, normalisation=NoiseAsinh(sample=20)) for _ in range(3))
    first.trainer = second.trainer = trainer_of(tmp_path)
    first.prepare_data()
    (file,) = (tmp_path / ".lsstcutouts").glob("statistics-*.yaml")
    written = file.stat().st_mtime_ns
    first.setup()
    monkeypatch.chdir(tmp_path / ".lsstcutouts")  # nothing to be found from here
    alone.setup()
    assert first.cache_info().misses > 0
    second.setup()
    assert second.cache_info().misses == 0
    assert first.statistics == second.statistics
    assert alone.statistics.bands == first.statistics.bands
    first.prepare_data()
    data = data_of(dp2_repo, normalisation=NoiseAsinh(sample=20))
    data.trainer = first.trainer
    data.prepare_data()
    assert file.stat().st_mtime_ns == written


def test_given_statistics_are_used_instead(
    dp2_repo: SimulatedRepository, plan: CutoutPlan, fitted: Statistics, tmp_path: Path
) -> None:
    other = replace(fitted, bands={"u": fitted.bands["g"], **dict(reversed(fitted.bands.items()))})
    other.save(tmp_path / "statistics.yaml")
    for given_as in (other, str(tmp_path / "statistics.yaml")):
        data = data_of(dp2_repo, plan=plan, columns=(), normalisation=NoiseAsinh(statistics=given_as))
        data.prepare_data()
        data.setup()
        assert list(data.statistics.bands.items()) == list(fitted.bands.items())
        assert data.cache_info().misses == 0
    with pytest.raises(StatisticsError, match="the bands r,i but not g"):
        data_of(
            dp2_repo, plan=plan, columns=(), normalisation=NoiseAsinh(statistics=statistics_of(r=1.0, i=1.0))
        ).setup()
    with pytest.raises(ConfigurationError, match="sample"):
        data_of(dp2_repo, normalisation=NoiseAsinh(sample=0))


def test_a_module_fitted_by_hand_is_left_alone(dp2_repo: SimulatedRepository) -> None:
    mine = replace(statistics_of(g=1.0, r=2.0, i=3.0), size=(24, 24))
    data = data_of(dp2_repo, normalisation=NoiseAsinh().fit(mine))
    data.setup()
    assert data.statistics == mine
    assert data.state_dict()["normalisation"] == mine.as_dict()


def test_without_a_training_split_the_checkpoint_brings_them(
    dp2_repo: SimulatedRepository, fitted: Statistics, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = Catalog.from_any(dp2_repo.truth, columns=("label",))
    data = data_of(dp2_repo, catalog={"predict": catalog[:20]}, normalisation=Lupton())
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    with pytest.raises(ConfigurationError, match="Lupton has no statistics yet"):
        data.transform(batch)
    with pytest.raises(StatisticsError, match="no training split"):
        data.fit_statistics()
    data.load_state_dict({"normalisation": fitted.as_dict()})
    assert data.transform(batch)["image"].isfinite().all()
    assert data.statistics == fitted
    with pytest.raises(StatisticsError, match=r"trained on the bands r,g,i.*set bands=r,g,i"):
        data.load_state_dict({"normalisation": fitted.ordered("rgi").as_dict()})
    with pytest.raises(StatisticsError, match="checkpoint's statistics are not statistics of version"):
        data.load_state_dict({"normalisation": {}})
    given = replace(statistics_of(g=1.0, r=2.0, i=3.0), size=(24, 24))
    other = data_of(dp2_repo, normalisation=Lupton(statistics=given))
    other.setup()
    other.load_state_dict({"normalisation": fitted.as_dict()})
    assert other.statistics == fitted
    assert "statistics of the checkpoint are used" in caplog.text


def test_a_resumed_run_keeps_the_statistics(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """Also where the catalog has changed meanwhile, and in a prediction."""

    def fresh(**changes) -> CutoutDataModule:
        return data_of(dp2_repo, normalisation=NoiseAsinh(sample=15), **changes)

    first = fresh()
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(Watcher(), first)
    checkpoint = str(tmp_path / "one.ckpt")
    trainer.save_checkpoint(checkpoint)
    state = torch.load(checkpoint, weights_only=True)["CutoutDataModule"]
    assert state["normalisation"] == first.statistics.as_dict()
    assert "train" in state
    catalog = Catalog.from_any(dp2_repo.truth, columns=("label",))[5:]
    for run in ("fit", "predict"):
        data, model = fresh(catalog=catalog), Watcher()
        later = trainer_of(tmp_path / run, max_epochs=2, limit_train_batches=1, limit_predict_batches=1)
        getattr(later, run)(model, data, ckpt_path=checkpoint, weights_only=True)
        assert asdict(data.statistics) == asdict(first.statistics)
        np.testing.assert_array_equal(data.normalisation.noise, first.normalisation.noise)


@pytest.mark.slow
def test_the_verb_writes_what_the_data_module_fits(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The columns of a training, such as label, are not asked for.
    truth = pq.read_table(dp2_repo.truth).select(["object_id", "ra", "dec"])
    pq.write_table(truth, "positions.parquet")
    settings = [f"data.repo={dp2_repo.root}", "data.catalog=positions.parquet", "data.bands=gri", "data.size=24"]
    settings += ["data.cache_bytes=100 MB", "data.splits.shares={train: 0.5, val: 0.25, test: 0.25}", "sample=25"]
    assert main(["normalise", "data=dp2", *settings, "normalisation=lupton", "json=true", "output=a/b.yaml"]) == 0
    shown = json.loads(capsys.readouterr().out)
    data = data_of(dp2_repo, normalisation=NoiseAsinh(sample=25))
    data.setup()
    assert Statistics.load("a/b.yaml") == data.statistics
    assert shown["bands"]["g"]["noise"] == data.statistics.bands["g"].noise
    assert imread(shown["picture"]).shape[1] > 500
    assert main(["normalise", "data=dp2", *settings, "picture=false", "output=c.yaml"]) == 0
    words = capsys.readouterr().out
    assert all(word in words for word in ("median", "noise", "99.9 %", "targets of the training split", "c.yaml"))
    assert not Path("c.png").exists()
