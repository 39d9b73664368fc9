"""Cutouts as the validation of a training sees them, for pictures."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...loader.datamodule.module import CutoutDataModule
from ...read.cutouts import Batch
from ...transforms.augmentation import runs_in

__all__ = ["as_validated"]


def as_validated(batch: Batch, data: Any) -> Batch:
    """Return a batch of NumPy arrays with the changes of augmentations that run in validation, such as injected sources.

    Parameters
    ----------
    batch
        As a reader returns it, on pixels in the unit of the files.
    data
        The data module of the training; the batch of another one does not change.
    """
    modules = runs_in("val", data.augmentations) if isinstance(data, CutoutDataModule) else []
    if not modules:
        return batch
    device = next((b.device for one in modules for b in one.buffers()), torch.device("cpu"))
    changed: Any = {
        k: v if isinstance(v, list) else torch.from_numpy(np.asarray(v)).to(device) for k, v in batch.items()
    }
    with torch.no_grad():
        for module in modules:
            for one in module.modules():
                if callable(set_epoch := getattr(one, "set_epoch", None)):
                    set_epoch(0)
            changed = module(changed)
    return {name: v.cpu().numpy() if isinstance(v, Tensor) else v for name, v in changed.items()}
