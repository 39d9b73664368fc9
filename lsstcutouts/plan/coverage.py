"""Where the patches, bands and targets of a plan are, in a projection around its patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .tables import Reason

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from .cutout_plan import CutoutPlan
    from .splits.assignment import SplitAssignment

__all__ = ["DRAWN_AS_POINTS", "Coverage", "Layer"]

DRAWN_AS_POINTS = 5000
"""Most targets that are drawn as points; more are drawn as densities."""

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#F0E442", "#CC79A7")
"""Okabe and Ito's colours, without those of rejected targets."""

_REJECTED = {Reason.OUTSIDE_TRACTS: "#D55E00", Reason.NO_COADD: "#000000"}
_BINS = 160


class Layer(NamedTuple):
    """Targets of one kind: name, colour, and positions ``(n,)`` in the projection, degrees."""

    name: str
    colour: str
    rejected: bool
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Coverage:
    """What a picture of a plan shows; P patches, B bands. Coordinates are degrees in the plane of ``wcs``, x to the west.

    Attributes
    ----------
    wcs
        Zenithal equal-area projection around the middle of the patches, one degree per pixel.
    bands
        Names of the bands.
    corners
        ``(P, 4, 2)`` corners ``(x, y)`` of the inner regions.
    tract, patch
        ``(P,)`` numbers.
    present
        ``(P, B)`` whether a patch has a file of a band.
    targets
        ``(P,)`` number of targets whose primary patch it is.
    layers
        Targets, or splits, and rejected targets by reason.
    view
        ``(x0, x1, y0, y1)``: the patches and a margin.
    """

    wcs: "WCS"
    bands: tuple[str, ...]
    corners: NDArray[np.float64]
    tract: NDArray[np.int64]
    patch: NDArray[np.int64]
    present: NDArray[np.bool_]
    targets: NDArray[np.int64]
    layers: Sequence[Layer]
    view: tuple[float, float, float, float]

    @classmethod
    def of(cls, plan: "CutoutPlan", splits: "SplitAssignment | None" = None) -> "Coverage":
        """Return what a picture of a plan shows, with the targets of each split apart if splits are given."""
        from astropy.wcs import WCS

        table = plan.patches
        sky = np.empty((len(table), 4, 2))
        for tract in np.unique(table.tract).tolist():
            of_tract = table.tract == tract
            y0, y1, x0, x1 = table.inner[of_tract].T - 0.5
            sky[of_tract] = np.stack(
                plan.projections[tract].pixel_to_sky(np.stack([y0, y0, y1, y1], 1), np.stack([x0, x1, x1, x0], 1)), -1
            )
        ra, dec = _middle(*(sky if len(table) else np.stack([plan.ra, plan.dec], -1)).reshape(-1, 2).T)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
        wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = [ra, dec], [-1.0, 1.0], [1.0, 1.0]
        wcs.wcs.lonpole = 180.0  # north is up also at the poles
        corners = wcs.wcs_world2pix(sky.reshape(-1, 2), 0).reshape(sky.shape)
        layers = [
            Layer(name, colour, rejected, *wcs.wcs_world2pix(np.column_stack(at), 0).T)
            for name, colour, rejected, at in _kinds(plan, splits)
        ]
        shown = corners.reshape(-1, 2) if len(table) else np.zeros((0, 2))
        low, high = (shown.min(axis=0), shown.max(axis=0)) if len(shown) else (-np.ones(2), np.ones(2))
        pad = 0.06 * max((high - low).max(), 0.01)
        return cls(
            wcs,
            plan.bands,
            corners,
            table.tract,
            table.patch,
            table.files >= 0,
            np.bincount(plan.primary, minlength=len(table)),
            layers,
            (low[0] - pad, high[0] + pad, low[1] - pad, high[1] + pad),
        )

    @property
    def outside(self) -> int:
        """Number of targets outside the view, all of them rejected."""
        return sum(int((~self.inside(one)).sum()) for one in self.layers)

    def inside(self, layer: Layer) -> NDArray[np.bool_]:
        """Return which targets of a layer, ``(n,)``, are in the view."""
        x0, x1, y0, y1 = self.view
        chosen: NDArray[np.bool_] = (layer.x >= x0) & (layer.x <= x1) & (layer.y >= y0) & (layer.y <= y1)
        return chosen

    def density(self, layer: Layer) -> NDArray[np.float64]:
        """Return the number of targets in cells of the view, rows from south; NaN where there are none."""
        x0, x1, y0, y1 = self.view
        counts = np.histogram2d(layer.y, layer.x, _BINS, [(y0, y1), (x0, x1)])[0]
        counts[counts == 0] = np.nan
        return counts

    def bands_of(self, patch: int, *, missing: bool) -> str:
        """Return the names of the bands that a row of the patch table has, or lacks; "none" if there are none."""
        return (
            ", ".join(b for b, there in zip(self.bands, self.present[patch], strict=True) if there != missing) or "none"
        )


_Kind = tuple[str, str, bool, tuple[NDArray[np.float64], NDArray[np.float64]]]


def _kinds(plan: "CutoutPlan", splits: "SplitAssignment | None") -> list[_Kind]:
    """Return name, colour, whether rejected, and positions ``(ra, dec)`` in degrees, of each kind of target that occurs."""
    if splits is None:
        rows = {"targets": np.arange(len(plan))}
    else:
        rows = {name: chosen for name, (_, chosen) in splits.splits.items() if name != "predict"}
        free = np.ones(len(plan), bool)
        for chosen in rows.values():
            free[chosen] = False
        rows["in no split"] = np.flatnonzero(free)
    named = [(name, chosen) for name, chosen in rows.items() if len(chosen)]
    kinds: list[_Kind] = [
        (name, _COLOURS[i % len(_COLOURS)], False, (plan.ra[chosen], plan.dec[chosen]))
        for i, (name, chosen) in enumerate(named)
    ]
    lost = plan.rejected
    for reason, colour in _REJECTED.items():
        if (chosen := lost.reason == reason).any():
            kinds.append((f"rejected: {reason.text}", colour, True, (lost.ra[chosen], lost.dec[chosen])))
    return kinds


def _middle(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[float, float]:
    """Return the direction of the mean of positions, degrees; at RA 0/360 and the poles too."""
    from astropy import units
    from astropy.coordinates import UnitSphericalRepresentation

    if not len(ra):
        return 0.0, 0.0
    points = UnitSphericalRepresentation(ra * units.deg, dec * units.deg)
    middle = points.mean().represent_as(UnitSphericalRepresentation)
    return float(middle.lon.deg), float(middle.lat.deg)
