"""The position of a training under Lightning stays right, whatever else uses its data module or loader meanwhile.

Each way of use must see, step by step, what an uninterrupted training sees.
"""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader

from ..support.resuming import PLAIN, At, Runs, SaveAt, Saver, Watcher, flat

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=:UserWarning"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),
]


# One data module, several trainers.


@pytest.mark.parametrize("batch", [0, 3])
def test_one_module_in_a_second_trainer_resumes(runs: Runs, epochs: Any, tmp_path: Path, batch: int) -> None:
    data, path = runs.data(), tmp_path / "x.ckpt"
    first = Watcher()
    runs.trainer(SaveAt(1, batch, path), **{**PLAIN, "max_epochs": 2}).fit(first, data)
    for _ in range(2):  # also a third one
        again = Watcher()
        runs.trainer(**PLAIN).fit(again, data, ckpt_path=str(path), weights_only=True)
        assert again.steps == flat(epochs[:3])[len(epochs[0]) + batch :]


def test_one_module_in_a_second_trainer_resumes_after_the_last_epoch(runs: Runs, epochs: Any, tmp_path: Path) -> None:
    data, path = runs.data(), tmp_path / "x.ckpt"
    trainer = runs.trainer(**{**PLAIN, "max_epochs": 1})
    trainer.fit(Watcher(), data)
    next(iter(data.train_dataloader()))  # a look at a batch, as in a notebook
    trainer.save_checkpoint(path)
    again = Watcher()
    runs.trainer(**PLAIN).fit(again, data, ckpt_path=str(path), weights_only=True)
    assert again.steps == flat(epochs[1:3])


def test_one_module_in_a_second_trainer_without_a_checkpoint_begins_at_the_beginning(runs: Runs, epochs: Any) -> None:
    data = runs.data()
    for _ in range(2):
        model = Watcher()
        runs.trainer(**{**PLAIN, "max_epochs": 2}).fit(model, data)
        assert model.steps == flat(epochs[:2])


def test_a_second_fit_of_a_trainer_goes_on(runs: Runs, epochs: Any) -> None:
    data, model, trainer = runs.data(), Watcher(), runs.trainer(**{**PLAIN, "max_epochs": 1})
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, data)
    assert model.steps == flat(epochs[:3])


# What happens in the middle of a training.


class Epochs(nn.Module):
    """Notes the epochs of the augmentations."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch, self.noted = -1, list[int]()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, batch: Any) -> Any:
        self.noted.append(self.epoch)
        return batch


def asks(runs: Runs, trainer: L.Trainer, data: CutoutDataModule) -> None:
    """Ask for further loaders, and read from them."""
    data.train_dataloader()
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))


def fits(runs: Runs, trainer: L.Trainer, data: CutoutDataModule) -> None:
    runs.trainer(**{**PLAIN, "max_epochs": 1}).fit(Watcher(), data)


def validates(runs: Runs, trainer: L.Trainer, data: CutoutDataModule) -> None:
    runs.trainer().validate(Watcher(), data, verbose=False)


def fails(runs: Runs, trainer: L.Trainer, data: CutoutDataModule) -> None:
    def broken(_: L.Trainer) -> None:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        runs.trainer(At(0, 1, broken), **PLAIN).fit(Watcher(), data)


@pytest.mark.parametrize("what", [asks, fits, validates, fails])
def test_what_else_uses_the_module_changes_nothing(runs: Runs, epochs: Any, tmp_path: Path, what: Any) -> None:
    noted, mine = Epochs(), runs.data()
    mine.augmentations = noted
    data: list[CutoutDataModule] = [mine]
    # The augmentations of the inner training are not counted.
    outside = [0, 0]

    def disturb(trainer: L.Trainer) -> None:
        outside[0] = len(noted.noted)
        what(runs, trainer, mine)
        outside[1] = len(noted.noted)

    saver = Saver(tmp_path)
    model, n = Watcher(), len(epochs[0])
    trainer = runs.trainer(At(1, 3, disturb), saver, **{**PLAIN, "max_epochs": 2})
    trainer.fit(model, mine)
    assert model.steps == flat(epochs[:2])
    assert noted.noted[: outside[0]] + noted.noted[outside[1] :] == [0] * n + [1] * n
    assert data[0].trainer is trainer or what is not asks
    for event, done in (("1 after 4", n + 4), ("1 after 6", n + 6), ("1 end", 2 * n)):
        assert saver.points[event] == done
        again = Watcher()
        runs.trainer(**PLAIN).fit(again, runs.data(), ckpt_path=str(tmp_path / f"{event}.ckpt"), weights_only=True)
        assert again.steps == flat(epochs[:3])[done:]


def test_the_report_is_of_the_loader_that_is_read(runs: Runs) -> None:
    data, reports = runs.data(), []

    def disturb(trainer: L.Trainer) -> None:
        data.train_dataloader()
        data.val_dataloader()
        reports.extend([data.report("train").delivered, data.report("val").delivered])

    trainer = runs.trainer(At(1, 2, disturb), max_epochs=2)
    trainer.fit(Watcher(), data)
    assert reports == [24, len(data.splits["val"][1])]
    assert data.report("train").delivered == len(data.splits["train"][1])
    trainer.predict(Predicting(), data)
    assert data.report("predict").delivered == len(data.splits["predict"][1])


class Predicting(Watcher):
    def predict_step(self, batch: Any, _: int) -> Any:
        return batch["object_id"]


# A loader without a data module.


@pytest.mark.parametrize("event", ["0 end", "1 end", "0 after 3", "1 after 2", "1 before 1", "1 before 4"])
def test_a_loader_in_a_trainer_resumes(runs: Runs, epochs: Any, tmp_path: Path, event: str) -> None:
    saver = Saver(tmp_path)
    model = Watcher()
    runs.trainer(saver, **{**PLAIN, "max_epochs": 2}).fit(model, runs.loader())
    assert model.steps == flat(epochs[:2])
    again = Watcher()
    path = str(tmp_path / f"{event}.ckpt")
    runs.trainer(**PLAIN).fit(again, runs.loader(), ckpt_path=path, weights_only=True)
    assert again.steps == flat(epochs[:3])[saver.points[event] :]


def test_a_loader_in_a_second_trainer_begins_at_the_beginning(runs: Runs, epochs: Any) -> None:
    loader = runs.loader()
    for _ in range(2):
        model = Watcher()
        runs.trainer(**{**PLAIN, "max_epochs": 2}).fit(model, loader)
        assert model.steps == flat(epochs[:2])


class Paired(Watcher):
    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, [b["object_id"].tolist() for b in batch.values()], 0.0))
        return self.layer(batch["long"]["object_id"].float()[:, None] % 7 / 7).square().mean()


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size"])
def test_loaders_side_by_side_resume(runs: Runs, tmp_path: Path, mode: Any) -> None:
    """The shorter one begins another epoch of its own in each epoch of the trainer; an own loader would, too."""

    def both() -> CombinedLoader:
        long = runs.loader()
        data = long.cutouts
        short = CutoutDataset(data.plan, rows=data.rows[:30], batch_size=8, threads=1, cache=runs.cache)
        return CombinedLoader({"long": long, "short": CutoutLoader(short)}, mode)

    saver, model = Saver(tmp_path), Paired()
    runs.trainer(saver, **PLAIN).fit(model, both())
    ids = model.steps
    n = len(ids) // 3
    assert ids[:n] != ids[n : 2 * n] != ids[2 * n :]
    for event in ("0 after 2", f"0 after {n - 1}", "0 end", "1 after 1", "1 end"):
        again = Paired()
        runs.trainer(**PLAIN).fit(again, both(), ckpt_path=str(tmp_path / f"{event}.ckpt"), weights_only=True)
        assert again.steps == ids[saver.points[event] :], event


def test_a_module_of_several_loaders_resumes(runs: Runs, tmp_path: Path) -> None:
    class Several(CutoutDataModule):
        def train_dataloader(self) -> Any:
            return {"long": super().train_dataloader(), "other": runs.loader()}

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
            return batch

    def data() -> Several:
        made = Several("unused", "dp2", None, runs.plan.bands, 16, plan=runs.plan, batch_size=8, threads=1)
        made.cache = runs.cache
        return made

    saver, model, mine = Saver(tmp_path), Paired(), data()
    runs.trainer(saver, At(1, 1, lambda _: mine.train_dataloader()), **PLAIN).fit(model, mine)
    for event in ("0 after 2", "0 end", "1 after 4"):
        again = Paired()
        runs.trainer(**PLAIN).fit(again, data(), ckpt_path=str(tmp_path / f"{event}.ckpt"), weights_only=True)
        assert again.steps == model.steps[saver.points[event] :], event


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {"limit_train_batches": 4},
        {"reload_dataloaders_every_n_epochs": 1},
        {"val_check_interval": 3, "limit_val_batches": 1},
        {"overfit_batches": 2},
    ],
)
def test_trainers_options(runs: Runs, epochs: Any, changes: dict[str, Any], workers: int, tmp_path: Path) -> None:
    saver, model = Saver(tmp_path), Watcher()
    settings = {**PLAIN, **changes}
    own = Runs(runs.plan, runs.folder, settings={"num_workers": workers, "cache_bytes": "10 MB"}, cache=runs.cache)
    own.fit(saver, model=model, **settings)
    if "overfit_batches" in changes:
        assert model.steps[:2] == model.steps[2:4] == model.steps[4:]
        return
    cut = changes.get("limit_train_batches")
    assert model.steps == flat([epoch[:cut] for epoch in epochs[:3]])
    if not workers:
        for event in ("0 after 3", "0 end", "1 after 2"):
            again = own.fit(checkpoint=tmp_path / f"{event}.ckpt", **settings)
            assert again.steps == model.steps[saver.points[event] :], event


def test_a_trainer_without_the_module_is_told_what_it_leaves_out(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    data = runs.data(transforms=Epochs())
    data.setup()
    with caplog.at_level(logging.WARNING, "lsstcutouts"):
        fabric = L.Fabric(accelerator="cpu", devices=1)
        list(
            fabric.setup_dataloaders(data.train_dataloader())
        )  # Fabric has no data modules: its loop calls transform()
        runs.trainer(**{**PLAIN, "max_epochs": 1}).fit(Watcher(), data)
        assert not caplog.records
        for trainer in (runs.trainer(**PLAIN), runs.trainer(**PLAIN)):
            trainer.fit(Watcher(), data.train_dataloader())
    (record,) = caplog.records
    assert "reads train_dataloader() without its data module, so transforms will not run" in record.getMessage()
    assert "datamodule=data" in record.getMessage()
    for split in ("val", "predict"):
        caplog.clear()
        data = runs.data(transforms=Epochs())
        data.setup()
        trainer = runs.trainer()
        if split == "val":
            trainer.validate(Watcher(), data.val_dataloader(), verbose=False)
        else:
            trainer.predict(Predicting(), data.predict_dataloader())
        assert f"reads {split}_dataloader()" in caplog.text


# The trainer's precision.


class Kept(Watcher):
    """Keeps its batch."""

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.batch = dict(batch)
        return self.layer(batch["image"].mean((1, 2, 3))[:, None].to(self.layer.weight.dtype)).square().mean()


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("bf16-true", torch.bfloat16),
        ("16-true", torch.float16),
        ("64-true", torch.float64),
        ("bf16-mixed", torch.float32),
    ],
)
def test_the_image_follows_the_precision_and_positions_keep_their_type(runs: Runs, precision: Any, kind: Any) -> None:
    model = Kept()
    runs.trainer(precision=precision, **{**PLAIN, "max_epochs": 1, "limit_train_batches": 1}).fit(model, runs.data())
    batch, plain = model.batch, next(iter(runs.loader()))
    assert batch.keys() == plain.keys()
    for name, value in plain.items():
        wanted = value.to(kind) if value.dtype == torch.float32 else value
        assert batch[name].dtype == wanted.dtype, name
        assert torch.equal(batch[name], wanted), name
    assert {plain[name].dtype for name in ("ra", "dec", "wcs")} == {torch.float64}


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_a_loader_alone_in_a_trainer_is_told_that_positions_are_lost(
    runs: Runs, caplog: pytest.LogCaptureFixture, precision: Any
) -> None:
    model = Kept()
    with caplog.at_level(logging.WARNING, "lsstcutouts"):
        trainer = runs.trainer(precision=precision, **{**PLAIN, "max_epochs": 2, "limit_train_batches": 1})
        trainer.fit(model, runs.loader())
    lost = model.batch["ra"].dtype != torch.float64
    assert lost == (precision == "bf16-true")
    assert [r.getMessage().startswith("precision='bf16-true' converts ra, dec and wcs") for r in caplog.records] == (
        [True] if lost else []
    )
