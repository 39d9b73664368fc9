"""The width that suits all PSFs, what the statistics of matched pixels are, and how a data module keeps both."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts import CutoutDataModule
from lsstcutouts.errors import ConfigurationError, StatisticsError
from lsstcutouts.loader.datamodule.portable import prediction_settings, ready_to_predict
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.testing import SimulatedRepository, SimulationConfig
from lsstcutouts.transforms import Compose, MatchPsf, NoiseAsinh, RandomD4
from lsstcutouts.transforms.fit import fit_statistics
from lsstcutouts.transforms.worst_psf import MARGIN, narrowest_target, worst_psf

from ..loader.test_module import Watcher, data_of, trainer_of
from ..support.delivery import deliver, plan_of
from ..support.point_spreads import SCALE, fwhm_of, moffat, psf_batch
from ..support.repositories import simulated_once


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return plan_of(dp2_repo, size=(40, 46))


def widths_of(plan: CutoutPlan) -> np.ndarray:
    """Widths of all PSFs of a plan, arcsec."""
    batch = deliver(plan, planes=("psf",)).batch
    return SCALE * np.array([fwhm_of(kernel) for kernel in batch["psf"][batch["psf_present"]]])


def matching_data(repo: SimulatedRepository, **changes) -> CutoutDataModule:
    arguments = {
        "normalisation": NoiseAsinh(sample=40),
        "augmentations": Compose([MatchPsf(sample=60), RandomD4()]),
        "planes": ("image", "psf"),
        "size": 40,
    }
    return data_of(repo, **{**arguments, **changes})


# The width


def test_the_width_suits_all_psfs_and_hardly_more(plan: CutoutPlan) -> None:
    rows, module = np.arange(len(plan)), MatchPsf(sample=1000)
    fwhm = worst_psf(plan, rows, matching=module)
    broadest = widths_of(plan).max()
    assert broadest < fwhm < 1.1 * broadest
    batch = {
        n: torch.from_numpy(v) for n, v in deliver(plan, planes=("image", "psf")).batch.items() if hasattr(v, "dtype")
    }
    gains = module.fit(fwhm).gains(batch)[batch["psf_present"]]
    assert gains.max() <= module.max_gain
    assert MatchPsf(fwhm / MARGIN * 0.99).gains(batch).max() > module.max_gain
    assert fwhm == worst_psf(plan, rows[::-1], matching=module, threads=3)
    matched = module(batch)
    found = [fwhm_of(kernel) * SCALE for kernel in matched["psf"][matched["psf_present"]].numpy()]
    assert np.abs(np.array(found) / fwhm - 1).max() < 0.02


def test_a_quantile_disregards_the_worst(plan: CutoutPlan) -> None:
    rows = np.arange(len(plan))
    all_of_them, most, few = (worst_psf(plan, rows, matching=MatchPsf(quantile=q)) for q in (1.0, 0.9, 0.1))
    assert all_of_them > most > few


def test_progress_of_psfs_is_told(plan: CutoutPlan) -> None:
    told: list[tuple[int, int]] = []
    worst_psf(plan, np.arange(20), matching=MatchPsf(), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (20, 20)


def test_without_psfs_there_is_no_width(plan: CutoutPlan) -> None:
    with pytest.raises(StatisticsError, match="no target of 0 in the sample"):
        worst_psf(plan, np.zeros(0, np.int64), matching=MatchPsf())


def test_psfs_that_no_target_suits_are_told_and_points_suit_any() -> None:
    """A transform that crosses zero at the lowest frequencies."""
    wcs = psf_batch(1)["wcs"]
    point = torch.zeros(1, 1, 35, 35)
    point[..., 17, 17] = 1
    assert narrowest_target(point, wcs, MatchPsf()) < 0.1
    strange = torch.full((1, 1, 35, 35), 1.8 / 35**2) - 0.8 * point
    with pytest.raises(StatisticsError, match=r"1 PSFs of the sample cannot be matched to any target.*quantile="):
        narrowest_target(strange, wcs, MatchPsf())
    several = torch.cat([torch.from_numpy(moffat(4.0)).float().expand(9, 1, 35, 35), strange])
    found = narrowest_target(several, wcs.expand(10, 8), MatchPsf(quantile=0.9))
    assert found == pytest.approx(0.8, rel=0.05)


def test_stars_of_all_bands_get_the_same_width() -> None:
    """Of a simulated sky in six bands, seen through PSFs that differ from band to band and 1 % from the stored ones."""
    repo = simulated_once(SimulationConfig(cells=2, patches=2, targets=160, seed=3, missing=None))
    truth = pq.read_table(repo.truth)
    plan = plan_of(repo, bands="ugrizy", size=49)
    read = deliver(plan, planes=("image", "valid", "psf")).batch
    batch = {n: torch.from_numpy(v) for n, v in read.items() if isinstance(v, np.ndarray)}
    kinds = dict(zip(truth["object_id"].to_pylist(), truth["kind"].to_pylist(), strict=True))
    star = torch.tensor([kinds[one] == "star" for one in batch["object_id"].tolist()])
    star &= batch["valid"].flatten(1).all(1) & batch["psf_present"].all(1)
    assert star.sum() > 2
    batch = {name: value[star] for name, value in batch.items()}
    fwhm = 1.15
    matched = MatchPsf(fwhm)(batch)
    for images, low, high in ((batch["image"], 0.7, 1.2), (matched["image"], fwhm / 1.08, fwhm * 1.08)):
        widths = np.array([[fwhm_of(plane[10:39, 10:39]) for plane in target] for target in images.numpy()]) * SCALE
        assert ((widths > low) & (widths < high)).all()
    medians = np.median(widths, axis=0)  # a star of u has a peak of 20 times the noise
    assert np.abs(medians / fwhm - 1).max() < 0.02


# Statistics of matched pixels


@pytest.mark.parametrize("size", [None, (24, 30)])
def test_statistics_are_those_of_matched_pixels(plan: CutoutPlan, size: tuple[int, int] | None) -> None:
    """Matched pixels have less noise than those of the files; of what is cut away none counts."""
    module = MatchPsf(1.15, size=size)
    found = fit_statistics(plan, np.arange(len(plan)), first=[module])
    batch = {
        n: torch.from_numpy(v)
        for n, v in deliver(plan, planes=("image", "valid", "psf")).batch.items()
        if hasattr(v, "dtype")
    }
    matched, raw = module(batch), fit_statistics(plan, np.arange(len(plan)))
    for i, (band, one) in enumerate(found.bands.items()):
        pixels = matched["image"][:, i][matched["valid"][:, i]].numpy()
        noise = 1.4826 * np.median(np.abs(pixels - np.median(pixels)))
        assert one.pixels == pixels.size
        assert one.noise == pytest.approx(noise, rel=1e-5)
        assert size is not None or one.noise < raw.bands[band].noise


# The data module


def test_the_data_module_fits_the_width_and_the_statistics_of_its_result(dp2_repo: SimulatedRepository) -> None:
    data = matching_data(dp2_repo)
    assert not data.augmentations[0].fitted
    data.setup()
    train, rows = data.splits["train"]
    module = data.augmentations[0]
    assert module.fwhm == worst_psf(train, rows, matching=MatchPsf(sample=60))
    assert data.statistics.bands == fit_statistics(train, rows, sample=40, first=[MatchPsf(module.fwhm)]).bands
    for stage, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        batch = next(iter(loader))
        found = data.transform(batch, stage=stage)
        matched = found["psf_present"]
        width = [fwhm_of(kernel) * SCALE for kernel in found["psf"][matched].numpy()]
        assert np.abs(np.array(width) / module.fwhm - 1).max() < 0.02
    assert (found["noise_correlation"][matched] > 1).all()
    assert found["image"][matched].abs().median() < 1
    for stage in ("val", "test", "predict"):
        assert torch.equal(data.transform(batch, stage=stage)["image"], found["image"])
    assert torch.equal(data.transform(batch)["image"], found["image"])


def test_every_rank_has_the_same_width(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    first, second = matching_data(dp2_repo), matching_data(dp2_repo)
    first.trainer = second.trainer = trainer_of(tmp_path)
    first.prepare_data()
    (file,) = (tmp_path / ".lsstcutouts").glob("psf-*.json")
    (statistics,) = (tmp_path / ".lsstcutouts").glob("statistics-*.yaml")
    first.setup()
    second.setup()
    assert second.cache_info().misses == 0
    assert second.augmentations[0].fwhm == first.augmentations[0].fwhm == float(file.read_text())
    # Another width or profile, or none, has statistics of its own.
    others = (MatchPsf(1.3), MatchPsf(1.2), MatchPsf(beta=3.0), None)
    for module in others:
        other = matching_data(dp2_repo, augmentations=module)
        other.trainer = first.trainer
        other.prepare_data()
    assert len(list(statistics.parent.glob("statistics-*"))) == 1 + len(others)
    assert len(list(statistics.parent.glob("psf-*"))) == 2


def test_a_target_that_is_too_narrow_ends_the_setup(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(ConfigurationError, match=r"broader than the target of 0\.7 arcsec"):
        matching_data(dp2_repo, augmentations=MatchPsf(0.7)).setup()


def test_checkpoints_bring_the_width(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """To a run that is resumed, a prediction, a data module of its own, and a prediction by partitions."""
    first = matching_data(dp2_repo)
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(Watcher(), first)
    checkpoint = str(tmp_path / "one.ckpt")
    trainer.save_checkpoint(checkpoint)
    fwhm = first.augmentations[0].fwhm
    restored = CutoutDataModule.load_from_checkpoint(checkpoint)
    assert restored.augmentations[0].fwhm == fwhm
    assert restored.statistics == first.statistics
    assert prediction_settings(restored)["psf"] == [fwhm]
    assert ready_to_predict(restored, {}).augmentations[0].fwhm == fwhm
    for run in ("fit", "predict"):
        data = matching_data(dp2_repo)
        later = trainer_of(tmp_path / run, max_epochs=2, limit_train_batches=1, limit_predict_batches=1)
        getattr(later, run)(Watcher(), data, ckpt_path=checkpoint, weights_only=True)
        assert data.augmentations[0].fwhm == fwhm
        assert data.statistics == first.statistics
    # The random ones may differ, those that run in every stage may not.
    matching_data(dp2_repo, augmentations=MatchPsf(sample=60)).load_state_dict(first.state_dict())
    for module in (RandomD4(), MatchPsf(1.2), None):
        with pytest.raises(
            ConfigurationError, match=r"augmentations that run in every stage: \[MatchPsf\(target=worst"
        ):
            matching_data(dp2_repo, augmentations=module).take_over(first.state_dict())
    with pytest.raises(ConfigurationError, match="MatchPsf no width"):
        ready_to_predict(matching_data(dp2_repo, normalisation=None), {})
