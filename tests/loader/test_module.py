"""The data module in plain loops and under Lightning's trainer."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from lsstcutouts import ReadOptions, TransferOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, PlanError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch, Augmentation, Compose, RandomD4


def data_of(repo: SimulatedRepository, /, **changes) -> CutoutDataModule:
    arguments = {
        "repo": str(repo.root),
        "collections": repo.collections,
        "catalog": str(repo.truth),
        "bands": "gri",
        "size": 24,
        "batch_size": 8,
        "columns": ("label",),
        "cache_bytes": "100 MB",
        "threads": 2,
        "splits": {"train": 0.5, "val": 0.25, "test": 0.25},
    }
    return CutoutDataModule(**{**arguments, **changes})


class Watcher(L.LightningModule):
    """A model that notes the ids it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": [], "predict": []}
        self.images: list[torch.Tensor] = []

    def _loss(self, batch, split: str) -> torch.Tensor:
        self.seen[split][-1] += batch["object_id"].tolist()
        return self.layer(batch["image"].mean(dim=(2, 3))).square().mean()

    def on_train_epoch_start(self) -> None:
        self.seen["train"].append([])

    def on_validation_epoch_start(self) -> None:
        self.seen["val"].append([])

    def on_test_epoch_start(self) -> None:
        self.seen["test"].append([])

    def on_predict_epoch_start(self) -> None:
        self.seen["predict"].append([])

    def training_step(self, batch, _):
        self.images.append(batch["image"])
        if not self.seen["train"]:  # Lightning does not start an epoch anew that it resumes in the middle
            self.seen["train"].append([])
        return self._loss(batch, "train")

    def validation_step(self, batch, _):
        self._loss(batch, "val")

    def test_step(self, batch, _):  # noqa: PT019 - Lightning's hook, not a test
        self._loss(batch, "test")

    def predict_step(self, batch, _):
        return self._loss(batch, "predict")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def trainer_of(folder: Path, **changes) -> L.Trainer:
    arguments = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**{**arguments, **changes})


def plain_epochs(repo: SimulatedRepository, count: int) -> list[list[int]]:
    data = data_of(repo)
    data.setup("fit")
    loader = data.train_dataloader()
    return [torch.cat([b["object_id"] for b in loader]).tolist() for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_three_epochs_are_three_permutations(dp2_repo: SimulatedRepository, tmp_path: Path, workers) -> None:
    """The same as a plain loop sees, whatever the workers; validation and sanity check in between."""
    model = Watcher()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        trainer_of(tmp_path).fit(model, data_of(dp2_repo, num_workers=workers))
    # Neither hint of Lightning that would push people to the slow path.
    assert not [w for w in shown if "__len__" in str(w.message) or "workers" in str(w.message)]
    assert model.seen["train"] == plain_epochs(dp2_repo, 3)
    assert len({tuple(e) for e in model.seen["train"]}) == 3
    assert len({tuple(sorted(e)) for e in model.seen["train"]}) == 1


def test_every_covered_target_is_in_one_split(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data, model = data_of(dp2_repo), Watcher()
    trainer = trainer_of(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    once = [*model.seen["train"][0], *model.seen["val"][0], *model.seen["test"][0]]
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24)
    assert sorted(once) == sorted(plan.object_id.tolist())
    assert sorted(model.seen["predict"][0]) == sorted(once)
    assert all(len(rows) for _, rows in data.splits.values())


def test_splits_are_whole_patches(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo)
    data.setup()
    patches = [set(plan.patch[rows].tolist()) for name, (plan, rows) in data.splits.items() if name != "predict"]
    assert len(patches) == 3
    assert sum(len(p) for p in patches) == len(set.union(*patches)) >= 4


def test_few_patches_are_split_by_blocks_and_it_is_said(dp2_repo: SimulatedRepository, caplog) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    plan = build_plan(dp2_repo.root, catalog, collections="dp2", bands="gri", size=24)
    data = data_of(dp2_repo, catalog=catalog[plan.row[plan.patch == 9]], columns=())
    data.setup()
    assert "blocks of sky" in caplog.text
    rows = np.sort(np.concatenate([rows for name, (_, rows) in data.splits.items() if name != "predict"]))
    np.testing.assert_array_equal(rows, np.arange(len(data.splits["predict"][1])))


def test_one_catalog_a_split(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    catalog = Catalog.from_any(dp2_repo.truth, columns=("label",))
    data = data_of(dp2_repo, catalog={"train": catalog[:40], "val": catalog[40:60]})
    model = Watcher()
    trainer_of(tmp_path, max_epochs=1, num_sanity_val_steps=0).fit(model, data)
    assert set(model.seen["train"][0]) <= set(catalog.object_id[:40].tolist())
    assert set(model.seen["val"][0]) <= set(catalog.object_id[40:60].tolist())
    with pytest.raises(ConfigurationError, match="'test' split has no targets"):
        data.test_dataloader()


def test_transforms_run_after_the_transfer_and_augmentations_in_training_alone(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    turned, straight = Watcher(), Watcher()
    augmented = data_of(dp2_repo, transforms=AsinhStretch(10.0), augmentations=RandomD4(seed=1))
    trainer_of(tmp_path, max_epochs=2).fit(turned, augmented)
    trainer_of(tmp_path, max_epochs=2).fit(straight, data_of(dp2_repo, transforms=AsinhStretch(10.0)))
    assert turned.seen == straight.seen
    different = [not torch.equal(a, b) for a, b in zip(turned.images, straight.images, strict=True)]
    assert all(different)
    assert straight.images[0].abs().max() < 20  # stretched: tens of thousands of nJy otherwise
    # The second epoch turns its targets otherwise than the first.
    first = dict(zip(turned.seen["train"][0], torch.cat(turned.images), strict=False))
    second = dict(zip(turned.seen["train"][1], torch.cat(turned.images[len(turned.images) // 2 :]), strict=True))
    assert np.mean([not torch.equal(first[i], second[i]) for i in first]) > 0.7


class Marker(Augmentation):
    """Notes where it ran, and in which epoch."""

    def __init__(self, *stages: str) -> None:
        super().__init__()
        self.stages = stages
        self.ran: list[int] = []

    def forward(self, batch: Any) -> Any:
        self.ran.append(int(self.epoch))
        return batch


def test_augmentations_run_in_the_stages_that_they_name(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    trained, always, held_out = Marker("train"), Marker("train", "val", "test"), Marker("val")
    nested = Compose([trained, nn.Sequential(always, RandomD4()), held_out])
    data = data_of(dp2_repo, augmentations=nested, splits={"train": 0.5, "val": 0.25, "test": 0.25})
    trainer = trainer_of(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(Watcher(), data)
    steps, held = len(data.train_dataloader()), len(data.val_dataloader())
    assert trained.ran == [0] * steps + [1] * steps
    assert held_out.ran == [0] * 2 * held
    assert always.ran == ([0] * steps + [0] * held) + ([1] * steps + [0] * held)
    trainer.test(Watcher(), data, verbose=False)
    assert always.ran[-1] == 0
    assert len(always.ran) == 2 * (steps + held) + len(data.test_dataloader())
    before = len(always.ran)
    trainer.predict(Watcher(), data.predict_dataloader() if data.plans.has("predict") else data.test_dataloader())
    data.transform(next(iter(data.test_dataloader())))
    assert (len(always.ran), len(trained.ran)) == (before, 2 * steps)
    data.transform(next(iter(data.test_dataloader())), stage="test")
    assert len(always.ran) == before + 1
    with pytest.raises(ConfigurationError, match="stage must be one of"):
        data.transform({}, stage="validate")


def test_a_saved_plan_serves(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24, columns=("label",))
    plan.save(tmp_path / "plan.parquet")
    for given in (plan, tmp_path / "plan.parquet"):
        data = data_of(dp2_repo, repo="nowhere", plan=given)
        data.prepare_data()
        data.setup()
        assert len(data.train_dataloader()) > 0


def test_a_resumed_run_sees_the_rest_of_the_epoch(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    whole = plain_epochs(dp2_repo, 2)

    checkpoint = tmp_path / "middle.ckpt"

    class Saver(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(checkpoint)

    first = Watcher()
    trainer_of(tmp_path, max_epochs=1, callbacks=[Saver()]).fit(first, data_of(dp2_repo))
    place = torch.load(checkpoint, weights_only=True)["CutoutDataModule"]["train"]
    assert (place["epoch"], place["batch"]) == (0, 3)
    second = Watcher()
    trainer_of(tmp_path, max_epochs=2).fit(second, data_of(dp2_repo), ckpt_path=str(checkpoint), weights_only=True)
    assert first.seen["train"][0] == whole[0]
    assert second.seen["train"][0] == whole[0][3 * 8 :]
    assert second.seen["train"][1] == whole[1]


def test_the_constructor_reads_nothing_and_checks_its_arguments(dp2_repo: SimulatedRepository) -> None:
    data_of(dp2_repo, repo="nowhere", catalog="nowhere.parquet")
    with pytest.raises(ConfigurationError, match="add up to 1"):
        data_of(dp2_repo, splits={"train": 0.5})
    with pytest.raises(ConfigurationError, match="use train, val and test"):
        data_of(dp2_repo, splits={"train": 0.5, "holdout": 0.5})
    with pytest.raises(ConfigurationError, match="bands"):
        data_of(dp2_repo, bands="gg")
    with pytest.raises(ConfigurationError, match="setup"):
        data_of(dp2_repo).train_dataloader()


def test_loaders_share_one_cache(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo)
    data.setup()
    loaders = [data.train_dataloader(), data.val_dataloader()]
    assert all(isinstance(loader, CutoutLoader) for loader in loaders)
    for loader in loaders:
        for _ in loader:
            pass
    assert data.cache_info().misses == loaders[0].cache_info().misses == loaders[1].cache_info().misses > 0


def test_transforms_move_to_the_device_of_the_batch(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, transforms=AsinhStretch([1.0, 2.0, 3.0]))
    data.setup()
    batch = next(iter(data.train_dataloader()))
    # "meta" stands for any device that is not the CPU; mixing devices raises there as on a GPU.
    moved = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    assert data.on_after_batch_transfer(moved, 0)["image"].device.type == "meta"


def test_loaders_made_anew_go_on(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """As with reload_dataloaders_every_n_epochs, a second fit, or a plain loop over train_dataloader()."""
    whole = plain_epochs(dp2_repo, 4)
    model, data = Watcher(), data_of(dp2_repo)
    trainer = trainer_of(tmp_path, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    trainer.fit(model, data)
    assert model.seen["train"] == whole[:2]
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, data)
    assert model.seen["train"] == whole
    other = Watcher()
    trainer_of(tmp_path, max_epochs=1).fit(other, data)
    assert other.seen["train"] == whole[:1]
    plain = data_of(dp2_repo)
    plain.setup()
    assert [torch.cat([b["object_id"] for b in plain.train_dataloader()]).tolist() for _ in range(2)] == whole[:2]


def test_a_checkpoint_read_for_validation_moves_no_training(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    first = trainer_of(tmp_path, max_epochs=1, limit_train_batches=2)
    first.fit(Watcher(), data_of(dp2_repo))
    checkpoint = tmp_path / "some.ckpt"
    first.save_checkpoint(checkpoint)
    data, model = data_of(dp2_repo), Watcher()
    trainer_of(tmp_path).validate(model, data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
    trainer_of(tmp_path, max_epochs=1).fit(model, data)
    assert model.seen["train"] == plain_epochs(dp2_repo, 1)


def test_a_batch_that_raised_is_trained_on_after_the_resume(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    checkpoint = tmp_path / "broken.ckpt"

    class Fragile(Watcher):
        def training_step(self, batch, index):
            if index == 3:
                self.trainer.save_checkpoint(checkpoint)
                raise RuntimeError("the power is gone")
            return super().training_step(batch, index)

    with pytest.raises(RuntimeError, match="power"):
        trainer_of(tmp_path, max_epochs=1).fit(Fragile(), data_of(dp2_repo))
    second = Watcher()
    trainer_of(tmp_path, max_epochs=1).fit(second, data_of(dp2_repo), ckpt_path=str(checkpoint), weights_only=True)
    assert second.seen["train"][0] == plain_epochs(dp2_repo, 1)[0][3 * 8 :]


def test_resuming_after_epochs_that_were_cut(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    uncut, model = Watcher(), Watcher()
    trainer_of(tmp_path, max_epochs=3, limit_train_batches=3).fit(uncut, data_of(dp2_repo))
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=3)
    trainer.fit(model, data_of(dp2_repo))
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    trainer_of(tmp_path, max_epochs=3, limit_train_batches=3).fit(
        model, data_of(dp2_repo), ckpt_path=str(tmp_path / "cut.ckpt"), weights_only=True
    )
    assert model.seen["train"] == uncut.seen["train"]


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
def test_overfitting_sees_the_same_batches(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    model = Watcher()
    trainer_of(tmp_path, max_epochs=3, overfit_batches=2).fit(model, data_of(dp2_repo))
    assert model.seen["train"][0] == model.seen["train"][1] == model.seen["train"][2]


def test_catalogs_in_memory_keep_their_own_plan(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    catalog = Catalog.from_any(dp2_repo.truth, columns=("label",))
    one, other = data_of(dp2_repo, catalog=catalog[:40]), data_of(dp2_repo, catalog=catalog[40:])
    for data in (one, other):
        data.trainer = trainer_of(tmp_path)
        data.prepare_data()
    one.setup()
    assert set(one.splits["predict"][0].object_id.tolist()) <= set(catalog.object_id[:40].tolist())


def test_a_plan_that_says_otherwise_is_refused(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24, columns=("label",))
    for changes, words in (
        ({"bands": "gr"}, "bands"),
        ({"size": 32}, "size"),
        ({"columns": ("label", "kind")}, "does not have the columns kind"),
    ):
        with pytest.raises(PlanError, match=words):
            data_of(dp2_repo, plan=plan, **changes).setup()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"threads": 0},
        {"num_workers": -1},
        {"planes": ("imag",)},
        {"read": ReadOptions(mask_planes=("SAT",))},
        {"seed": -1},
        {"sampling": "full"},
        {"read": {"missing_band": "nan"}},
        {"transfer": "float16"},
        {"splits": {"train": 1.5, "val": -0.5}},
    ],
)
def test_arguments_are_checked_at_once(dp2_repo: SimulatedRepository, changes) -> None:
    with pytest.raises(ConfigurationError):
        data_of(dp2_repo, **changes)


def test_wire_and_layout_reach_the_batches(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    plain, sent = Watcher(), Watcher()
    trainer_of(tmp_path, max_epochs=1).fit(plain, data_of(dp2_repo))
    trainer_of(tmp_path, max_epochs=1).fit(
        sent, data_of(dp2_repo, transfer=TransferOptions(wire="bfloat16", channels_last=True))
    )
    assert plain.seen == sent.seen
    for wanted, found in zip(plain.images, sent.images, strict=True):
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(wanted, found)
        torch.testing.assert_close(found, wanted, rtol=2**-8, atol=0)
    with pytest.raises(ConfigurationError, match="wire must be one of float32, bfloat16, float16"):
        data_of(dp2_repo, transfer=TransferOptions(wire="half"))
