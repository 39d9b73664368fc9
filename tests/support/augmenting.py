"""Batches with every plane, for the tests of augmentations."""

import torch
from torch import Tensor, nn

from lsstcutouts.transforms import RandomRotation, RandomShift

type Batch = dict[str, Tensor]

WCS = (53.1, -28.0, 13.25, -4.5, -5e-5, 2e-6, 1e-6, 5.5e-5)
PLANES = ("image", "variance", "ivar", "mask", "valid")


def full_batch(count: int = 32, bands: int = 3, y: int = 21, x: int = 26, *, psf: int = 9, first: int = 0) -> Batch:
    """Return a batch with every key that augmentations look at; rows are the same whatever ``count`` and ``first``."""
    generator = torch.Generator().manual_seed(3)
    some = max(64, first + count)
    rows = slice(first, first + count)
    image = torch.randn(some, bands, y, x, generator=generator) * 50
    valid = torch.rand(some, bands, y, x, generator=generator) > 0.05
    variance = 1 + 9 * torch.rand(some, bands, y, x, generator=generator)
    batch = {
        "image": image,
        "variance": variance,
        "ivar": torch.where(valid, 1 / variance, 0.0),
        "mask": (torch.rand(some, bands, y, x, generator=generator) > 0.9).int() * 5,
        "valid": valid,
        "psf": torch.rand(some, bands, psf, psf, generator=generator),
        "psf_present": torch.ones(some, bands, dtype=torch.bool),
        "band_present": torch.rand(some, bands, generator=generator) > 0.2,
        "quality": torch.zeros(some, bands, dtype=torch.int32),
        "object_id": torch.arange(some) * 7919 + 2**60,
        "offset": torch.rand(some, 2, generator=generator) - 0.5,
        "yx0": torch.randint(0, 9000, (some, 2), generator=generator),
        "wcs": torch.tensor(WCS, dtype=torch.float64).repeat(some, 1),
    }
    return {name: value[rows].clone() for name, value in batch.items()}


def in_channels_last(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}


def same(one: Batch, other: Batch, *, atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=atol / 10, atol=atol, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


class Shift(RandomShift):
    """Shifts by what it is told."""

    def __init__(self, by: list[tuple[float, float]], *args, **kwargs) -> None:
        super().__init__(max(abs(v) for pair in by for v in pair), *args, **kwargs)
        self.by = by

    def shifts(self, batch):  # noqa: ARG002
        return torch.tensor(self.by, dtype=torch.float32)


class Rotation(RandomRotation):
    """Turns by so many degrees."""

    def __init__(self, degrees: list[float], *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.degrees = degrees

    def angles(self, batch):  # noqa: ARG002
        return torch.deg2rad(torch.tensor(self.degrees, dtype=torch.float32))


def at_epoch[M: nn.Module](module: M, epoch: int) -> M:
    for part in module.modules():
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    return module
