"""A search for a learning rate or a batch size, before or inside a training, moves nothing."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner

from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader

from ..support.resuming import PLAIN, Runs, SaveAt, Watcher, flat

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=:UserWarning"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),
]


class Tuned(Watcher):
    """A model that a search can tune: it has a learning rate and a batch size."""

    def __init__(self, data: CutoutDataModule | None = None) -> None:
        super().__init__()
        self.lr = 0.05
        self.data = data

    @property
    def batch_size(self) -> int:
        assert self.data is not None
        return self.data.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        assert self.data is not None
        self.data.batch_size = size


@pytest.mark.parametrize("search", ["learning rate", "batch size"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_search_before_the_training_moves_nothing(
    runs: Runs, epochs: Any, tmp_path: Path, search: str, resumed: bool
) -> None:
    data, path = runs.data(), tmp_path / "x.ckpt"
    if resumed:
        runs.trainer(SaveAt(1, 3, path), **{**PLAIN, "max_epochs": 2}).fit(Watcher(), data)
    model, trainer = Tuned(data), runs.trainer(**PLAIN)
    if search == "learning rate":
        Tuner(trainer).lr_find(model, datamodule=data, num_training=5, update_attr=False)
    else:
        Tuner(trainer).scale_batch_size(model, datamodule=data, max_trials=2, steps_per_trial=2)
        data.batch_size = 8
    model.seen.clear()
    trainer.fit(model, data, ckpt_path=str(path) if resumed else None, weights_only=True)
    assert model.steps == flat(epochs[:3])[len(epochs[0]) + 3 if resumed else 0 :]


@pytest.mark.parametrize("search", ["learning rate", "batch size"])
def test_a_search_in_the_middle_of_the_training_moves_nothing(runs: Runs, epochs: Any, search: str) -> None:
    """Lightning's documented FineTuneBatchSizeFinder and FineTuneLearningRateFinder, at the start of epoch 1."""

    class Size(BatchSizeFinder):
        def on_fit_start(self, *_: Any) -> None:
            return

        def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
            if trainer.current_epoch == 1 and not found:
                found.append(len(module.seen))
                self.scale_batch_size(trainer, module)
                found.append(len(module.seen))

    class Rate(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None:
            return

        def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
            if trainer.current_epoch == 1 and not found:
                found.append(len(module.seen))
                self.lr_find(trainer, module)
                found.append(len(module.seen))

    data = runs.data()
    model, found = Tuned(data), list[int]()
    finder = Size(max_trials=2, steps_per_trial=2, init_val=2) if search == "batch size" else Rate(num_training_steps=4)
    runs.trainer(finder, **PLAIN).fit(model, data)
    before, after = model.steps[: found[0]], model.steps[found[1] :]
    assert before == epochs[0]
    if search == "learning rate":
        assert after == flat(epochs[1:3])
        return
    # Other batches of the same targets. Lightning 2.6 counts the batches of the epoch before as batches of this one, and so
    # ends it early, for any loader; what it takes of it comes in order, and the next epoch is whole.
    assert data.batch_size != 8
    dataset = runs.loader().cutouts
    wanted = CutoutLoader(
        CutoutDataset(dataset.plan, rows=dataset.rows, batch_size=data.batch_size, threads=1, cache=runs.cache)
    )
    wanted.set_epoch(1)
    first, second = ([b["object_id"].tolist() for b in wanted] for _ in range(2))
    assert after[-len(second) :] == second
    assert after[: -len(second)] in (first, first[: max(1, len(first) - len(before))])


def test_a_search_with_a_loader_moves_nothing(runs: Runs, epochs: Any) -> None:
    loader, model, trainer = runs.loader(), Tuned(), runs.trainer(**PLAIN)
    Tuner(trainer).lr_find(model, train_dataloaders=loader, num_training=5, update_attr=False)
    model.seen.clear()
    trainer.fit(model, loader)
    assert model.steps == flat(epochs[:3])
