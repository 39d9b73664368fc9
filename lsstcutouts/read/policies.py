"""After the pixels are there: what is valid, what is filled, what is good enough, what is left out."""

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog.ids import hash_ids
from ..errors import MissingBandError, QualityError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import POLICY_BITS, Outcome, Quality
from .options import ReaderOptions
from .work import Work

__all__ = ["lacking", "outcomes", "settle"]

type Array = NDArray[Any]


def settle(work: Work, n: int, plan: CutoutPlan, options: ReaderOptions) -> None:
    """Finish one target: lost pixels, validity, inverse variance, quality, fill."""
    for band in range(len(plan.bands)) if work.lost else ():
        lost = work.lost.get((n, band))
        if lost is not None:
            _forget(work, n, band, lost)
    finite = _finite(work, n)
    if work.valid is not None and work.covered is not None:
        np.not_equal(work.sources["mask"][n] & (1 << (len(options.mask_bits) - 1)), 0, out=work.valid[n])
        np.greater(work.covered[n], work.valid[n], out=work.valid[n])
        if finite is not None:
            work.valid[n] &= finite
    if work.ivar is not None and work.valid is not None:
        _invert(work.sources["variance"][n], work.valid[n], work.ivar[n])
    if options.quality is not None:
        _judge(work, n, plan, options)
    if options.fill != 0.0 or options.missing_band == "nan":
        _fill(work, n, plan, options, finite)


def _finite(work: Work, n: int) -> NDArray[np.bool_] | None:
    """Return which pixels of the image are finite, None where all are, and make the others 0."""
    if "image" not in work.sources or not work.suspect[n]:
        return None
    finite: NDArray[np.bool_] = np.isfinite(work.sources["image"][n])
    if finite.all():
        return None
    work.sources["image"][n][~finite] = 0.0
    return finite


def _forget(work: Work, n: int, band: int, lost: NDArray[np.bool_]) -> None:
    """Make pixels that cannot be read like those that no file covers, in every plane."""
    for plane in work.sources.values():
        plane[n, band][lost] = 0
    if work.covered is not None:
        work.covered[n, band] &= ~lost


def _invert(variance: NDArray[np.float32], valid: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
    """Write the inverse of the variance where there is information, and leave 0 elsewhere."""
    good = valid & np.isfinite(variance) & (variance > 0)
    with np.errstate(over="ignore"):
        np.divide(np.float32(1), variance, out=out, where=good)
    # The inverse of a variance below 3e-39 is beyond float32.
    out[np.isinf(out)] = np.finfo(np.float32).max


def _judge(work: Work, n: int, plan: CutoutPlan, options: ReaderOptions) -> None:
    """Set the quality policy's bits for the bands that are there."""
    policy = options.quality
    if policy is None or work.valid is None:
        return
    bits = {name: i for i, name in enumerate(options.mask_bits)}
    masks = {name: (work.sources["mask"][n] >> bits[name]) & 1 == 1 for name in policy.mask_planes}
    variance = work.sources["variance"][n] if "variance" in work.sources else None
    found = policy.judge(plan.bands, work.sources["image"][n], work.valid[n], variance, masks)
    found[~work.present[n]] = 0
    work.quality[n] |= found


def _fill(work: Work, n: int, plan: CutoutPlan, options: ReaderOptions, finite: NDArray[np.bool_] | None) -> None:
    """Put in what stands where there is no value."""
    image, covered = work.sources.get("image"), work.covered
    if options.missing_band == "nan":
        for name in {"image", "variance"} & set(work.sources):
            work.sources[name][n, ~work.present[n]] = np.nan
    if image is None or covered is None:
        return
    if options.fill == "noise":
        for band in np.flatnonzero(work.present[n]).tolist():
            # By the band's name: the noise stays when the bands are given in another order.
            channel = zlib.crc32(plan.bands[band].encode())
            identity = plan.object_id[work.targets[n]]
            number = int(hash_ids([identity])[0]) if isinstance(identity, str) else int(identity)
            _draw_noise(work, n, band, (options.seed, number, channel))
    elif math.isnan(options.fill):
        known = covered[n] if finite is None else covered[n] & finite
        image[n][work.present[n][:, None, None] & ~known] = np.nan


def _draw_noise(work: Work, n: int, band: int, seed: tuple[int, int, int]) -> None:
    """Replace what is not valid by noise of the pixel's variance, where it has none by that of the median pixel."""
    if work.valid is None or (hole := ~work.valid[n, band]).sum() == 0:
        return
    variance = work.sources["variance"][n, band]
    known = np.isfinite(variance) & (variance > 0)
    typical = known & ~hole
    if not typical.any():
        return  # nothing of this band is valid: there is no noise to imitate
    sigma = np.sqrt(np.where(known, variance, np.median(variance[typical])))
    # Every pixel is drawn, so that a pixel's noise does not depend on which others are missing.
    noise = np.random.default_rng([abs(v) * 2 + (v < 0) for v in seed]).standard_normal(hole.shape, np.float32)
    work.sources["image"][n, band][hole] = (noise * sigma)[hole]


def outcomes(work: Work, plan: CutoutPlan, options: ReaderOptions) -> NDArray[np.uint8]:
    """Return ``(N,)`` what happens to each target.

    Raises
    ------
    MissingBandError
        If a band is absent and that is not allowed.
    QualityError
        If a target that is not left out for another reason fails the quality policy and that is not allowed.
    """
    absent = work.quality & int(Quality.BAND_ABSENT) != 0  # (N, B)
    if options.missing_band == "raise" and absent.any():
        n = int(np.flatnonzero(absent.any(axis=1))[0])
        bands = ", ".join(np.asarray(plan.bands)[absent[n]].tolist())
        raise MissingBandError(
            f"{_who(work, n, plan)} lacks {bands}: the repository holds no {plan.dataset_type!r} there; "
            'missing_band="zero" delivers a channel of zeros, "skip" leaves such targets out'
        )
    outcome = np.full(len(work.targets), Outcome.DELIVERED, np.uint8)
    if options.quality is not None and options.quality.action != "flag":
        outcome[options.quality.fails(work.quality)] = Outcome.QUALITY
    outcome[lacking(absent, plan.bands, options)] = Outcome.MISSING_BAND
    if options.on_read_error == "skip":
        outcome[(work.quality & int(Quality.READ_ERROR) != 0).any(axis=1)] = Outcome.READ_ERROR
    failing = np.flatnonzero(outcome == Outcome.QUALITY).tolist()
    if options.quality is not None and options.quality.action == "raise" and failing:
        n = failing[0]
        raise QualityError(
            f"{_who(work, n, plan)} fails the quality policy ({_complaints(work, n, plan)}); "
            'action="skip" leaves such targets out, "flag" marks them'
        )
    return outcome


def lacking(absent: NDArray[np.bool_], bands: tuple[str, ...], options: ReaderOptions) -> NDArray[np.bool_]:
    """Return which of ``(N, B)`` targets are left out for the bands that they lack, ``(N,)``."""
    out: NDArray[np.bool_] = absent[:, [bands.index(b) for b in options.required_bands]].any(axis=1)
    out |= (~absent).sum(axis=1) < options.min_bands
    if options.missing_band == "skip":
        out |= absent.any(axis=1)
    return out


def _who(work: Work, n: int, plan: CutoutPlan) -> str:
    target = int(work.targets[n])
    return (
        f"target {plan.object_id[target]} (catalog row {plan.row[target]}, ra {plan.ra[target]:.5f}, dec "
        f"{plan.dec[target]:.5f}, tract {plan.tract[target]}, patch {plan.patch[target]})"
    )


def _complaints(work: Work, n: int, plan: CutoutPlan) -> str:
    """Return what a quality policy found, band by band."""
    bits = (work.quality[n] & int(POLICY_BITS)).tolist()
    found = [", ".join(str(flag.name) for flag in Quality if bit & flag) for bit in bits]
    return "; ".join(f"{band}: {names}" for band, names in zip(plan.bands, found, strict=True) if names)
