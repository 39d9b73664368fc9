"""One task of a job on two nodes, for ``test_nodes.py``: trains slowly, and notes what it saw before it may be ended."""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lsstcutouts.app.callbacks import KeepLast
from lsstcutouts.app.training.checkpoints import LAST, SameCheckpoint, checkpoint_to_resume
from lsstcutouts.loader.datamodule.module import CutoutDataModule


class Noting(L.LightningModule):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.file = file
        self.seen: dict[str, list[list[int]]] = {}
        self.found: dict[str, Any] = {}

    def on_train_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        plan, rows = data.splits["train"]
        place = data.state_dict()["train"]
        over = place["batch"] == len(data.loaders["train"])
        begun = (place["epoch"] + 1, 0) if over else (place["epoch"], place["batch"])
        self.found = {"train": plan.object_id[rows].tolist(), "epoch": begun[0], "batch": begun[1]}

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if index == 2:
            self.file.with_suffix(".started").touch()
        self.seen.setdefault(str(self.trainer.current_epoch), []).append(batch["object_id"].tolist())
        new = self.file.with_suffix(".new")  # a kill must not leave half a file
        new.write_text(json.dumps({**self.found, "seen": self.seen}))
        new.replace(self.file)
        return self.layer(batch["image"].mean(dim=(1, 2, 3))[:, None]).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.file.name.startswith("first"):
            time.sleep(0.4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("repo", "catalog", "out", "ended"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    data = CutoutDataModule(
        options.repo,
        "dp2",
        options.catalog,
        "gri",
        24,
        batch_size=4,
        threads=1,
        cache_bytes="50 MB",
        splits={"train": 0.75, "val": 0.25},
    )
    output = Path(options.out) / "output"
    checkpoint = checkpoint_to_resume("auto", output)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=2,
        strategy="ddp",
        max_epochs=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=output,
        callbacks=[SameCheckpoint(checkpoint), KeepLast(output / LAST)],
    )
    model = Noting(Path(options.out) / f"{options.ended} {trainer.global_rank}.json")
    trainer.fit(model, data, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True)


if __name__ == "__main__":
    main()
