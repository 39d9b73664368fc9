"""The narrowest target that the point-spread functions of a sample of targets can be matched to."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import StatisticsError
from ..plan.cutout_plan import CutoutPlan
from ..plan.read_options import ReadOptions
from ..read.cache.tile_cache import TileCache
from ..read.options import ReaderOptions
from ..read.reader import Delivery
from ..source.progress import counted
from .augmentation import required_tensor
from .fit import fill_of_sample, read_sample, sampled, tensors_of
from .match_psf import MatchPsf

__all__ = ["MARGIN", "narrowest_target", "worst_psf"]

MARGIN = 1.03
"""The target is so much broader than the sample needs, for PSFs that are not in it: those of cells of a coadd differ by about 1 %."""

_TOLERANCE = 1e-3


def worst_psf(
    plan: CutoutPlan,
    rows: NDArray[np.int64],
    read: ReadOptions = ReadOptions(),
    *,
    matching: MatchPsf,
    seed: int = 0,
    cache: TileCache | None = None,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> float:
    """Return a full width at half maximum, arcseconds, to which all PSFs of a sample of targets can be matched.

    It is the smallest width for which no more than ``1 - matching.quantile`` of the kernels have a gain above
    ``matching.max_gain``, times `MARGIN`.
    The result is the same on every machine and for every number of threads.

    Parameters
    ----------
    plan, rows
        The targets to sample from: a plan, and ``(n,)`` indices of its training targets.
    read
        Read options. Targets that their policies drop are ignored here as well.
    matching
        Profile, largest gain, quantile and number of targets.
    seed
        Seed of the choice of targets.
    cache, threads
        As in `LsstDataFetcher`.
    progress
        Whether a bar is shown, or what is called with the number of targets done and the total.

    Raises
    ------
    StatisticsError
        If there is no PSF in the sample, or no target that fits in the PSF stamps is broad enough.
    """
    targets = sampled(plan, np.asarray(rows), matching.sample, seed=seed)
    options = ReaderOptions.of(replace(read, mask_planes=(), fill=fill_of_sample(read)), planes=("psf",))
    parts: list[dict[str, Tensor]] = []
    with counted("reading PSFs", progress) as update:
        for done, part in read_sample(plan, targets, options, _psfs, cache, threads):
            parts.append(part)
            if update is not None:
                update(done, len(targets))
    found = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    if not parts or not len(found["psf"]):
        raise StatisticsError(
            f"no target of {len(targets)} in the sample of the training split has a PSF, so MatchPsf(target='worst') cannot be fitted; "
            "give a width as target="
        )
    return round(MARGIN * narrowest_target(found["psf"], found["wcs"], matching), 4)


def narrowest_target(psf: Tensor, wcs: Tensor, matching: MatchPsf) -> float:
    """Return the smallest full width at half maximum, arcseconds, that PSFs can be matched to, by bisection to one thousandth.

    Parameters
    ----------
    psf, wcs
        ``(n, 1, y, x)`` PSFs and ``(n, 8)`` positions as in a batch, of at least one target.
    matching
        Profile, largest gain and quantile.

    Raises
    ------
    StatisticsError
        If no target that fits in the PSF stamps is broad enough.
    """
    trial = MatchPsf(1.0, beta=matching.beta, max_gain=matching.max_gain)
    allowed = int(round((1 - matching.quantile) * len(psf), 6))
    pixel = float((wcs[:, 4] * wcs[:, 7] - wcs[:, 5] * wcs[:, 6]).abs().sqrt().median()) * 3600  # arcsec
    low, high, middle = 0.0, math.inf, 4 * pixel
    while high - low > _TOLERANCE * low:
        failing = (trial.fit(middle).gains({"psf": psf, "wcs": wcs}) > trial.max_gain)[:, 0]
        if int(failing.sum()) > allowed:
            # A broader target suits all others.
            psf, wcs, low = psf[failing], wcs[failing], middle
        else:
            high = middle
        if low > pixel * max(psf.shape[-2:]):
            raise StatisticsError(
                f"{len(psf)} PSFs of the sample cannot be matched to any target: their kernels amplify noise; set quantile= of MatchPsf "
                "to disregard them, or give a width as target= with broader='absent'"
            )
        middle = 1.25 * low if math.isinf(high) else 0.8 * high if not low else (low + high) / 2
        if high < pixel / 8:  # points
            break
    return high


def _psfs(delivery: Delivery) -> dict[str, Tensor]:
    """Return the PSFs that there are in any band, ``(n, 1, y, x)``, and their ``wcs``, ``(n, 8)``."""
    batch = tensors_of(delivery)
    present, kernels, wcs = (required_tensor(batch, name, "worst_psf") for name in ("psf_present", "psf", "wcs"))
    target, band = present.nonzero(as_tuple=True)
    return {"psf": kernels[target, band].unsqueeze(1), "wcs": wcs[target]}
