"""Quality bits of a target's bands, and the policy that sets more of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["POLICY_BITS", "Outcome", "Quality", "QualityPolicy"]


class Quality(IntFlag):
    """Bits of a batch's ``quality``, ``(N, B)``: the problems of each band of a target; 0 means none.

    The first four are always computed, the others only for the checks of a `QualityPolicy`.
    """

    BAND_ABSENT = 1
    """The repository has no file of this band under the box."""
    PARTLY_COVERED = 2
    """Some pixels of the box lie on no file of this band."""
    READ_ERROR = 4
    """Some pixels of the box, or the PSF, are missing because a file cannot be read."""
    NO_PSF = 8
    """The PSF was asked for, and the file has none at the target."""
    FEW_VALID = 16
    """The fraction of valid pixels is below the minimum of the policy."""
    MASKED = 32
    """More pixels of the box have a mask plane set than the policy allows."""
    MASKED_CENTRE = 64
    """The same for the central box."""
    BAD_VARIANCE = 128
    """A valid pixel whose variance is not finite and positive."""
    PEAK_AT_EDGE = 256
    """The brightest valid pixel lies at the edge of the box."""
    BROAD_PSF = 512
    """`~lsstcutouts.transforms.MatchPsf` removed the band, as its PSF is broader than the target."""


POLICY_BITS = Quality.FEW_VALID | Quality.MASKED | Quality.MASKED_CENTRE | Quality.BAD_VARIANCE | Quality.PEAK_AT_EDGE
"""Bits that a `QualityPolicy` sets."""


class Outcome(IntEnum):
    """Result for a catalog row: delivered, or why not."""

    DELIVERED = 0
    OUTSIDE_TRACTS = 1
    """The tract that the skymap assigns to the position has no coadds, or no tract with coadds contains the position."""
    NO_COADD = 2
    """No coadd of its own tract lies under the box, in any of the bands."""
    MISSING_BAND = 3
    """Left out by ``missing_band``, ``min_bands`` or ``required_bands``."""
    QUALITY = 4
    """Left out by the quality policy."""
    READ_ERROR = 5
    """Left out because a file cannot be read."""
    NOT_DRAWN = 6
    """Not in this epoch: not sampled, or in the remainder with fewer targets than ranks."""
    NOT_READ = 255
    """Not read yet, or read by another process."""

    @property
    def text(self) -> str:
        """Short description."""
        return _TEXTS[self]


_TEXTS = {
    Outcome.DELIVERED: "delivered",
    Outcome.OUTSIDE_TRACTS: "in no tract that has coadds",
    Outcome.NO_COADD: "no coadd in any band under the box",
    Outcome.MISSING_BAND: "left out: bands missing",
    Outcome.QUALITY: "left out: quality",
    Outcome.READ_ERROR: "left out: unreadable file",
    Outcome.NOT_DRAWN: "not part of this epoch",
    Outcome.NOT_READ: "not read",
}


@dataclass(frozen=True)
class QualityPolicy:
    """Checks of a target's pixels, band by band; a band that no file covers is not checked.

    Attributes
    ----------
    min_valid
        Smallest allowed fraction of valid pixels, for all bands or by band name.
    max_masked
        Largest allowed fraction of pixels with a mask plane set, by the name of the plane.
    max_masked_centre
        The same within the central box.
    centre
        Rows and columns of the central box, pixels: one number or ``(height, width)``.
    positive_variance
        Whether every valid pixel must have a finite and positive variance.
    peak_margin
        The brightest valid pixel must lie at least so many pixels from the edge; 0 for anywhere.
    action
        What happens to a target that fails in any band: ``"flag"`` sets bits of ``quality``; ``"skip"`` leaves it out and
        lists it in the report; ``"raise"`` raises `~lsstcutouts.errors.QualityError`.
    """

    min_valid: float | Mapping[str, float] = 0.0
    max_masked: Mapping[str, float] = field(default_factory=dict)
    max_masked_centre: Mapping[str, float] = field(default_factory=dict)
    centre: int | Sequence[int] = 9
    positive_variance: bool = False
    peak_margin: int = 0
    action: Literal["flag", "skip", "raise"] = "flag"

    def __post_init__(self) -> None:
        for name in ("max_masked", "max_masked_centre"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigurationError(
                    f"{name} must map mask planes to fractions, such as {{'SATURATED': 0.1}}, got {getattr(self, name)!r}"
                )
        shares = self.min_valid.values() if isinstance(self.min_valid, Mapping) else [self.min_valid]
        for share in (*shares, *self.max_masked.values(), *self.max_masked_centre.values()):
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ConfigurationError(f"the fractions of a quality policy must be between 0 and 1, got {share!r}")
        if not isinstance(self.positive_variance, bool):
            raise ConfigurationError(f"positive_variance must be true or false, got {self.positive_variance!r}")
        if self.action not in ("flag", "skip", "raise"):
            raise ConfigurationError(f"action of a quality policy must be flag, skip or raise, got {self.action!r}")
        whole = [*self._centre_shape, self.peak_margin]
        if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in whole) or min(whole) < 0:
            raise ConfigurationError(
                f"centre={self.centre!r} and peak_margin={self.peak_margin!r} must be integer numbers of pixels"
            )
        if 0 in self._centre_shape:
            raise ConfigurationError(f"centre={self.centre!r} of a quality policy must be at least 1 pixel")

    @property
    def _centre_shape(self) -> tuple[int, int]:
        pair = self.centre if isinstance(self.centre, Sequence) else (self.centre, self.centre)
        if isinstance(pair, str) or len(pair) != 2:
            raise ConfigurationError(f"centre must be a number of pixels or (height, width), got {self.centre!r}")
        return pair[0], pair[1]

    @property
    def mask_planes(self) -> tuple[str, ...]:
        """Names of the mask planes that the policy checks."""
        return tuple(dict.fromkeys((*self.max_masked, *self.max_masked_centre)))

    def check_bands(self, bands: Sequence[str]) -> None:
        """Raise `ConfigurationError` for a band that is not read."""
        if isinstance(self.min_valid, Mapping):
            for band in self.min_valid:
                if band not in bands:
                    raise ConfigurationError(
                        f"min_valid has the band {band!r}, which is not one of the bands {', '.join(bands)}"
                    )

    def judge(
        self,
        bands: Sequence[str],
        image: NDArray[np.float32],
        valid: NDArray[np.bool_],
        variance: NDArray[np.float32] | None,
        masks: Mapping[str, NDArray[np.bool_]],
    ) -> NDArray[np.int32]:
        """Return ``(B,)`` bits of `Quality` for one target.

        Parameters
        ----------
        bands
            Names of the channels.
        image, valid, variance
            ``(B, Y, X)``; image in nJy, variance in nJy^2.
        masks
            ``(B, Y, X)`` bool for each mask plane that the policy checks.
        """
        bits = np.zeros(len(bands), np.int32)
        least = [self.min_valid.get(b, 0.0) if isinstance(self.min_valid, Mapping) else self.min_valid for b in bands]
        bits[valid.mean(axis=(1, 2)) < np.asarray(least)] |= Quality.FEW_VALID
        for name, most in self.max_masked.items():
            bits[masks[name].mean(axis=(1, 2)) > most] |= Quality.MASKED
        centre = _central(image.shape[1:], self._centre_shape)
        for name, most in self.max_masked_centre.items():
            bits[masks[name][:, *centre].mean(axis=(1, 2)) > most] |= Quality.MASKED_CENTRE
        if variance is not None and self.positive_variance:
            bad = valid & ~(np.isfinite(variance) & (variance > 0))
            bits[bad.any(axis=(1, 2))] |= Quality.BAD_VARIANCE
        if self.peak_margin:
            bits[_peak_outside(image, valid, self.peak_margin)] |= Quality.PEAK_AT_EDGE
        return bits

    def fails(self, bits: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of ``(N, B)`` quality bits make a target fail, ``(N,)``."""
        failing: NDArray[np.bool_] = (bits & int(POLICY_BITS)) != 0
        return np.asarray(failing.any(axis=-1))


def _central(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the central box of at most ``size``; where it cannot be in the middle it lies half a pixel lower."""
    first, second = (
        slice((n - min(n, m)) // 2, (n - min(n, m)) // 2 + min(n, m)) for n, m in zip(shape, size, strict=True)
    )
    return first, second


def _peak_outside(image: NDArray[Any], valid: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Return for each band whether its brightest valid pixel lies less than ``margin`` pixels from the edge."""
    bands, height, width = image.shape
    values = np.where(valid, image, -np.inf).reshape(bands, -1)
    y, x = np.divmod(values.argmax(axis=1), width)
    outside = (y < margin) | (x < margin) | (y >= height - margin) | (x >= width - margin)
    return np.asarray(outside & valid.any(axis=(1, 2)))
