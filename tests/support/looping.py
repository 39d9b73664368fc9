"""A training that waits for signals: ``python -m tests.support.looping PLAN WORKERS WAY``; the way is loop, fit, killed or exit.

It prints ``running`` when it is in the middle of an epoch.
"""

import sys
import time
import warnings
from typing import Any

import lightning as L
import torch

from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan


class Model(L.LightningModule):
    """Tells when it is in its second step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        if self.global_step == 1:
            print("running", flush=True)  # noqa: T201 - to the test
        time.sleep(0.1)
        return self.layer(batch["image"].mean(dim=(2, 3))).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def main(plan: str, workers: str, way: str) -> None:
    dataset = CutoutDataset(CutoutPlan.load(plan), batch_size=2, cache_bytes="100 MB", threads=2)
    start = "forkserver" if way == "killed" else "fork"
    loader = CutoutLoader(dataset, num_workers=int(workers), multiprocessing_context=start)
    if way == "exit":
        passing = iter(loader)
        next(passing)
        return
    if way == "fit":
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(max_epochs=-1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
        trainer.fit(Model(), loader)
        return
    while True:
        for number, _ in enumerate(loader):
            if number == 1:
                print("running", flush=True)  # noqa: T201 - to the test
            time.sleep(0.1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
