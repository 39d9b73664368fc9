"""Several views of each target in one batch, each augmented with its own random numbers."""

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["Views"]


class Views(nn.Module):
    """Repeat each target of a batch, and augment each copy by itself, as SimCLR, BYOL and the like need it.

    Pixels are read, decoded and copied to the device once. The batch of N targets becomes one of ``n * N`` rows: row
    ``v * N + i`` is view ``v`` of target ``i``, so ``batch["image"].chunk(n)`` are the views.

    Parameters
    ----------
    augmentations
        Module over a batch, such as a `Compose` of augmentations. The random numbers of an `Augmentation` differ from view
        to view and repeat in a resumed training.
    n
        Number of views, at least 2.

    Raises
    ------
    ConfigurationError
        If an argument is not allowed.
    """

    def __init__(self, augmentations: nn.Module, n: int = 2) -> None:
        super().__init__()
        if not isinstance(augmentations, nn.Module):
            raise ConfigurationError(f"augmentations must be a torch.nn.Module over a batch, got {augmentations!r}")
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise ConfigurationError(f"n must be a number of views of at least 2, got {n!r}")
        self.augmentations, self.n = augmentations, n

    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Return a batch of ``n * N`` rows; each key has ``n`` times the rows of the batch of N.

        Raises
        ------
        ConfigurationError
            If the batch has no ``image``, or an augmentation lacks something.
        """
        image = batch.get("image")
        if not isinstance(image, Tensor):
            raise ConfigurationError("Views needs 'image', but the batch has none; add it to planes")
        rows = len(image)
        several: TensorBatch = {
            name: torch.cat([value] * self.n) if isinstance(value, Tensor) else list(value) * self.n
            for name, value in batch.items()
        }
        view = torch.arange(self.n, device=image.device).repeat_interleave(rows)
        repeat = several.get("repeat")
        # Augmentations make their random numbers of it: each view of each repeat of a target gets another value.
        own = view if not isinstance(repeat, Tensor) else repeat.to(torch.int64) * self.n + view
        augmented: TensorBatch = self.augmentations({**several, "repeat": own})
        rest = {name: value for name, value in augmented.items() if name != "repeat"}
        return rest if repeat is None else {**rest, "repeat": repeat}
