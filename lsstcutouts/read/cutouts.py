"""The cutouts of a batch under way: arrays, and what has been found out about the targets."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from ..sky.geometry import YX
from .batch_report import BatchReport, Failure
from .options import ReaderOptions

__all__ = ["Batch", "Cutouts", "Empty", "psf_shape"]

type Array = NDArray[Any]
type Batch = dict[str, Array | list[str]]
type Empty = Callable[[tuple[int, ...], type[np.generic]], Array]
"""Makes an array of a shape and type, whatever it holds."""


@dataclass(slots=True, eq=False)
class Cutouts:
    """Arrays of ``N`` targets that several threads fill, each its own targets.

    Attributes
    ----------
    targets
        ``(N,)`` numbers in the plan.
    sources
        Planes of the files, ``(N, B, Y, X)``.
    covered
        Pixels that some readable file holds, ``(N, B, Y, X)``; None where nobody asks, and in an export, which has ``valid``.
    valid
        The same without those that are not finite or NO_DATA; None where nobody asks.
    ivar, psf, psf_present
        As in the batch; None where nobody asks.
    present
        ``(N, B)`` whether some file holds a pixel.
    suspect
        ``(N,)`` whether a pixel of the image may not be finite.
    quality
        ``(N, B)`` bits of `Quality`.
    wcs
        ``(N, 8)`` reference pixel on the sky (degrees) and in the cutout (0-based), CD matrix (degrees a pixel).
    lost
        Pixels that cannot be read, ``(Y, X)`` by target and band.
    failures
        What could not be read, and the target that lost pixels to it.
    """

    targets: NDArray[np.int64]
    sources: dict[str, Array]
    covered: NDArray[np.bool_] | None
    valid: NDArray[np.bool_] | None
    ivar: NDArray[np.float32] | None
    psf: NDArray[np.float32] | None
    psf_present: NDArray[np.bool_] | None
    present: NDArray[np.bool_]
    suspect: NDArray[np.bool_]
    quality: NDArray[np.int32]
    wcs: NDArray[np.float64]
    lost: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)
    failures: list[tuple[Failure, int]] = field(default_factory=list)

    @classmethod
    def allocated(
        cls,
        plan: CutoutPlan,
        options: ReaderOptions,
        targets: NDArray[np.int64],
        empty: Empty = np.empty,
        stored: Sequence[str] | None = None,
    ) -> "Cutouts":
        """Return arrays for these targets, the large ones made by ``empty`` and holding anything.

        With ``stored``, planes that are read from an export, only these are made, and ``ivar`` if it is asked for.
        """
        shape = len(targets), len(plan.bands), *plan.size
        psf = empty((*shape[:2], *psf_shape(plan)), np.float32) if "psf" in options.planes else None
        ivar = empty(shape, np.float32) if "ivar" in options.planes else None
        for array in (psf, ivar):  # these are written only where there is something to say
            if array is not None:
                array.fill(0)
        sources, needs_covered, needs_valid = options.sources, options.needs_covered, options.needs_valid
        if stored is not None:
            types: dict[str, type[np.generic]] = {"image": np.float32, "variance": np.float32, "mask": np.int32}
            sources = {name: dtype for name, dtype in types.items() if name in stored}
            needs_covered, needs_valid = False, "valid" in stored
        return cls(
            targets=targets,
            sources={name: empty(shape, dtype) for name, dtype in sources.items()},
            covered=empty(shape, np.bool_) if needs_covered else None,
            valid=empty(shape, np.bool_) if needs_valid else None,
            ivar=ivar,
            psf=psf,
            psf_present=None if psf is None else np.zeros(shape[:2], bool),
            present=np.zeros(shape[:2], bool),
            suspect=np.zeros(len(targets), bool),
            quality=np.zeros(shape[:2], np.int32),
            wcs=np.zeros((len(targets), 8)),
        )

    @classmethod
    def without_pixels(cls, targets: NDArray[np.int64], bands: int) -> "Cutouts":
        """Return arrays that take what is found out of targets before any pixel is read."""
        shape = len(targets), bands
        return cls(
            targets,
            {},
            None,
            None,
            None,
            None,
            None,
            present=np.zeros(shape, bool),
            suspect=np.zeros(len(targets), bool),
            quality=np.zeros(shape, np.int32),
            wcs=np.zeros((len(targets), 8)),
        )

    def lose(
        self, n: int, band: int, place: tuple[slice, slice], part: NDArray[np.bool_], failures: Iterable[Failure]
    ) -> None:
        """Note that pixels of a target cannot be read."""
        if self.sources:  # a batch of PSFs alone has no pixels to lose
            shape = next(iter(self.sources.values())).shape[2:]
            self.lost.setdefault((n, band), np.zeros(shape, bool))[place] |= part
        self.fail(n, band, failures)

    def fail(self, n: int, band: int, failures: Iterable[Failure]) -> None:
        """Note that something of a target cannot be read."""
        self.quality[n, band] |= Quality.READ_ERROR
        self.failures += [(failure, n) for failure in failures]

    def batch_report(self, outcome: NDArray[np.uint8]) -> BatchReport:
        """Return what happened to the targets."""
        places: dict[Failure, set[int]] = {}
        for failure, n in self.failures:
            places.setdefault(failure, set()).add(n)
        failures = tuple((failure, tuple(sorted(n))) for failure, n in places.items())
        return BatchReport(self.targets, outcome, self.quality, failures)


def psf_shape(plan: CutoutPlan) -> YX[int]:
    """Return the shape of the plan's PSF kernels.

    Raises
    ------
    PlaneError
        If its files have none that can be read.
    """
    if plan.psf_shape is None:
        raise PlaneError(
            f"the PSF of {plan.dataset_type!r} in {plan.repo!r} cannot be read: only DP2 cell coadds have one kernel per "
            "cell; exposures written by afw (DP0.2, DP1) have a CoaddPsf, which needs the LSST stack. Leave 'psf' "
            "out of planes"
        )
    return plan.psf_shape
