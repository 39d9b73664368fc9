"""Injected sources through the data module: every stage, checkpoints, resumed trainings, arrays of the fetcher."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts import LsstDataFetcher, TransferOptions
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.description import described
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import (
    Compose,
    InjectSources,
    Lens,
    MatchPsf,
    NoiseAsinh,
    PointSource,
    RandomD4,
    Sersic,
    Stamps,
    Views,
    inject,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .* does not have many workers"),
    pytest.mark.filterwarnings("ignore:No .* samples in targets:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]

COLOURS = {"g": [0.1, 0.3], "r": 0.0, "i": -0.1}
PLANES = ("image", "psf", "variance")


def lenses(**changes: Any) -> InjectSources:
    lens = Lens(einstein_radius=[0.8, 1.6], galaxy_ratio=1.0, galaxy_colours=[0.5, 0.0, -0.3])
    options = {
        "magnitude": [19.0, 21.0],
        "colours": COLOURS,
        "bands": "gri",
        "noise": {"g": 20.0, "r": 25.0, "i": 30.0},
    }
    return InjectSources(lens, **options | changes)


def unlabelled(repo: SimulatedRepository, folder: Path) -> str:
    """Return a catalog without any column to learn."""
    pq.write_table(pq.read_table(repo.truth).select(["object_id", "ra", "dec"]), folder / "targets.parquet")
    return str(folder / "targets.parquet")


def data_of(repo: SimulatedRepository, catalog: str, **changes: Any) -> CutoutDataModule:
    arguments = {
        "repo": str(repo.root),
        "collections": repo.collections,
        "catalog": catalog,
        "bands": "gri",
        "size": 32,
        "batch_size": 16,
        "planes": PLANES,
        "cache_bytes": "100 MB",
        "threads": 1,
        "splits": {"train": 0.5, "val": 0.5},
        "normalisation": NoiseAsinh(),
        "augmentations": Compose([lenses(), RandomD4()]),
    }
    return CutoutDataModule(**arguments | changes)


def trainer_of(folder: Path, epochs: int, **options: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet, **options)


class Noted(LensClassifier):
    """Notes the mean of each batch of validation and its labels."""

    def __init__(self) -> None:
        super().__init__(LensFinder("gri", widths=(4, 4)))
        self.seen: dict[str, list[tuple[float, list[int]]]] = {"train": [], "val": []}

    def training_step(self, batch, i):
        self.seen["train"].append((float(batch["image"].mean()), batch["label"].tolist()))
        return super().training_step(batch, i)

    def validation_step(self, batch, i):
        self.seen["val"].append((float(batch["image"].mean()), batch["label"].tolist()))
        return super().validation_step(batch, i)


@pytest.mark.parametrize(
    "model",
    [PointSource(), Sersic([0.2, 0.5, 0.9], index=(1, 2)), Lens(galaxy_colours=[0, 1, 2])],
    ids=lambda m: type(m).__name__,
)
def test_a_checkpoint_describes_an_injection(model) -> None:
    for module in (InjectSources(model, [1.0, 2.0, 3.0], stages=["train", "val"]), lenses()):
        about = described(module)
        assert "_incomplete_" not in about
        assert "_incomplete_" not in about["model"]
        assert about["_target_"] == "lsstcutouts.transforms.InjectSources"
    assert described(lenses())["colours"] == COLOURS


def test_a_training_without_labels_and_its_checkpoint(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    catalog = unlabelled(dp2_repo, tmp_path)
    data, model = data_of(dp2_repo, catalog), Noted()
    trainer = trainer_of(tmp_path, 2, num_sanity_val_steps=1)
    trainer.fit(model, data)
    steps = len(data.val_dataloader())
    sanity, first, second = (
        model.seen["val"][part] for part in (slice(1), slice(1, 1 + steps), slice(1 + steps, None))
    )
    assert first == second
    assert sanity == first[:1]
    assert 0 < np.mean([label for _, labels in first for label in labels]) < 1
    trained = model.seen["train"]
    assert sorted(trained[: len(trained) // 2]) != sorted(trained[len(trained) // 2 :])
    trainer.save_checkpoint(tmp_path / "model.ckpt")

    again = CutoutDataModule.load_from_checkpoint(tmp_path / "model.ckpt")
    again.setup("validate")
    for batch, same in zip(data.val_dataloader(), again.val_dataloader(), strict=True):
        one, other = data.transform(batch, stage="val"), again.transform(same, stage="val")
        assert torch.equal(one["image"], other["image"])
        torch.testing.assert_close(one["injected_einstein_radius"], other["injected_einstein_radius"], equal_nan=True)
    network = Noted.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    tested = trainer_of(tmp_path, 1).validate(network, again, verbose=False)
    assert tested[0]["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-5)


def test_a_resumed_training_injects_the_same(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    catalog = unlabelled(dp2_repo, tmp_path)
    whole, first, rest = Noted(), Noted(), Noted()
    trainer_of(tmp_path / "a", 2, num_sanity_val_steps=0).fit(whole, data_of(dp2_repo, catalog))
    half = trainer_of(tmp_path / "b", 1, num_sanity_val_steps=0)
    half.fit(first, data_of(dp2_repo, catalog))
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer_of(tmp_path / "b", 2, num_sanity_val_steps=0).fit(
        rest, data_of(dp2_repo, catalog), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert first.seen["train"] + rest.seen["train"] == whole.seen["train"]


def test_labels_of_the_catalog_stay_where_nothing_is_injected(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, str(dp2_repo.truth), columns=("label",), normalisation=None)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    result = data.transform(batch, stage="train")
    assert torch.equal(result["label"], torch.where(result["injected"], 1, batch["label"]))
    assert "injected" not in data.transform(batch, stage="predict")


def test_stamps_of_an_array_are_named_by_the_error(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    stamps = np.ones((1, 9, 9))
    np.save(tmp_path / "stamps.npy", stamps)
    for given, works in ((stamps, False), (tmp_path / "stamps.npy", True)):
        module = InjectSources(Stamps(given, 0.1), magnitude=20.0)
        data = data_of(dp2_repo, str(dp2_repo.truth), augmentations=module, normalisation=None)
        trainer = trainer_of(tmp_path, 1, limit_train_batches=1, limit_val_batches=0)
        trainer.fit(LensClassifier(LensFinder("gri", widths=(4,))), data)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        if works:
            assert CutoutDataModule.load_from_checkpoint(tmp_path / "model.ckpt").augmentations.model.pixel_scale == 0.1
        else:
            with pytest.raises(ConfigurationError, match=r"Stamps, cannot be created .*stamps"):
                CutoutDataModule.load_from_checkpoint(tmp_path / "model.ckpt")


def test_arrays_of_the_fetcher(dp2_repo: SimulatedRepository) -> None:
    truth = pq.read_table(dp2_repo.truth).slice(0, 12)
    ra, dec = (truth[name].to_numpy() for name in ("ra", "dec"))
    options = {
        "collections": dp2_repo.collections,
        "bands": "gri",
        "size": 40,
        "planes": (*PLANES, "ivar", "valid"),
    }
    names = [f"target {i}" for i in range(13)]
    with LsstDataFetcher(dp2_repo.root, **options) as fetcher:
        batch = fetcher.fetch([*ra, ra[0]], [*dec, dec[0] + 5], object_id=names)  # the last is outside the coverage
    for array in batch.values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    result = inject(batch, lenses(fraction=1.0))
    assert result["object_id"] == names
    assert all(isinstance(value, np.ndarray) for name, value in result.items() if name != "object_id")
    whole = (batch["psf_present"] | ~batch["band_present"]).all(1) & batch["band_present"].any(1)
    assert not whole[-1]
    assert np.array_equal(result["injected"], whole)
    assert np.array_equal(result["label"], whole.astype(int))
    added = result["image"] - batch["image"]
    assert not added[~batch["valid"]].any()
    assert not added[~whole].any()
    assert (added[whole].sum((2, 3)) > 0)[batch["band_present"][whole]].all()
    assert (result["variance"] >= batch["variance"]).all()
    again, used = inject(batch, lenses(fraction=1.0)), lenses(fraction=1.0)
    used.set_epoch(7)
    other = inject(batch, used, epoch=1)
    assert used.epoch == 7  # that of a training
    assert np.array_equal(again["image"], result["image"])
    assert not np.array_equal(other["image"], result["image"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiled_transforms_inject_the_same(dp2_repo: SimulatedRepository) -> None:
    found = []
    for compiled in (False, True):
        data = data_of(dp2_repo, str(dp2_repo.truth), transfer=TransferOptions(compile=compiled))
        data.setup("fit")
        found.append(data.transform(next(iter(data.train_dataloader())), stage="train"))
    torch.testing.assert_close(found[0]["image"], found[1]["image"], atol=1e-3, rtol=1e-4)
    assert torch.equal(found[0]["label"], found[1]["label"])


def test_a_module_inside_another_that_would_not_run_in_all_its_stages_is_refused(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    catalog = unlabelled(dp2_repo, tmp_path)
    for inside, words in (
        (
            lenses(),
            "InjectSources is to run in train, val, test, but Views around it runs only in train, .* not run in val, test; put",
        ),
        (MatchPsf(1.5), r"not run in val, test, predict; put MatchPsf before Views, as in Compose\(\[MatchPsf"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            data_of(dp2_repo, catalog, augmentations=Compose([Views(Compose([inside, RandomD4()])), RandomD4()]))
    around = Compose([MatchPsf(1.5), lenses(), Views(Compose([lenses(stages="train", prefix="own"), RandomD4()]))])
    data_of(dp2_repo, catalog, augmentations=around)


def test_injected_positions_remain_exact_in_16_bits(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []

    class Watching(LensClassifier):
        def training_step(self, batch, batch_idx):
            found.append(batch)
            return super().training_step(batch, batch_idx)

    data = data_of(dp2_repo, unlabelled(dp2_repo, tmp_path), augmentations=lenses(fraction=1.0))
    trainer_of(tmp_path, 1, precision="bf16-true", limit_train_batches=1, limit_val_batches=0).fit(
        Watching(LensFinder("gri")), data
    )
    (batch,) = found
    assert batch["image"].dtype == torch.bfloat16
    position = batch["injected_position"][batch["injected"]]
    assert position.dtype == torch.float64
    np.testing.assert_allclose(position[:, 0], batch["ra"][batch["injected"]], atol=1e-7)
    np.testing.assert_allclose(position[:, 1], batch["dec"][batch["injected"]], atol=1e-7)
