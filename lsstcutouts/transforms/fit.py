"""Fits pixel statistics of each band to a sample of targets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import ConfigurationError, StatisticsError
from ..plan.cutout_plan import CutoutPlan
from ..plan.read_options import ReadOptions
from ..read.cache.tile_cache import TileCache
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader, Delivery, Request, default_threads, stream
from ..source.progress import counted
from .batch import TensorBatch
from .statistics import DEFAULT_SAMPLE, QUANTILES, BandStatistics, Statistics

__all__ = ["MAX_PIXELS", "fill_of_sample", "fit_statistics", "read_sample", "sample_options", "sampled", "tensors_of"]

MAX_PIXELS = 1 << 22
"""Most pixels per band in memory, 17 MB; in larger samples each target contributes a random part of its pixels."""

_BATCH_BYTES = 64 << 20
"""Largest batch of the reader in bytes: image, mask and validity."""

_MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""

type Floats = NDArray[np.float32]
type Pixels = list[Floats]
"""Valid pixels of each band of one target, ``(n,)`` each; empty if the band is missing."""


def sampled(plan: CutoutPlan, rows: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Return ``(min(count, n),)`` of these ``(n,)`` target indices, in an order that is fast to read.

    A hash of tract, box and seed chooses them, so the result does not depend on the order or the ids of the catalog.
    """
    key = _hashed(plan.tract[rows], np.full(len(rows), seed, np.uint64))
    for axis in (0, 1):
        key = _hashed(plan.yx0[rows, axis], key)
    chosen = rows[np.argsort(key, kind="stable")[:count]]
    order: NDArray[np.int64] = chosen[np.lexsort((plan.yx0[chosen, 1], plan.yx0[chosen, 0], plan.blocks(chosen)))]
    return order


def fit_statistics(
    plan: CutoutPlan,
    rows: NDArray[np.int64],
    read: ReadOptions = ReadOptions(),
    *,
    seed: int = 0,
    sample: int = DEFAULT_SAMPLE,
    quantiles: Sequence[float] = QUANTILES,
    max_pixels: int = MAX_PIXELS,
    first: Sequence[nn.Module] = (),
    cache: TileCache | None = None,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Statistics:
    """Return the statistics of the pixels of each band in a sample of targets.

    Missing bands are ignored, and so are pixels that no file covers, that are not finite or that are NO_DATA. Median and
    quantiles are exact for the pixels of the sample, which are held in memory. The result is the same on every machine
    and for every number of threads.

    Parameters
    ----------
    plan, rows
        The targets to sample from: a plan, and ``(n,)`` indices of its training targets.
    read
        Read options. Targets that their policies drop are ignored here as well.
    seed
        Seed of the choice of targets, and of their pixels if not all are used.
    sample
        Number of targets.
    quantiles
        Fractions of the pixels, in [0, 1].
    max_pixels
        Most pixels per band that are held in memory.
    first
        Modules over a batch, on the CPU, that run before the normalisation in every stage, such as `~lsstcutouts.transforms.MatchPsf`; the
        statistics are those of their result. The planes in their ``needed_planes`` are read as well.
    cache, threads
        As in `LsstDataFetcher`.
    progress
        Whether a bar is shown, or what is called with the number of targets done and the total.

    Raises
    ------
    StatisticsError
        If there is no target, or a band has no valid pixel in the sample or no noise.
    ConfigurationError
        If ``sample``, ``seed`` or ``max_pixels`` is out of range.
    """
    if sample < 1 or seed < 0 or max_pixels < 1:
        raise ConfigurationError(f"sample={sample} must be >= 1, seed={seed} >= 0 and max_pixels={max_pixels} >= 1")
    targets = sampled(plan, np.asarray(rows), sample, seed=seed)
    if not len(targets):
        raise StatisticsError("the training split has no target, so no pixel statistics can be fitted")
    options = sample_options(read, first)
    scale = plan.pixel_scale
    per_target = min(plan.size.y * plan.size.x, max(1, max_pixels // len(targets)))
    found: list[Pixels] = []

    def chosen(delivery: Delivery) -> list[Pixels]:
        return list(_valid_pixels(delivery, first, seed, per_target))

    with counted("reading targets", progress) as update:
        for done, batch in read_sample(plan, targets, options, chosen, cache, threads):
            found += batch
            if update is not None:
                update(done, len(targets))
    return Statistics(
        bands={b: _band_statistics(b, [one[i] for one in found], quantiles, sample) for i, b in enumerate(plan.bands)},
        unit=options.flux_unit,
        dataset_type=plan.dataset_type,
        size=(plan.size.y, plan.size.x),
        seed=seed,
        sample=sample,
        targets=len(found),
        pixels_per_target=per_target,
        plan=plan.fingerprint(),
        pixel_scale=None if scale is None else (round(float(scale.y), 6), round(float(scale.x), 6)),
    )


def sample_options(read: ReadOptions, first: Sequence[nn.Module] = ()) -> ReaderOptions:
    """Return options that read only image, validity and what the modules need, with the same policies."""
    missing = "zero" if read.missing_band == "nan" else read.missing_band
    alone = replace(read, mask_planes=(), fill=fill_of_sample(read), missing_band=missing)
    needed = [name for module in first for name in getattr(module, "needed_planes", ())]
    return ReaderOptions.of(alone, planes=tuple(dict.fromkeys(("image", "valid", *needed))))


def fill_of_sample(read: ReadOptions) -> float:
    """Return what fills pixels that are not used: no noise, as it costs a plane; else as asked, since an export has no other value."""
    return 0.0 if isinstance(read.fill, str) else read.fill


def read_sample[T](
    plan: CutoutPlan,
    targets: NDArray[np.int64],
    options: ReaderOptions,
    then: Callable[[Delivery], T],
    cache: TileCache | None,
    threads: int | None,
) -> Iterator[tuple[int, T]]:
    """Yield the number of targets done, and what ``then`` makes of each batch.

    Raises
    ------
    ConfigurationError
        If the plan cannot be read with these options.
    """
    bytes_each = 9 * len(plan.bands) * plan.size.y * plan.size.x
    length = max(1, min(128, _BATCH_BYTES // bytes_each))
    requests = [Request(targets[i : i + length]) for i in range(0, len(targets), length)]
    try:
        reader, done = CutoutReader(plan, options, cache=cache), 0
    except ConfigurationError as error:  # such as of an export without a plane that only the fit needs
        raise ConfigurationError(
            f"the training split cannot be read to fit what depends on it (statistics of a normalisation need image and valid): {error}; or "
            "give what would be fitted, such as statistics= of the normalisation"
        ) from error
    # Closing the stream ends its threads, also after an error.
    with closing(stream(reader, requests, threads=threads or default_threads(), ahead=1, then=then)) as results:  # type: ignore[type-var]
        for request, result in zip(requests, results, strict=True):
            done += len(request.targets)
            yield done, result


def tensors_of(delivery: Delivery) -> TensorBatch:
    """Return copies of the arrays of a batch, without padding."""
    real = ~np.asarray(delivery.batch["is_padding"])
    return {
        name: torch.from_numpy(value[real]) for name, value in delivery.batch.items() if isinstance(value, np.ndarray)
    }


def _valid_pixels(delivery: Delivery, first: Sequence[nn.Module], seed: int, per_target: int) -> Iterator[Pixels]:
    """Yield the valid pixels of each band, for each delivered target."""
    batch = tensors_of(delivery)
    places = [np.asarray(batch["tract"]), np.asarray(batch["yx0"])]
    for module in first:
        batch = module(batch)
    images, valids = np.asarray(batch["image"]), np.asarray(batch["valid"])
    count = images.shape[-2] * images.shape[-1]
    for n in range(len(images)):
        image, valid = (plane[n].reshape(len(plane[n]), -1) for plane in (images, valids))
        if per_target < count:
            # The same pixels in every band, on every machine.
            place = [seed, *(int(v) & 0xFFFFFFFF for v in (places[0][n], *places[1][n]))]
            some = np.random.default_rng(place).choice(count, per_target, replace=False)
            image, valid = image[:, some], valid[:, some]
        yield [values[good] for values, good in zip(image, valid, strict=True)]


def _band_statistics(band: str, found: Iterable[Floats], quantiles: Sequence[float], sample: int) -> BandStatistics:
    """Return the statistics of one band from the valid pixels ``(n,)`` of each target."""
    parts = [part for part in found if part.size]
    if not parts:
        raise StatisticsError(
            f"band {band} has no valid pixel in the sample of {sample} targets of the training split; leave {band} out of bands, "
            f"use a larger sample if some targets have it, or give statistics= with band {band}"
        )
    pixels = np.concatenate(parts)
    median = float(np.median(pixels))
    noise = _MAD_TO_SIGMA * float(np.median(np.abs(pixels - median)))
    if not noise > 0:
        raise StatisticsError(
            f"band {band} has no noise: half of its {pixels.size} pixels are exactly {median}; leave {band} out of bands"
        )
    values: Mapping[float, float] = dict(
        zip(map(float, quantiles), np.quantile(pixels, quantiles).tolist(), strict=True)
    )
    return BandStatistics(median, noise, values, int(pixels.size), len(parts))


def _hashed(values: NDArray[np.integer], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash ``(n,)`` of values and keys: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA)."""
    state = values.astype(np.int64).view(np.uint64) + key * np.uint64(0xD1B54A32D192ED03)
    state += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(state ^ (state >> np.uint64(31)))
