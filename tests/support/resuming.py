"""Trainings that are cut anywhere and go on: the grid of cells, for people as ``python -m tests.support.resuming``.

One run saves a checkpoint at each event; further fits in the same process go on from each. Every run notes what it
trained on, batch by batch, and a resumed one must see exactly what the uninterrupted one saw after that event.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch import nn

from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulationConfig

from .processes import run_ranks
from .repositories import SMALL, simulated_once

EPOCHS = 3
GLOBAL_BATCH = 8
WORKERS: Mapping[str, Mapping[str, Any]] = {
    "0": {},
    "2": {"num_workers": 2},
}
CELLS = ("start", "every step", "late epoch", "end of epoch", "validation inside", "accumulation", "limited epochs")

PLAIN: Mapping[str, Any] = {"limit_val_batches": 0, "max_epochs": EPOCHS}
"""A training of whole epochs without validation."""

type Seen = list[tuple[int, list[int], float]]
"""Epoch, object ids and the weight before the step, of each batch."""


class Watcher(L.LightningModule):
    """A model that notes what it is trained on, and whose weights depend on it and on the order."""

    def __init__(self, stop_after: int = sys.maxsize) -> None:
        super().__init__()
        self.stop_after = stop_after
        self.layer = nn.Linear(1, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.layer.bias, 0.0)
        self.seen: Seen = []
        self.validated: list[list[int]] = []

    @property
    def steps(self) -> list[list[int]]:
        """Object ids of each batch."""
        return [ids for _, ids, _ in self.seen]

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, batch["object_id"].tolist(), self.layer.weight.item()))
        self.trainer.should_stop |= len(self.seen) >= self.stop_after
        return self.layer(batch["object_id"].float()[:, None] % 7 / 7).square().mean()

    def on_validation_epoch_start(self) -> None:
        self.validated.append([])

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated[-1] += batch["object_id"][~batch["is_padding"]].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)


class Saver(L.Callback):
    """Saves a checkpoint at every event, and notes how many batches had been trained on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points: dict[str, int] = {}

    def save(self, trainer: L.Trainer, event: str) -> None:
        model: Any = trainer.lightning_module
        name = f"{trainer.current_epoch} {event}"
        self.points[name] = len(model.seen)
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.save(trainer, "start")

    def on_train_batch_start(self, trainer: L.Trainer, _: Any, __: Any, index: int) -> None:
        self.save(trainer, f"before {index + 1}")

    def on_train_batch_end(self, trainer: L.Trainer, _: Any, __: Any, ___: Any, index: int) -> None:
        self.save(trainer, f"after {index + 1}")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.save(trainer, f"validated {trainer.fit_loop.epoch_loop.batch_progress.current.ready}")

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.save(trainer, "end")


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


@dataclass
class Runs:
    """What runs have in common: repository, plan, tiles, ranks, and the folder of the checkpoints."""

    plan: CutoutPlan
    folder: Path
    world: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False
    cache: TileCache = field(default_factory=lambda: TileCache("50 MB"))

    def data(self, **changes: Any) -> CutoutDataModule:
        arguments: dict[str, Any] = {
            "splits": {"train": 0.75, "val": 0.25},
            "batch_size": GLOBAL_BATCH // self.world,
            "threads": 1,
            "cache_bytes": "50 MB",
            **self.settings,
            **changes,
        }
        data = CutoutDataModule("unused", "dp2", None, self.plan.bands, 16, plan=self.plan, **arguments)
        data.cache = self.cache  # hundreds of runs over the same tiles
        return data

    def loader(self, workers: int = 0, **settings: Any) -> CutoutLoader:
        """Return a loader of the same batches as the data module's, without the data module."""
        data = self.data()
        data.setup()
        plan, rows = data.splits["train"]
        dataset = CutoutDataset(plan, rows=rows, batch_size=GLOBAL_BATCH, threads=1, cache=self.cache)
        return CutoutLoader(dataset, num_workers=workers, **settings)

    def trainer(self, *callbacks: L.Callback, **changes: Any) -> L.Trainer:
        arguments: dict[str, Any] = {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "devices": self.world,
            "strategy": "ddp" if self.world > 1 else "auto",
            "logger": False,
            "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": self.folder,
            **changes,
        }
        return L.Trainer(callbacks=list(callbacks), **arguments)

    def fit(
        self, *callbacks: L.Callback, checkpoint: Path | None = None, model: Watcher | None = None, **changes: Any
    ) -> Watcher:
        model = model or Watcher()
        path = None if checkpoint is None else str(checkpoint)
        self.trainer(*callbacks, **changes).fit(model, self.data(), ckpt_path=path, weights_only=True)
        return model


def resumed(
    runs: Runs, reference: Watcher, points: Mapping[str, int], names: Iterable[str], folder: Path, **changes: Any
) -> dict[str, Any]:
    """Return a cell: what an uninterrupted run saw, and what was seen by runs that went on from some checkpoints.

    A quick run ends in the epoch after; with worker processes, which take their time to start, two checkpoints serve it.
    """
    names = list(names)
    few = names[len(names) // 2 :: max(1, len(names) // 2)] if runs.quick and runs.settings else names
    enough = len(reference.seen) // EPOCHS + 1 if runs.quick else sys.maxsize
    found = {}
    for name in few:
        model = runs.fit(checkpoint=folder / f"{name}.ckpt", model=Watcher(enough), **changes)
        found[name] = {"before": points[name], "after": model.seen, "enough": enough}
    return {"reference": reference.seen, "points": found}


def whole_epochs(runs: Runs, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the cells of a plain training; Lightning's own callback writes the checkpoints of its steps."""
    plain = {"limit_val_batches": 0}
    saver = Saver(folder)
    steps = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    reference = runs.fit(saver, steps, **plain)
    n = len(reference.seen) // EPOCHS
    short = runs.trainer(max_epochs=1, **plain)
    short.fit(Watcher(), runs.data())
    short.save_checkpoint(folder / "fit over.ckpt")
    points = {**saver.points, "fit over": n, **{f"step={k}": k for k in range(1, n)}}
    names = {
        "start": ["0 start", "0 before 1"],
        "every step": [f"step={k}" for k in range(1, n)],
        "late epoch": ["2 before 1", *(f"2 after {k}" for k in (1, n // 2, n - 1))],
        "end of epoch": [f"0 after {n}", "0 end", "fit over", f"1 after {n}", "1 end"],
    }
    return {name: resumed(runs, reference, points, which, folder, **plain) for name, which in names.items()}


def other_loops(runs: Runs, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the cells of loops that validate, step or end at other places than after a whole epoch."""
    changes: dict[str, dict[str, Any]] = {
        "validation inside": {"val_check_interval": 3},
        "accumulation": {"accumulate_grad_batches": 3, "limit_val_batches": 0},
        "limited epochs": {"limit_train_batches": 5, "limit_val_batches": 0},
    }
    names = {
        "validation inside": ["0 after 2", "0 after 3", "0 validated 3", "0 before 4", "0 after 4", "1 validated 6"],
        "accumulation": ["0 after 1", "0 after 2", "0 after 3", "0 after 4", "1 after 5", "0 end"],
        "limited epochs": ["0 after 2", "0 after 4", "0 after 5", "0 end", "1 before 1", "1 after 3"],
    }
    found = {}
    for name, change in changes.items():
        saver = Saver(folder / name)
        reference = runs.fit(saver, **change)
        found[name] = resumed(runs, reference, saver.points, names[name], folder / name, **change)
    return found


def grid(runs: Runs) -> dict[str, dict[str, Any]]:
    """Return all cells of one row of the grid."""
    return {**whole_epochs(runs, runs.folder / "whole"), **other_loops(runs, runs.folder)}


def flat(epochs: list[list[list[int]]]) -> list[list[int]]:
    """Return the batches of epochs one after the other."""
    return [step for epoch in epochs for step in epoch]


# Judging.


def epochs_of(seen: Seen) -> dict[int, list[int]]:
    epochs: dict[int, list[int]] = {}
    for epoch, ids, _ in seen:
        epochs.setdefault(epoch, []).extend(ids)
    return epochs


def faults(cells: list[dict[str, Any]], train: set[int], *, whole: bool = True, weights: bool = True) -> list[str]:
    """Return what is wrong with one cell of the grid, of all its ranks together."""
    wrong = []
    if len({len(c["reference"]) for c in cells}) != 1:
        wrong.append("ranks take different numbers of steps")
    for epoch in range(EPOCHS):
        ids = [i for c in cells for i in epochs_of(c["reference"])[epoch]]
        if len(set(ids)) != len(ids) or not set(ids) <= train or (whole and set(ids) != train):
            wrong.append(f"epoch {epoch} is no permutation")
    for rank, c in enumerate(cells):
        for name, point in c["points"].items():
            expected = c["reference"][point["before"] :][: point["enough"]]
            if [seen[:2] for seen in point["after"]] != [seen[:2] for seen in expected]:
                wrong.append(f"{name} (rank {rank}): other batches than without the interruption")
            elif weights and point["after"] != expected:
                wrong.append(f"{name} (rank {rank}): other weights")
    return wrong


def judged(results: list[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Return the faults of each cell, by name of the workers and of the cell, from the results of all ranks."""
    train = set(results[0]["train"])
    return {
        # Gradients that were not applied yet are not in Lightning's checkpoints.
        (workers, name): faults(
            [r["rows"][workers][name] for r in results],
            train,
            whole=name != "limited epochs",
            weights=name != "accumulation",
        )
        for workers in results[0]["rows"]
        for name in CELLS
    }


# One process of some ranks, and the tool.


def small_plan() -> CutoutPlan:
    repo = simulated_once(SimulationConfig(release="dp2", **SMALL))
    return build_plan(repo.root, repo.truth, collections="dp2", bands="g", size=16)


def series(plan: Path, out: Path, world: int, workers: Iterable[str], *, quick: bool) -> dict[str, Any]:
    """Run rows of the grid in this rank."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    # Worker processes import this module, as the main one, and all it imports: once for all of them.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.support.resuming"])
    rows = {}
    for name in workers:
        runs = Runs(CutoutPlan.load(plan), out / name, world, WORKERS[name], quick)
        rows[name] = grid(runs)
    data = runs.data()
    data.setup()
    table, chosen_rows = data.splits["train"]
    return {"train": table.object_id[chosen_rows].tolist(), "rows": rows}


def started(
    plan: Path, out: Path, world: int, workers: Iterable[str] = WORKERS, *, quick: bool = True
) -> list[dict[str, Any]]:
    """Run rows of the grid in processes of their own, and return the result of each rank."""
    arguments = ["--plan", str(plan), "--out", str(out), "--ranks", str(world), "--workers", *workers]
    arguments += ["--quick"] if quick else []
    out.mkdir(parents=True, exist_ok=True)
    run_ranks("tests.support.resuming", arguments, world, timeout=900)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]


def table_of(grids: Mapping[int, Mapping[tuple[str, str], list[str]]]) -> Table:
    table = Table("ranks", "workers", *CELLS, title="Resumed runs that see what an uninterrupted one sees")
    for world, found in grids.items():
        for workers in dict.fromkeys(w for w, _ in found):
            table.add_row(str(world), workers, *("; ".join(found[workers, c]) or "ok" for c in CELLS))
    return table


def continued(plan: Path, out: Path, world: int, checkpoint: Path) -> dict[str, Any]:
    """Go on from a checkpoint of another number of ranks, and save some of this one."""
    runs = Runs(CutoutPlan.load(plan), out, world)
    plain: dict[str, Any] = {"limit_val_batches": 0, "max_epochs": 2}
    saver = Saver(out)
    own = runs.fit(saver, **plain)
    points = {name: saver.points[name] for name in ("0 after 2", f"0 after {len(own.seen) // 2}", "1 after 1")}
    return {"seen": runs.fit(checkpoint=checkpoint, **plain).seen, "own": own.seen, "points": points}


class Slowly(L.Callback):
    """Gives a test the time to end the process in the middle of an epoch."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, help="run in this process, on this plan")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", nargs="+", default=list(WORKERS), choices=list(WORKERS))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="end in the epoch after; two checkpoints a cell where there are worker processes",
    )
    parser.add_argument("--continue", type=Path, dest="checkpoint", help="only go on from a checkpoint")
    parser.add_argument("--slow", action="store_true", help="only train, slowly")
    options = parser.parse_args()
    if options.slow:
        Runs(CutoutPlan.load(options.plan), options.out, 1, {"num_workers": 1}).fit(Slowly(), Saver(options.out))
        return
    if options.plan is not None:
        (world,) = options.ranks
        if options.checkpoint is not None:
            result = continued(options.plan, options.out, world, options.checkpoint)
        else:
            result = series(options.plan, options.out, world, options.workers, quick=options.quick)
        rank = torch.distributed.get_rank() if world > 1 else 0
        (options.out / f"rank{rank}.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.parquet"
        small_plan().save(plan)
        grids = {
            n: judged(started(plan, Path(folder) / f"{n} ranks", n, options.workers, quick=options.quick))
            for n in options.ranks
        }
    Console(width=160).print(table_of(grids))
    sys.exit(any(wrong for found in grids.values() for wrong in found.values()))


if __name__ == "__main__":
    main()
