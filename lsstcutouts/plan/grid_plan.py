"""What a plan knows of your own pixel grid: the projection of each cutout, and the boxes of tract pixels under it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX
from .grid import MARGINS, SUPPORT, Grid, Placed

if TYPE_CHECKING:
    from .cutout_plan import CutoutPlan

__all__ = ["FurtherBoxes", "GridPlan", "boxes_under"]

type Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FurtherBoxes:
    """Boxes of ``M`` pieces of the sky under cutouts in further tracts, besides those of the plan.

    Attributes
    ----------
    owner
        ``(M,)`` the target of each, ascending.
    primary, yx0, offset, others_start, others
        As in a `CutoutPlan`.
    """

    owner: Ints
    primary: NDArray[np.int32]
    yx0: NDArray[np.int32]
    offset: NDArray[np.float32]
    others_start: Ints
    others: Ints

    def to_meta(self) -> dict[str, Any]:
        """Return the arrays as plain values."""
        return {name: array.tolist() for name, array in vars(self).items()}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Return what `to_meta` gave."""
        return cls(
            owner=np.array(meta["owner"], np.int64),
            primary=np.array(meta["primary"], np.int32),
            yx0=np.array(meta["yx0"], np.int32).reshape(-1, 2),
            offset=np.array(meta["offset"], np.float32).reshape(-1, 2),
            others_start=np.array(meta["others_start"], np.int64),
            others=np.array(meta["others"], np.int64),
        )


@dataclass(frozen=True, eq=False)
class GridPlan:
    """The grids of the cutouts of ``N`` targets.

    Attributes
    ----------
    settings
        What was asked for.
    pixel_scale
        Arcseconds a pixel of the cutouts along ``(y, x)``; of a given WCS at its reference pixel.
    reach
        Rows and columns of the boxes of tract pixels that the cutouts are made from, the same for all.
    psf_shape
        Rows and columns of the PSF kernels in the files, pixels; None if they have none.
    placed
        Projection of each cutout, and its place.
    further
        Boxes in other tracts.
    """

    settings: Grid
    pixel_scale: YX[float]
    reach: YX[int]
    psf_shape: YX[int] | None
    placed: Placed
    further: FurtherBoxes

    @property
    def unused(self) -> int:
        """Pixels at each edge of these boxes that contribute less than 1 % each to any pixel of a cutout."""
        return MARGINS[self.settings.order] - SUPPORT[self.settings.order]

    def to_columns(self, rejected: int) -> dict[str, NDArray[Any]]:
        """Return columns of a table with a row for each target and then for so many rejected rows."""
        flat = {
            **{f"wcs{k}": column for k, column in enumerate(self.placed.wcs.T)},
            **{f"yx0{k}": column for k, column in enumerate(self.placed.yx0.T)},
            **{f"offset{k}": column for k, column in enumerate(self.placed.offset.T)},
        }
        return {f"grid.{name}": np.concatenate([v, np.zeros(rejected, v.dtype)]) for name, v in flat.items()}

    def to_meta(self) -> dict[str, Any]:
        """Return the rest, as plain values."""
        return {
            "settings": asdict(self.settings),
            **{name: getattr(self, name) for name in ("pixel_scale", "reach", "psf_shape")},
            "further": self.further.to_meta(),
        }

    @classmethod
    def from_table(cls, meta: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], count: int) -> Self:
        """Return what `to_meta` and `to_columns` gave, of the first ``count`` rows."""
        arrays = [
            np.column_stack([columns[f"grid.{name}{k}"][:count] for k in range(many)])
            for name, many in (("wcs", 8), ("yx0", 2), ("offset", 2))
        ]
        return cls(
            settings=Grid(**meta["settings"]),
            pixel_scale=YX(*meta["pixel_scale"]),
            reach=YX(*meta["reach"]),
            psf_shape=None if meta["psf_shape"] is None else YX(*meta["psf_shape"]),
            placed=Placed(*arrays),
            further=FurtherBoxes.from_meta(meta["further"]),
        )


def boxes_under(plan: "CutoutPlan") -> "CutoutPlan":
    """Return the plan of the boxes of tract pixels under the cutouts of a plan with a grid: first those of its targets, then further ones."""
    grid = plan.grid
    assert grid is not None
    more, rows = grid.further, np.concatenate([np.arange(len(plan)), grid.further.owner])
    start = np.concatenate([plan.others_start, plan.others_start[-1] + more.others_start[1:]])
    return replace(
        plan,
        size=grid.reach,
        psf_shape=grid.psf_shape,
        row=plan.row[rows],
        object_id=np.arange(len(rows)),
        ra=plan.ra[rows],
        dec=plan.dec[rows],
        primary=np.concatenate([plan.primary, more.primary]),
        other_tract=plan.other_tract[rows],
        yx0=np.concatenate([plan.yx0, more.yx0]),
        offset=np.concatenate([plan.offset, more.offset]),
        others_start=start,
        others=np.concatenate([plan.others, more.others]),
        columns={},
        repeats_ids=False,
        grid=None,
    )
