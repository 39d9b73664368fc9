"""Milliseconds that each transform takes for a batch, beside those that the loader takes for it in the same run.

All take turns on the same targets, with as many threads of torch as the loader has. On a GPU a run ends when the device has
finished; the loader reads on the CPU all the same.

Run: python -m benchmarks.transforms [device=cuda] [transforms=[MatchPsf,RandomD4]] [threads=[1,2]] [key=value ...] > transforms.json
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsstcutouts.app.benchmark.measured import BenchmarkSettings, MeasuredTargets
from lsstcutouts.app.benchmark.ways import Way, interleaved
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulationConfig
from lsstcutouts.transforms import (
    InjectSources,
    Lens,
    MatchPsf,
    NoiseAsinh,
    PointSource,
    RandomD4,
    RandomRotation,
    RandomShift,
    Sersic,
)
from lsstcutouts.transforms.batch import TensorBatch
from lsstcutouts.transforms.fit import fit_statistics

from .common import OurWay, report, scene, settings_of, simulated

__all__ = ["TRANSFORMS", "main"]


def _fitted(sample: MeasuredTargets) -> NoiseAsinh:
    return NoiseAsinh().fit(fit_statistics(sample.plan, sample.rows, sample=50, progress=False))


def _injecting(model: nn.Module) -> InjectSources:
    return InjectSources(model, 2000.0, fraction=0.5, distance=(0.0, 3.0), noise=20.0)


TRANSFORMS: Mapping[str, Callable[[MeasuredTargets], nn.Module]] = {
    "NoiseAsinh": _fitted,
    "RandomD4": lambda _: RandomD4(),
    "RandomShift, sub-pixel": lambda _: RandomShift(2, subpixel=True),
    "RandomRotation": lambda _: RandomRotation(),
    "MatchPsf": lambda _: MatchPsf(1.2, broader="absent"),
    "InjectSources, PointSource": lambda _: _injecting(PointSource()),
    "InjectSources, Sersic": lambda _: _injecting(Sersic()),
    "InjectSources, Lens": lambda _: _injecting(Lens()),
}
"""What is measured, by name."""

_KEPT = 4
"""Batches that the transforms get in turn."""


class TransformWay(Way):
    """A transform of batches that are on the device.

    Parameters
    ----------
    name, module, batches
        What is applied to what.
    threads
        Of torch on the CPU.
    """

    def __init__(self, name: str, module: nn.Module, batches: Sequence[TensorBatch], threads: int) -> None:
        self.name, self.threads, self._module, self._batches = name, threads, module, batches

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the batches."""
        torch.set_num_threads(self.threads)
        return self._pass

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:  # noqa: ARG002
        """Return nothing: a transform reads no targets."""
        return {}

    def _pass(self) -> int:
        with torch.no_grad():
            results = [self._module(batch) for batch in self._batches]
        if results[0]["image"].is_cuda:
            torch.cuda.synchronize()
        return sum(len(batch["image"]) for batch in self._batches)


def kept_batches(sample: MeasuredTargets, settings: BenchmarkSettings, device: torch.device) -> list[TensorBatch]:
    """Return the first whole batches of the sample on a device.

    Raises
    ------
    ConfigurationError
        If the sample is smaller than a batch.
    """
    dataset = CutoutDataset(sample.plan, rows=sample.rows, batch_size=settings.batch_size, planes=sample.planes)
    batches: Iterable[TensorBatch] = CutoutLoader(dataset)
    whole = list(islice((batch for batch in batches if len(batch["image"]) == settings.batch_size), _KEPT))
    if not whole:
        raise ConfigurationError(f"targets={len(sample.rows)} are fewer than batch_size={settings.batch_size}")
    return [{n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()} for batch in whole]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print milliseconds a batch."""
    defaults = {"transforms": list(TRANSFORMS), "batch_planes": ["image", "valid", "psf"], "least_seconds": 0.5}
    settings, own = settings_of(__doc__, defaults, arguments)
    unknown = [name for name in own["transforms"] if name not in TRANSFORMS]
    if unknown:
        raise ConfigurationError(f"transforms={unknown} must be out of {', '.join(TRANSFORMS)}")
    sample = scene(simulated(settings.demo, SimulationConfig()), settings, planes=tuple(own["batch_planes"]))
    device, before = torch.device(settings.device), torch.get_num_threads()
    batches = kept_batches(sample, settings, device)
    figures = []
    for threads in settings.thread_counts:
        tiles = TileCache(settings.cache_bytes)
        ways: list[Way] = [OurWay(sample, settings, "loader", state, tiles, threads) for state in ("first", "memory")]
        made = {name: TRANSFORMS[name](sample).to(device) for name in own["transforms"]}
        ways += [TransformWay(name, module, batches, threads) for name, module in made.items()]
        rates = interleaved(ways, settings.repeats, least_seconds=own["least_seconds"])
        times = [[1000 * settings.batch_size / rate for rate in of] for of in rates]
        first, memory = (median(of) for of in times[:2])
        for way, of in zip(ways, times, strict=True):
            row = {"what": way.name, "tiles": way.cache, "threads": threads, "device": str(device)}
            row |= {"ms/batch": median(of), "fastest": min(of), "slowest": max(of)}
            figures.append(
                row | {"over loader, first epoch": median(of) / first, "over loader, memory": median(of) / memory}
            )
    torch.set_num_threads(before)
    report(
        figures,
        packages=(),
        load=own["load"],
        targets=settings.batch_size,
        bands=len(sample.plan.bands),
        size=settings.size,
    )


if __name__ == "__main__":
    main()
