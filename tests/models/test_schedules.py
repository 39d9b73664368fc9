"""Schedules of the learning rate: their shape, and that a lengthened training follows the new length."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.models.schedules import Constant, Cosine, LearningRateSchedule, OneCycle


def rates(schedule: LearningRateSchedule, steps: int, among: int) -> list[float]:
    schedule.set_total_steps(lambda: among)
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def sgd(lr: float = 2.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_one_cycle_is_a_line_and_half_a_cosine() -> None:
    found = np.array(rates(OneCycle(sgd()), 100, 100)) / 2.0
    np.testing.assert_allclose(found[:25], 0.04 + 0.96 * np.arange(25) / 25)
    wanted = torch.optim.lr_scheduler.CosineAnnealingLR(sgd(1.0), 75)
    for step in range(25, 100):
        assert found[step] == pytest.approx(wanted.get_last_lr()[0])
        wanted.optimizer.step()
        wanted.step()


def test_cosine_and_constant() -> None:
    found = rates(Cosine(sgd(), end=0.1), 11, 10)
    assert (found[0], found[5]) == (2.0, pytest.approx(2.0 * 0.55))
    assert found[10] == pytest.approx(0.2)
    assert rates(Constant(sgd()), 5, 3) == [2.0] * 5


def test_the_end_is_not_passed_and_a_longer_training_goes_on() -> None:
    schedule = OneCycle(sgd())
    assert rates(schedule, 12, 10)[-1] == pytest.approx(0.0)
    again = OneCycle(sgd())
    again.load_state_dict(torch_plain(schedule.state_dict()))
    assert rates(again, 2, 24)[1] == pytest.approx(2.0 * again.factor(13 / 24))


def torch_plain(state: dict[str, Any]) -> dict[str, Any]:
    assert all(isinstance(v, int | float | bool | list) for v in state.values())
    return state


@pytest.mark.parametrize(
    "wrong", [partial(OneCycle, warmup=0.0), partial(OneCycle, start=2.0), partial(Cosine, end=-1)]
)
def test_what_cannot_be(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be in"):
        wrong(sgd())


def batches(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(count)
    ids = torch.arange(6)
    image = torch.randn(6, 3, 16, 16, generator=generator)
    common = {"object_id": ids, "label": ids % 2, "is_padding": ids > 4}
    return [{**common, "image": image} for _ in range(count)]


class Rates(L.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        (None, None),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(Cosine, end=0.5)),
        (partial(torch.optim.Adam, lr=0.1), partial(torch.optim.lr_scheduler.StepLR, step_size=2)),
    ],
)
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
def test_a_model_takes_factories_and_its_checkpoint_is_plain(optimizer: Any, scheduler: Any, tmp_path: Path) -> None:
    watch = Rates()
    model = LensClassifier(LensFinder(3, widths=[4]), lr=0.1, optimizer=optimizer, scheduler=scheduler)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, default_root_dir=tmp_path, callbacks=[watch], **quiet
    )
    loader = torch.utils.data.DataLoader(batches(4), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, loader)
    wanted = {
        None: [0.04, 1.0, 0.75, 0.25],
        Cosine: [0.75 + 0.25 * math.cos(math.pi * step / 4) for step in range(4)],
        torch.optim.lr_scheduler.StepLR: [1.0, 1.0, 0.1, 0.1],
    }[None if scheduler is None else scheduler.func]
    assert watch.seen == pytest.approx([0.1 * factor for factor in wanted])
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert state["hyper_parameters"] == {
        "lr": 0.1,
        "weight_decay": 1e-3,
        "label": "label",
        "scheduler_interval": "step",
    }
    network = LensFinder(3, widths=[4])
    again = LensClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=network, weights_only=True)
    assert again.lr == 0.1
