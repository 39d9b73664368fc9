"""What the pixels must be, found without this package's readers: `lsst.images` through the Butler, or astropy.

A cutout is built by pasting whole files on a canvas, the least important first, so that the most important is
on top; the package goes the other way round.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from astropy.io import fits
from lsst.daf.butler import Butler
from numpy.typing import NDArray

from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.testing import SimulatedRepository

from .repositories import SMALL


@dataclass(frozen=True)
class WholeFile:
    """One coadd: arrays and the tract pixel of their first element, ``(y, x)``."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    no_data: NDArray[np.bool_]
    start: tuple[int, int]


@cache
def whole_files(root: str, collections: str, release: str) -> dict[tuple[int, int, str], WholeFile]:
    """Return every coadd of a repository by tract, patch and band."""
    found: dict[Any, WholeFile] = {}
    with Butler.from_config(root, collections=collections) as butler:
        for ref in butler.query_datasets("deep_coadd", limit=None):
            key = ref.dataId["tract"], ref.dataId["patch"], ref.dataId["band"]
            if release == "dp2":
                coadd = butler.get(ref)
                start = coadd.bbox.y.start, coadd.bbox.x.start
                no_data = coadd.mask.get("NO_DATA")
                found[key] = WholeFile(coadd.image.array, coadd.variance.array, no_data, start)
            else:
                found[key] = _afw(butler.getURI(ref).ospath)
    return found


def _afw(path: str) -> WholeFile:
    with fits.open(path) as hdus:
        header = hdus["IMAGE"].header
        bit = hdus["MASK"].header["MP_NO_DATA"]
        return WholeFile(
            image=hdus["IMAGE"].data.astype(np.float32),
            variance=hdus["VARIANCE"].data.astype(np.float32),
            no_data=(hdus["MASK"].data >> bit) & 1 == 1,
            start=(-int(header["LTV2"]), -int(header["LTV1"])),
        )


def files_of(repo: SimulatedRepository) -> dict[tuple[int, int, str], WholeFile]:
    return whole_files(str(repo.root), repo.collections, repo.release)


@dataclass(frozen=True)
class Expected:
    """One target: ``(B, Y, X)`` planes."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    valid: NDArray[np.bool_]
    has_value: NDArray[np.bool_]
    present: NDArray[np.bool_]


def inner_region(patch: int) -> tuple[int, int, int, int]:
    """Return the inner region of a patch of the shared repositories: rows and columns of the tract."""
    y, x = divmod(patch, SMALL["grid"][1])
    h, w = (cells * cell for cells, cell in zip(SMALL["cells"], SMALL["cell"], strict=True))
    return y * h, (y + 1) * h, x * w, (x + 1) * w


def expected(repo: SimulatedRepository, plan: CutoutPlan, target: int) -> Expected:
    """Return the cutout of a plan's target, stitched from every patch of the shared repositories."""
    files = files_of(repo)
    (h, w), (y0, x0) = plan.size, plan.yx0[target].tolist()
    tract, primary = int(plan.tract[target]), int(plan.patch[target])
    image, variance = (np.zeros((len(plan.bands), h, w), np.float32) for _ in range(2))
    no_data, covered = (np.zeros((len(plan.bands), h, w), bool) for _ in range(2))
    others = sorted(set(repo.patches) - {primary}, reverse=True)
    for b, band in enumerate(plan.bands):
        steps = [(p, None) for p in others] + [(p, inner_region(p)) for p in others] + [(primary, None)]
        for patch, region in steps:
            one = files.get((tract, patch, band))
            if one is None:
                continue
            (fy, fx), (fh, fw) = one.start, one.image.shape
            top, bottom, left, right = max(y0, fy), min(y0 + h, fy + fh), max(x0, fx), min(x0 + w, fx + fw)
            if region is not None:
                top, bottom = max(top, region[0]), min(bottom, region[1])
                left, right = max(left, region[2]), min(right, region[3])
            if top >= bottom or left >= right:
                continue
            to = b, slice(top - y0, bottom - y0), slice(left - x0, right - x0)
            there = slice(top - fy, bottom - fy), slice(left - fx, right - fx)
            image[to], variance[to], no_data[to] = one.image[there], one.variance[there], one.no_data[there]
            covered[to] = True
    finite = np.isfinite(image)
    valued = covered & finite
    return Expected(np.where(finite, image, 0), variance, valued & ~no_data, valued, covered.any(axis=(1, 2)))
