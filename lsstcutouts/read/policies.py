"""Computes validity masks, fills missing pixels and applies the quality policy, after the pixels were read."""

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingBandError, QualityError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import POLICY_BITS, Outcome, Quality
from .cutouts import Cutouts
from .options import ReaderOptions

__all__ = ["apply_policies", "misses_bands", "outcomes"]

type Array = NDArray[Any]


def apply_policies(cutouts: Cutouts, n: int, plan: CutoutPlan, options: ReaderOptions) -> None:
    """Finish the planes of one target, in place: unreadable pixels, validity, inverse variance (nJy^-2), quality, fill."""
    for band in range(len(plan.bands)) if cutouts.lost else ():
        lost = cutouts.lost.get((n, band))
        if lost is not None:
            _clear_unreadable(cutouts, n, band, lost)
    finite = _finite(cutouts, n)
    if cutouts.valid is not None and cutouts.covered is not None:
        np.not_equal(cutouts.sources["mask"][n] & (1 << (len(options.mask_bits) - 1)), 0, out=cutouts.valid[n])
        np.greater(cutouts.covered[n], cutouts.valid[n], out=cutouts.valid[n])
        if finite is not None:
            cutouts.valid[n] &= finite
    if cutouts.ivar is not None and cutouts.valid is not None and "variance" in cutouts.sources:
        _invert(cutouts.sources["variance"][n], cutouts.valid[n], cutouts.ivar[n])
    if options.quality is not None:
        _check_quality(cutouts, n, plan, options)
    if options.fill != 0.0 or options.missing_band == "nan":
        _fill(cutouts, n, plan, options, finite)


def _finite(cutouts: Cutouts, n: int) -> NDArray[np.bool_] | None:
    """Return ``(B, Y, X)`` which image pixels are finite, or None if all are; set the others to 0."""
    if "image" not in cutouts.sources or not cutouts.suspect[n]:
        return None
    finite: NDArray[np.bool_] = np.isfinite(cutouts.sources["image"][n])
    if finite.all():
        return None
    cutouts.sources["image"][n][~finite] = 0.0
    return finite


def _clear_unreadable(cutouts: Cutouts, n: int, band: int, lost: NDArray[np.bool_]) -> None:
    """Treat pixels that cannot be read as pixels that no file covers, in every plane."""
    for plane in cutouts.sources.values():
        plane[n, band][lost] = 0
    if cutouts.covered is not None:
        cutouts.covered[n, band] &= ~lost


def _invert(variance: NDArray[np.float32], valid: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
    """Write the inverse variance of valid pixels with a finite, positive variance; the others stay 0."""
    good = valid & np.isfinite(variance) & (variance > 0)
    with np.errstate(over="ignore"):
        np.divide(np.float32(1), variance, out=out, where=good)
    # The inverse of a variance below 3e-39 is beyond float32.
    out[np.isinf(out)] = np.finfo(np.float32).max


def _check_quality(cutouts: Cutouts, n: int, plan: CutoutPlan, options: ReaderOptions) -> None:
    """Set the bits of the quality policy for the bands that have a file."""
    policy = options.quality
    if policy is None or cutouts.valid is None:
        return
    bits = {name: i for i, name in enumerate(options.mask_bits)}
    masks = {name: (cutouts.sources["mask"][n] >> bits[name]) & 1 == 1 for name in policy.mask_planes}
    variance = cutouts.sources["variance"][n] if "variance" in cutouts.sources else None
    found = policy.judge(plan.bands, cutouts.sources["image"][n], cutouts.valid[n], variance, masks)
    found[~cutouts.present[n]] = 0
    cutouts.quality[n] |= found


def _fill(cutouts: Cutouts, n: int, plan: CutoutPlan, options: ReaderOptions, finite: NDArray[np.bool_] | None) -> None:
    """Fill pixels that have no value."""
    image, covered = cutouts.sources.get("image"), cutouts.covered
    if options.missing_band == "nan":
        for name in {"image", "variance"} & set(cutouts.sources):
            cutouts.sources[name][n, ~cutouts.present[n]] = np.nan
    if image is None:
        return
    if options.fill == "noise":
        for band in np.flatnonzero(cutouts.present[n]).tolist():
            # Seeded by the name of the band: the noise does not depend on the order of the bands.
            channel = zlib.crc32(plan.bands[band].encode())
            identity = plan.object_id[cutouts.targets[n]]
            hashed = plan.repeats_ids or isinstance(identity, str)
            number = int(plan.keys(cutouts.targets[n : n + 1])[0]) if hashed else int(identity)
            _draw_noise(cutouts, n, band, (options.seed, number, channel))
    elif covered is not None and math.isnan(options.fill):
        known = covered[n] if finite is None else covered[n] & finite
        image[n][cutouts.present[n][:, None, None] & ~known] = np.nan


def _draw_noise(cutouts: Cutouts, n: int, band: int, seed: tuple[int, int, int]) -> None:
    """Replace invalid pixels by noise with the variance of the pixel, or the median variance if the pixel has none."""
    if cutouts.valid is None or (hole := ~cutouts.valid[n, band]).sum() == 0:
        return
    variance = cutouts.sources["variance"][n, band]
    known = np.isfinite(variance) & (variance > 0)
    typical = known & ~hole
    if not typical.any():
        return  # no valid pixel in this band: its noise level is unknown
    sigma = np.sqrt(np.where(known, variance, np.median(variance[typical])))
    # Every pixel is drawn, so that a pixel's noise does not depend on which others are missing.
    noise = np.random.default_rng([abs(v) * 2 + (v < 0) for v in seed]).standard_normal(hole.shape, np.float32)
    cutouts.sources["image"][n, band][hole] = (noise * sigma)[hole]


def outcomes(cutouts: Cutouts, plan: CutoutPlan, options: ReaderOptions) -> NDArray[np.uint8]:
    """Return the `Outcome` of each target, ``(N,)`` uint8.

    Raises
    ------
    MissingBandError
        If a band is missing and ``missing_band`` is ``"raise"``.
    QualityError
        If a target fails the quality policy with the action ``"raise"``, and is not left out for another reason.
    """
    absent = cutouts.quality & int(Quality.BAND_ABSENT) != 0  # (N, B)
    if options.missing_band == "raise" and absent.any():
        n = int(np.flatnonzero(absent.any(axis=1))[0])
        bands = ", ".join(np.asarray(plan.bands)[absent[n]].tolist())
        raise MissingBandError(
            f"{_who(cutouts, n, plan)} has no {plan.dataset_type!r} in {bands}; "
            'missing_band="zero" delivers a channel of zeros, "skip" leaves such targets out'
        )
    outcome = np.full(len(cutouts.targets), Outcome.DELIVERED, np.uint8)
    if options.quality is not None and options.quality.action != "flag":
        outcome[options.quality.fails(cutouts.quality)] = Outcome.QUALITY
    outcome[misses_bands(absent, plan.bands, options)] = Outcome.MISSING_BAND
    if options.on_read_error == "skip":
        outcome[(cutouts.quality & int(Quality.READ_ERROR) != 0).any(axis=1)] = Outcome.READ_ERROR
    if plan.pixels is not None:  # what the export left out has no pixels
        stored = plan.pixels.outcome[cutouts.targets]
        outcome = np.where(stored == Outcome.DELIVERED, outcome, stored)
    failing = np.flatnonzero(outcome == Outcome.QUALITY).tolist()
    if options.quality is not None and options.quality.action == "raise" and failing:
        n = failing[0]
        raise QualityError(
            f"{_who(cutouts, n, plan)} fails the quality policy ({_failed_checks(cutouts, n, plan)}); "
            'action="skip" leaves such targets out, "flag" marks them'
        )
    return outcome


def misses_bands(absent: NDArray[np.bool_], bands: tuple[str, ...], options: ReaderOptions) -> NDArray[np.bool_]:
    """Return which targets are left out because of missing bands, ``(N,)`` bool; ``absent`` is ``(N, B)``."""
    out: NDArray[np.bool_] = absent[:, [bands.index(b) for b in options.required_bands]].any(axis=1)
    out |= (~absent).sum(axis=1) < options.min_bands
    if options.missing_band == "skip":
        out |= absent.any(axis=1)
    return out


def _who(cutouts: Cutouts, n: int, plan: CutoutPlan) -> str:
    target = int(cutouts.targets[n])
    return (
        f"target {plan.object_id[target]} (catalog row {plan.row[target]}, ra {plan.ra[target]:.5f}, dec "
        f"{plan.dec[target]:.5f}, tract {plan.tract[target]}, patch {plan.patch[target]})"
    )


def _failed_checks(cutouts: Cutouts, n: int, plan: CutoutPlan) -> str:
    """Return the checks that failed, by band."""
    bits = (cutouts.quality[n] & int(POLICY_BITS)).tolist()
    found = [", ".join(str(flag.name) for flag in Quality if bit & flag) for bit in bits]
    return "; ".join(f"{band}: {names}" for band, names in zip(plan.bands, found, strict=True) if names)
