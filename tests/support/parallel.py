"""Fits of several ranks in one process group, for ``test_ranks.py``: each rank writes what it saw as JSON."""

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchmetrics import MeanMetric

from lsstcutouts.plan.cutout_plan import CutoutPlan

from .resuming import GLOBAL_BATCH, Runs, Watcher

FITS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"num_sanity_val_steps": 2},
    "reloaded": {"reload_dataloaders_every_n_epochs": 1},
    "limited": {"limit_train_batches": 3},
    "half": {"limit_train_batches": 0.5},
    "accumulated": {"accumulate_grad_batches": 3},
    "development": {"fast_dev_run": True},
    "overfitted": {"overfit_batches": 2},
}


class Measured(Watcher):
    """A watcher that also notes the sanity check and padding, and logs a mean over the validation split."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()
        self.padding = 0
        self.checked: list[int] = []
        self.logged: list[float] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if batch["is_padding"].any():
            self.padding += 1
            batch = {**batch, "object_id": batch["object_id"][~batch["is_padding"]]}
            loss = super().training_step(batch, index)
            return torch.nan_to_num(loss) if len(batch["object_id"]) else self.layer.weight.sum() * 0
        return super().training_step(batch, index)

    def validation_step(self, batch: Any, index: int) -> None:
        real = batch["object_id"][~batch["is_padding"]]
        if self.trainer.sanity_checking:
            self.checked += real.tolist()
            return
        super().validation_step(batch, index)
        self.mean.update((real % 97).double())  # the ids are beyond what a double holds
        self.log("mean", self.mean)

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.sanity_checking:
            super().on_validation_epoch_start()

    def on_train_epoch_end(self) -> None:
        if "mean" in self.trainer.callback_metrics:
            self.logged.append(float(self.trainer.callback_metrics["mean"]))


def fitted(runs: Runs, changes: Mapping[str, Any]) -> dict[str, Any]:
    model = Measured()
    runs.fit(model=model, max_epochs=2, **changes)
    return {
        "train": [seen[:2] for seen in model.seen],
        "padding": model.padding,
        "val": model.validated,
        "checked": model.checked,
        "logged": model.logged,
    }


def rests(count: int, world: int) -> list[int]:
    """Return batch sizes of a rank whose last global batch holds fewer targets than ranks, and about half a batch."""
    sizes = [b for b in range(1, 20) if 0 < count % (b * world) < world]
    return [*sizes[-1:], GLOBAL_BATCH // world]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--fits", nargs="*", default=list(FITS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    world = options.devices * options.nodes
    runs = Runs(CutoutPlan.load(options.plan), options.out, world)
    data = runs.data()
    data.setup()
    plan, rows = data.splits["train"]
    shape = {"devices": options.devices, "num_nodes": options.nodes}
    found: dict[str, Any] = {name: fitted(runs, {**FITS[name], **shape}) for name in options.fits}
    for size in rests(len(rows), world):
        other = Runs(runs.plan, options.out, world, {"batch_size": size}, cache=runs.cache)
        found[f"batches of {size}"] = fitted(other, {**shape, "limit_val_batches": 2})
    result = {
        "train": plan.object_id[rows].tolist(),
        "val": plan.object_id[data.splits["val"][1]].tolist(),
        "environment": type(runs.trainer(**shape).strategy.cluster_environment).__name__,  # type: ignore[attr-defined]
        "fits": found,
    }
    rank = torch.distributed.get_rank()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"rank{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
