"""From a sample of targets to statistics of their pixels."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError, StatisticsError
from ..plan.cutout_plan import CutoutPlan
from ..read.cache.tile_cache import TileCache
from ..read.options import ReadOptions
from ..read.reader import CutoutReader, Delivery, Request, default_threads, stream, threads_for
from .statistics import QUANTILES, BandStatistics, Statistics

__all__ = ["DEFAULT_SAMPLE", "MAX_PIXELS", "fit_statistics", "sample_options", "sampled"]

DEFAULT_SAMPLE = 1000
"""Targets. With 64 px a side these are four million pixels a band, whose median is known to 0.0006 of the noise; what
limits it is how the depth and the objects vary from target to target."""

MAX_PIXELS = 1 << 22
"""Pixels a band that are held in memory, 17 MB; of larger samples each target gives a part of its pixels."""

_BATCH_BYTES = 64 << 20
"""Largest batch of the reader: image, mask and validity of some targets."""

_MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

type Floats = NDArray[np.float32]
type Pixels = list[Floats]
"""Valid pixels of each band of one target; empty where the band is absent."""


def sampled(plan: CutoutPlan, rows: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Return ``count`` of these rows, or all if there are fewer, in the order in which they are best read.

    A hash of tract, box and seed chooses, so that neither the order of the catalog nor its ids matter, nor who asks.
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
    options: ReadOptions | None = None,
    *,
    seed: int = 0,
    sample: int = DEFAULT_SAMPLE,
    quantiles: Sequence[float] = QUANTILES,
    max_pixels: int = MAX_PIXELS,
    cache: TileCache | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Return the statistics of the pixels of each band in a sample of targets.

    Absent bands and pixels that no file covers, that are not finite or NO_DATA do not count. Median and quantiles are
    those of all pixels of the sample, held in memory; the result is the same on every machine and for every number of
    threads.

    Parameters
    ----------
    plan, rows
        What to sample from: targets of a plan, those of the training split alone.
    options
        Policies: a target that they leave out is not delivered in training either, and does not count.
    seed
        Chooses the targets, and their pixels where not all are taken.
    sample
        Targets.
    quantiles
        Shares of the pixels.
    max_pixels
        Pixels a band that are held at most.
    cache, threads
        As in `LsstDataFetcher`.
    progress
        Is told targets done and targets in all.

    Raises
    ------
    StatisticsError
        If a band has no valid pixel in the sample, or no noise.
    """
    if sample < 1 or seed < 0 or max_pixels < 1:
        raise ConfigurationError(f"sample={sample}, seed={seed} and max_pixels={max_pixels} cannot be")
    targets = sampled(plan, np.asarray(rows), sample, seed=seed)
    if not len(targets):
        raise StatisticsError("the training split holds no target, so there are no statistics of its pixels")
    options = sample_options(options or ReadOptions())
    scale = next((one.pixel_scale for one in plan.projections.values()), None)
    per_target = min(plan.size.y * plan.size.x, max(1, max_pixels // len(targets)))
    found: list[Pixels] = []
    for done, batch in _read_pixels(plan, targets, options, seed, per_target, cache, threads):
        found += batch
        if progress is not None:
            progress(done, len(targets))
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


def sample_options(options: ReadOptions) -> ReadOptions:
    """Return options that read image and validity alone, with the policies as they are."""
    missing = "zero" if options.missing_band == "nan" else options.missing_band
    return replace(options, planes=("image", "valid"), mask_planes=(), fill=0.0, missing_band=missing)


def _read_pixels(
    plan: CutoutPlan,
    targets: NDArray[np.int64],
    options: ReadOptions,
    seed: int,
    per_target: int,
    cache: TileCache | None,
    threads: int | None,
) -> Iterator[tuple[int, list[Pixels]]]:
    """Yield the targets that are done, and the pixels of each target of the latest batch."""
    bytes_each = 9 * len(plan.bands) * plan.size.y * plan.size.x
    length = max(1, min(128, _BATCH_BYTES // bytes_each))
    requests = [Request(targets[i : i + length]) for i in range(0, len(targets), length)]
    reader = CutoutReader(plan, options, cache=cache)
    pool = threads_for(plan, threads or default_threads())

    def chosen(delivery: Delivery) -> list[Pixels]:
        return list(_valid_pixels(delivery, plan, seed, per_target))

    done = 0
    # An error ends the loop early; the threads must not outlive it.
    with closing(stream(reader, requests, threads=pool, ahead=1, then=chosen)) as results:  # type: ignore[type-var]
        for request, result in zip(requests, results, strict=True):
            done += len(request.targets)
            yield done, result


def _valid_pixels(delivery: Delivery, plan: CutoutPlan, seed: int, per_target: int) -> Iterator[Pixels]:
    """Yield the valid pixels of each band of each target that was delivered."""
    batch = {name: np.asarray(delivery.batch[name]) for name in ("image", "valid", "tract", "yx0", "is_padding")}
    count = plan.size.y * plan.size.x
    for n in np.flatnonzero(~batch["is_padding"]).tolist():
        image, valid = (batch[name][n].reshape(len(plan.bands), -1) for name in ("image", "valid"))
        if per_target < count:
            # The same places in every band, whoever reads the target.
            place = [seed, *(int(v) & 0xFFFFFFFF for v in (batch["tract"][n], *batch["yx0"][n]))]
            some = np.random.default_rng(place).choice(count, per_target, replace=False)
            image, valid = image[:, some], valid[:, some]
        yield [values[good] for values, good in zip(image, valid, strict=True)]


def _band_statistics(band: str, found: Iterable[Floats], quantiles: Sequence[float], sample: int) -> BandStatistics:
    """Return the statistics of one band from the pixels of each target."""
    parts = [part for part in found if part.size]
    if not parts:
        raise StatisticsError(
            f"band {band} has no valid pixel in the sample of {sample} targets of the training split; take a larger sample, "
            f"leave {band} out of bands, or give statistics that hold it"
        )
    pixels = np.concatenate(parts)
    median, noise = _median_and_noise(pixels)
    if not noise > 0:
        raise StatisticsError(f"band {band} has no noise: half of its {pixels.size} pixels have the value {median}")
    values: Mapping[float, float] = dict(
        zip(map(float, quantiles), np.quantile(pixels, quantiles).tolist(), strict=True)
    )
    return BandStatistics(median, noise, values, int(pixels.size), len(parts))


def _median_and_noise(pixels: Floats) -> tuple[float, float]:
    median = np.median(pixels)
    return float(median), _MAD_TO_SIGMA * float(np.median(np.abs(pixels - median)))


def _hashed(values: NDArray[np.integer], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA) of values and a key, in 64-bit arithmetic."""
    state = values.astype(np.int64).view(np.uint64) + key * np.uint64(0xD1B54A32D192ED03)
    state += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(state ^ (state >> np.uint64(31)))
