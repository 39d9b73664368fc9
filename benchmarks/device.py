"""Copies to the GPU beside a bare copy of page-locked memory, and the share of a training in which the GPU is idle.

Run: python -m benchmarks.device [device=cuda] [key=value of lsstcutouts benchmark]
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from lsstcutouts.app.benchmark.measured import sample_of
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.transfer import CudaTransfer, Prefetcher
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.models.networks import LensFinder
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.transforms.batch import TensorBatch

from .common import report, settings_of

__all__ = ["MODELS", "Share", "bytes_of", "device_words", "idle_share", "measure_device", "median", "rate"]

type LoaderFactory = Callable[[torch.device | None], CutoutLoader]
"""Makes a loader that hands out batches on a device, or in (page-locked) host memory for None."""

MODELS: Mapping[str, tuple[int, ...]] = {"small": (8, 16), "large": (256, 512, 1024, 1024)}
"""Widths of `~lsstcutouts.models.LensFinder`: one that computes faster than data come, and one that does not."""

_KEPT = 4
"""Batches in host memory that the copies are taken from, over and over."""


@dataclass(frozen=True, slots=True)
class Share:
    """How a GPU spent the time of some training steps.

    Attributes
    ----------
    steps
        How many.
    seconds
        From the first step's start to the last one's end, as the host's clock has it.
    computing
        Seconds of these between the begin and the end of the steps on the GPU, by its own clock.
    idle
        Share of the time in which it did not.
    """

    steps: int
    seconds: float
    computing: float
    idle: float


def measure_device(
    loader_factory: LoaderFactory,
    device: torch.device,
    *,
    models: Mapping[str, Sequence[int]] = MODELS,
    repeats: int = 5,
    copies: int = 50,
    steps: int = 100,
) -> dict[str, Any]:
    """Return how fast batches get to a GPU and how busy they keep it.

    The copies are measured with batches that are ready, in float32; the training with all that the loader does.

    Parameters
    ----------
    loader_factory
        Makes a loader with the settings to measure, on the device or, given None, in host memory.
    device
        A CUDA device.
    models
        Name to the widths of a network that is trained for the measurement.
    repeats
        Runs of each of the two kinds of copies, in turn; medians count.
    copies
        Batches copied in a run.
    steps
        Training steps, at most; the first tenth of them, which warms up, does not count.

    Returns
    -------
    dict
        ``batch_bytes``; ``pinned_copy`` and ``prefetch``, bytes/s of bare copies of one page-locked block and of the
        loader's way to the device; ``prefetch_over_pinned_copy``; for each model ``idle``, ``seconds``, ``computing``
        and ``steps`` under ``training``.

    Raises
    ------
    ConfigurationError
        If the device is none of CUDA.
    """
    if device.type != "cuda":
        raise ConfigurationError(f"device={str(device)!r}: copies to a GPU can be measured on a CUDA device only")
    batches = list(islice(loader_factory(None), _KEPT))
    if not batches:
        raise ConfigurationError("the loader has no batch to measure with")
    bare, ours = [], []
    for _ in range(repeats):
        bare.append(_bare_rate(batches, device, copies))
        ours.append(_prefetch_rate(batches, device, copies))
    return {
        "batch_bytes": bytes_of(batches[0]),
        "pinned_copy": median(bare),
        "prefetch": median(ours),
        "prefetch_over_pinned_copy": median(ours) / median(bare),
        "training": {
            name: _as_dict(_trained(loader_factory, device, widths, steps)) for name, widths in models.items()
        },
    }


def device_words(found: Mapping[str, Any]) -> list[str]:
    """Return in words what `measure_device` found."""
    told = [
        (
            f"copies to the GPU run at {found['prefetch'] / 1e9:.1f} GB/s, {found['prefetch_over_pinned_copy']:.0%} of a bare "
            f"copy of page-locked memory ({found['pinned_copy'] / 1e9:.1f} GB/s)"
        )
    ]
    for name, share in found["training"].items():
        told.append(
            f"the GPU was idle {share['idle']:.0%} of {share['steps']} training steps of the {name} network"
            + (": the data limit, not the GPU" if share["idle"] > 0.5 else "")
        )
    return told


def bytes_of(batch: TensorBatch) -> int:
    """Return the bytes of all tensors of a batch."""
    return sum(v.numel() * v.element_size() for v in batch.values() if isinstance(v, Tensor))


def rate(nbytes: int, seconds: float) -> float:
    """Return bytes a second; 0 for no time at all."""
    return nbytes / seconds if seconds > 0 else 0.0


def median(values: Sequence[float]) -> float:
    """Return the middle one of some values, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def idle_share(computing: Sequence[float], seconds: float) -> float:
    """Return the share of some time in which a GPU did not compute.

    Parameters
    ----------
    computing
        Seconds of each step on the GPU; they do not overlap.
    seconds
        From the first step's start to the last one's end.
    """
    return min(1.0, max(0.0, 1.0 - sum(computing) / seconds)) if seconds > 0 else 0.0


def _bare_rate(batches: Sequence[TensorBatch], device: torch.device, copies: int) -> float:
    """Return bytes/s of copies of one page-locked block of a batch's bytes."""
    host = torch.empty(bytes_of(batches[0]), dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(host, device=device)
    target.copy_(host, non_blocking=True)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(copies):
        target.copy_(host, non_blocking=True)
    torch.cuda.synchronize(device)
    return rate(copies * host.numel(), time.perf_counter() - start)


def _prefetch_rate(batches: Sequence[TensorBatch], device: torch.device, copies: int) -> float:
    """Return bytes/s of the loader's way to the device, for batches that are ready."""
    many: Iterator[TensorBatch] = islice(chain.from_iterable(repeat(batches)), copies)
    arriving = Prefetcher(many, CudaTransfer(device))
    torch.cuda.synchronize(device)
    start, brought = time.perf_counter(), 0
    for batch in arriving:
        brought += bytes_of(batch)
    torch.cuda.synchronize(device)
    return rate(brought, time.perf_counter() - start)


def _trained(loader_factory: LoaderFactory, device: torch.device, widths: Sequence[int], steps: int) -> Share:
    """Return how busy the GPU was while a network was trained on what a loader hands out."""
    loader = loader_factory(device)
    bands = len(loader.cutouts.plan.bands)
    network = LensFinder(bands, widths).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    batches = islice(chain.from_iterable(repeat(loader)), steps)
    for batch in islice(batches, max(1, steps // 10)):
        _step(network, optimizer, batch)
    torch.cuda.synchronize(device)
    spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    start = time.perf_counter()
    for batch in batches:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        _step(network, optimizer, batch)
        after.record()
        spans.append((before, after))
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    computing = [before.elapsed_time(after) / 1000 for before, after in spans]
    return Share(len(spans), seconds, sum(computing), idle_share(computing, seconds))


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: TensorBatch) -> None:
    image = batch["image"]
    if not isinstance(image, Tensor):
        raise ConfigurationError("the loader has no image to train on; add 'image' to planes")
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = network(image).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _as_dict(share: Share) -> dict[str, float]:
    return {"steps": share.steps, "seconds": share.seconds, "computing": share.computing, "idle": share.idle}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures and what they mean."""
    settings, own = settings_of(__doc__, {"device": "cuda"}, arguments)
    sample = sample_of(settings, progress=True)
    cache = TileCache(settings.cache_bytes)

    def factory(device: torch.device | None) -> CutoutLoader:
        dataset = CutoutDataset(sample.plan, rows=sample.rows, batch_size=settings.batch_size, cache=cache)
        return CutoutLoader(dataset, device=device)

    found = measure_device(factory, torch.device(own["device"]))
    report([found], load=own["load"])
    sys.stderr.write("\n".join(device_words(found)) + "\n")


if __name__ == "__main__":
    main()
