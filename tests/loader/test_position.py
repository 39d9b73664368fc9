"""The position of a training stays right, whatever else uses its data module or loader meanwhile.

Each way of use must see, step by step, what an uninterrupted training sees.
"""

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from ..support.resuming import Runs, Saver, Watcher

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=:UserWarning"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),
]
PLAIN: dict[str, Any] = {"limit_val_batches": 0, "max_epochs": 3}


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


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="g", size=16)


@pytest.fixture(scope="module")
def runs(plan: CutoutPlan, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(plan, tmp_path_factory.mktemp("positions"))


@pytest.fixture(scope="module")
def epochs(runs: Runs) -> list[list[list[int]]]:
    """Object ids of each batch of each of five epochs, from the loader alone."""
    data = runs.data()
    data.setup()
    loader = data.train_dataloader()
    return [[batch["object_id"].tolist() for batch in loader] for _ in range(5)]


def steps(model: Watcher) -> list[list[int]]:
    return [ids for _, ids, _ in model.seen]


def flat(epochs: list[list[list[int]]]) -> list[list[int]]:
    return [step for epoch in epochs for step in epoch]


def loader_of(runs: Runs, workers: int = 0, **settings: Any) -> CutoutLoader:
    """Return a loader of the same batches as the data module's, without the data module."""
    data = runs.data()
    data.setup()
    plan, rows = data.splits["train"]
    dataset = CutoutDataset(plan, rows=rows, batch_size=8, threads=1, cache=runs.cache)
    return CutoutLoader(dataset, num_workers=workers, **settings)


class At(L.Callback):
    """Does something before a step."""

    def __init__(self, epoch: int, batch: int, what: Callable[[L.Trainer], None]) -> None:
        self.place, self.what = (epoch, batch), what

    def on_train_batch_start(self, trainer: L.Trainer, _: Any, __: Any, index: int) -> None:
        if (trainer.current_epoch, index) == self.place:
            self.what(trainer)


class SaveAt(At):
    """Saves a checkpoint before a step."""

    def __init__(self, epoch: int, batch: int, path: Path) -> None:
        super().__init__(epoch, batch, lambda trainer: trainer.save_checkpoint(path))


# One data module, several trainers.


@pytest.mark.parametrize("batch", [0, 3])
def test_one_module_in_a_second_trainer_resumes(runs: Runs, epochs: Any, tmp_path: Path, batch: int) -> None:
    data, path = runs.data(), tmp_path / "x.ckpt"
    first = Watcher()
    runs.trainer(SaveAt(1, batch, path), **{**PLAIN, "max_epochs": 2}).fit(first, data)
    for _ in range(2):  # also a third one
        again = Watcher()
        runs.trainer(**PLAIN).fit(again, data, ckpt_path=str(path), weights_only=True)
        assert steps(again) == flat(epochs[:3])[len(epochs[0]) + batch :]


def test_one_module_in_a_second_trainer_resumes_after_the_last_epoch(runs: Runs, epochs: Any, tmp_path: Path) -> None:
    data, path = runs.data(), tmp_path / "x.ckpt"
    trainer = runs.trainer(**{**PLAIN, "max_epochs": 1})
    trainer.fit(Watcher(), data)
    next(iter(data.train_dataloader()))  # a look at a batch, as in a notebook
    trainer.save_checkpoint(path)
    again = Watcher()
    runs.trainer(**PLAIN).fit(again, data, ckpt_path=str(path), weights_only=True)
    assert steps(again) == flat(epochs[1:3])


def test_one_module_in_a_second_trainer_without_a_checkpoint_begins_at_the_beginning(runs: Runs, epochs: Any) -> None:
    data = runs.data()
    for _ in range(2):
        model = Watcher()
        runs.trainer(**{**PLAIN, "max_epochs": 2}).fit(model, data)
        assert steps(model) == flat(epochs[:2])


def test_a_second_fit_of_a_trainer_goes_on(runs: Runs, epochs: Any) -> None:
    data, model, trainer = runs.data(), Watcher(), runs.trainer(**{**PLAIN, "max_epochs": 1})
    trainer.fit(model, data)
    trainer.validate(model, data, verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, data)
    assert steps(model) == flat(epochs[:3])


# Searches.


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
    assert steps(model) == flat(epochs[:3])[len(epochs[0]) + 3 if resumed else 0 :]


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
    before, after = steps(model)[: found[0]], steps(model)[found[1] :]
    assert before == epochs[0]
    if search == "learning rate":
        assert after == flat(epochs[1:3])
        return
    # Other batches of the same targets. Lightning 2.6 counts the batches of the epoch before as batches of this one, and so
    # ends it early, for any loader; what it takes of it comes in order, and the next epoch is whole.
    assert data.batch_size != 8
    dataset = loader_of(runs).cutouts
    wanted = CutoutLoader(
        CutoutDataset(dataset.plan, rows=dataset.rows, batch_size=data.batch_size, threads=1, cache=runs.cache)
    )
    wanted.set_epoch(1)
    first, second = ([b["object_id"].tolist() for b in wanted] for _ in range(2))
    assert after[-len(second) :] == second
    assert after[: -len(second)] in (first, first[: max(1, len(first) - len(before))])


def test_a_search_with_a_loader_moves_nothing(runs: Runs, epochs: Any) -> None:
    loader, model, trainer = loader_of(runs), Tuned(), runs.trainer(**PLAIN)
    Tuner(trainer).lr_find(model, train_dataloaders=loader, num_training=5, update_attr=False)
    model.seen.clear()
    trainer.fit(model, loader)
    assert steps(model) == flat(epochs[:3])


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
    assert steps(model) == flat(epochs[:2])
    assert noted.noted[: outside[0]] + noted.noted[outside[1] :] == [0] * n + [1] * n
    assert data[0].trainer is trainer or what is not asks
    for event, done in (("1 after 4", n + 4), ("1 after 6", n + 6), ("1 end", 2 * n)):
        assert saver.points[event] == done
        again = Watcher()
        runs.trainer(**PLAIN).fit(again, runs.data(), ckpt_path=str(tmp_path / f"{event}.ckpt"), weights_only=True)
        assert steps(again) == flat(epochs[:3])[done:]


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
    runs.trainer(saver, **{**PLAIN, "max_epochs": 2}).fit(model, loader_of(runs))
    assert steps(model) == flat(epochs[:2])
    again = Watcher()
    path = str(tmp_path / f"{event}.ckpt")
    runs.trainer(**PLAIN).fit(again, loader_of(runs), ckpt_path=path, weights_only=True)
    assert steps(again) == flat(epochs[:3])[saver.points[event] :]


def test_a_loader_in_a_second_trainer_begins_at_the_beginning(runs: Runs, epochs: Any) -> None:
    loader = loader_of(runs)
    for _ in range(2):
        model = Watcher()
        runs.trainer(**{**PLAIN, "max_epochs": 2}).fit(model, loader)
        assert steps(model) == flat(epochs[:2])


class Paired(Watcher):
    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, [b["object_id"].tolist() for b in batch.values()], 0.0))
        return self.layer(batch["long"]["object_id"].float()[:, None] % 7 / 7).square().mean()


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size"])
def test_loaders_side_by_side_resume(runs: Runs, tmp_path: Path, mode: Any) -> None:
    """The shorter one begins another epoch of its own in each epoch of the trainer; an own loader would, too."""

    def both() -> CombinedLoader:
        long = loader_of(runs)
        data = long.cutouts
        short = CutoutDataset(data.plan, rows=data.rows[:30], batch_size=8, threads=1, cache=runs.cache)
        return CombinedLoader({"long": long, "short": CutoutLoader(short)}, mode)

    saver, model = Saver(tmp_path), Paired()
    runs.trainer(saver, **PLAIN).fit(model, both())
    ids = steps(model)
    n = len(ids) // 3
    assert ids[:n] != ids[n : 2 * n] != ids[2 * n :]
    for event in ("0 after 2", f"0 after {n - 1}", "0 end", "1 after 1", "1 end"):
        again = Paired()
        runs.trainer(**PLAIN).fit(again, both(), ckpt_path=str(tmp_path / f"{event}.ckpt"), weights_only=True)
        assert steps(again) == ids[saver.points[event] :], event


def test_a_module_of_several_loaders_resumes(runs: Runs, tmp_path: Path) -> None:
    class Several(CutoutDataModule):
        def train_dataloader(self) -> Any:
            return {"long": super().train_dataloader(), "other": loader_of(runs)}

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
        assert steps(again) == steps(model)[saver.points[event] :], event


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
        assert steps(model)[:2] == steps(model)[2:4] == steps(model)[4:]
        return
    cut = changes.get("limit_train_batches")
    assert steps(model) == flat([epoch[:cut] for epoch in epochs[:3]])
    if not workers:
        for event in ("0 after 3", "0 end", "1 after 2"):
            again = own.fit(checkpoint=tmp_path / f"{event}.ckpt", **settings)
            assert steps(again) == steps(model)[saver.points[event] :], event


# Plain loops.


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loop_that_stops_half_way(runs: Runs, epochs: Any, workers: int) -> None:
    loader, seen = loader_of(runs, workers), []
    for batch in loader:
        seen.append(batch["object_id"].tolist())
        if len(seen) == 3:
            break
    state = loader.state_dict()
    assert [batch["object_id"].tolist() for batch in loader] == epochs[1]  # the next epoch
    later = loader_of(runs)
    later.load_state_dict(state)
    assert seen + [batch["object_id"].tolist() for batch in later] == epochs[0]
    assert [batch["object_id"].tolist() for batch in later] == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_several_iterators_of_one_loader(runs: Runs, epochs: Any, workers: int) -> None:
    loader = loader_of(runs, workers)
    assert [[a["object_id"].tolist(), b["object_id"].tolist()] for a, b in zip(loader, loader, strict=True)] == [
        [ids, ids] for ids in epochs[0]
    ]
    early = iter(loader)
    seen = [next(early)["object_id"].tolist()]
    late = iter(loader)  # takes the workers over
    assert next(late)["object_id"].tolist() == epochs[2][0]
    seen += [batch["object_id"].tolist() for batch in early]
    assert seen == epochs[1]
    assert [batch["object_id"].tolist() for batch in late] == epochs[2][1:]
    assert loader.position == (2, len(loader))
    assert loader.report.delivered == len(loader.cutouts.rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_loaders_of_one_dataset(runs: Runs, epochs: Any, workers: int) -> None:
    one = loader_of(runs, workers)
    other = CutoutLoader(one.cutouts, num_workers=workers)
    other.set_epoch(3)
    first, second = iter(one), iter(other)
    pairs = [(next(first)["object_id"].tolist(), next(second)["object_id"].tolist()) for _ in range(len(one))]
    assert pairs == list(zip(epochs[0], epochs[3], strict=True))
    assert one.report.delivered == other.report.delivered == len(one.cutouts.rows)
    assert (one.position.epoch, other.position.epoch) == (0, 3)


def test_the_position_is_taken_at_iter(runs: Runs, epochs: Any) -> None:
    loader = loader_of(runs)
    passing = iter(loader)
    loader.set_epoch(4)
    assert next(passing)["object_id"].tolist() == epochs[0][0]
    assert [batch["object_id"].tolist() for batch in loader] == epochs[4]
    with pytest.raises(ConfigurationError, match="epoch must be at least 0, got -1"):
        loader.set_epoch(-1)


def unpickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, unpickled])
def test_copies_have_positions_of_their_own(runs: Runs, epochs: Any, how: Callable[[Any], Any]) -> None:
    loader = loader_of(runs)
    passing = iter(loader)
    next(passing), next(passing)
    made = how(loader)
    assert made.position == (0, 2)
    assert [b["object_id"].tolist() for b in made] == epochs[1]  # after a pass that delivered something
    assert loader.position == (0, 2)
    assert [b["object_id"].tolist() for b in passing] == epochs[0][2:]
    assert loader.report is not made.report
    made.load_state_dict({"epoch": 3, "batch": 0})
    assert [b["object_id"].tolist() for b in loader] == epochs[1]
    assert [b["object_id"].tolist() for b in made] == epochs[3]
    dataset = loader.cutouts
    dataset.set_epoch(2)
    other = how(dataset)
    dataset.set_epoch(0)
    assert [b["object_id"].tolist() for b in other] == epochs[2]
    assert [b["object_id"].tolist() for b in dataset] == epochs[0]
    assert [b["object_id"].tolist() for b in other] == epochs[3]


def test_a_copied_module_has_its_own_position(runs: Runs, epochs: Any) -> None:
    data = runs.data()
    data.setup()
    loader = data.train_dataloader()
    next(iter(loader))
    made = copy.deepcopy(data)
    assert [b["object_id"].tolist() for b in made.train_dataloader()] == epochs[0]
    assert data.state_dict()["train"]["batch"] == 1


def test_fabric_counts_its_own_epochs(runs: Runs, epochs: Any) -> None:
    """It tells 0, 1, ... from its own start, also where a training goes on."""
    fabric = L.Fabric(accelerator="cpu", devices=1)
    loader = loader_of(runs)
    wrapped: Iterator[Any] = fabric.setup_dataloaders(loader)  # type: ignore[assignment]
    assert [[b["object_id"].tolist() for b in wrapped] for _ in range(2)] == epochs[:2]
    passing = iter(wrapped)
    seen = [next(passing)["object_id"].tolist() for _ in range(3)]
    state = loader.state_dict()
    later = loader_of(runs)
    later.load_state_dict(state)
    wrapped = fabric.setup_dataloaders(later)  # type: ignore[assignment]
    assert seen + [b["object_id"].tolist() for b in wrapped] == epochs[2]
    assert [b["object_id"].tolist() for b in wrapped] == epochs[3]


def test_reading_leaves_the_global_random_numbers_alone(runs: Runs) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        for _ in loader_of(runs, workers):
            pass
    assert torch.equal(torch.get_rng_state(), before)


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
    batch, plain = model.batch, next(iter(loader_of(runs)))
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
        trainer.fit(model, loader_of(runs))
    lost = model.batch["ra"].dtype != torch.float64
    assert lost == (precision == "bf16-true")
    assert [r.getMessage().startswith("precision='bf16-true' converts ra, dec and wcs") for r in caplog.records] == (
        [True] if lost else []
    )
