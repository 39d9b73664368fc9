"""Options of one reader: the user's `ReadOptions` together with planes, columns and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from ..errors import ConfigurationError, PlanError
from ..plan.cutout_plan import CutoutPlan
from ..plan.read_options import ReadOptions

__all__ = ["PLANES", "ReaderOptions"]

PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Planes that a batch can hold: ``(N, B, Y, X)`` each, the PSF ``(N, B, y, x)``."""


@dataclass(frozen=True)
class ReaderOptions(ReadOptions):
    """`ReadOptions`, together with the planes, seed and columns of a batch.

    Parameters
    ----------
    planes
        Any of `PLANES`; only what they need is read.
    seed
        Seed of the noise of ``fill="noise"``.
    columns
        Catalog columns of the plan that a batch holds; None for all of them.
    """

    planes: Sequence[str] = ("image",)
    seed: int = 0
    columns: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        read: ReadOptions,
        *,
        planes: Sequence[str] = ("image",),
        seed: int = 0,
        columns: Sequence[str] | None = None,
    ) -> Self:
        """Return the options of a reader from those that a user gives."""
        if not isinstance(read, ReadOptions):
            raise ConfigurationError(f"read must be ReadOptions, such as ReadOptions(missing_band='nan'), got {read!r}")
        given = {field.name: getattr(read, field.name) for field in fields(ReadOptions)}
        return cls(**given, planes=planes, seed=seed, columns=columns)

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        object.__setattr__(self, "planes", (self.planes,) if isinstance(self.planes, str) else tuple(self.planes))
        if self.columns is not None:
            columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
            object.__setattr__(self, "columns", columns)
        unknown = [p for p in self.planes if p not in PLANES]
        if unknown or not self.planes:
            raise ConfigurationError(f"planes must be names from {', '.join(PLANES)}, got {self.planes!r}")
        if ("mask" in self.planes) != bool(self.mask_planes):
            raise ConfigurationError(
                "planes=('mask', ...) and read=ReadOptions(mask_planes=(names, ...)) must be given together; give both or neither"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ConfigurationError(f"seed must be an integer >= 0, got {self.seed!r}")

    def check_grid(self, plan: CutoutPlan) -> None:
        """Raise `PlanError` if a plan was made for another pixel grid than that of the options, where they have one."""
        if self.grid is None or (plan.grid is not None and plan.grid.settings == self.grid):
            return
        if plan.pixels is not None:
            raise PlanError(
                f"the cutouts of the export {plan.pixels.folder} are on the pixel grid of their tract; give the repository with read.grid"
            )
        made = "the pixel grid of the tract" if plan.grid is None else plan.grid.settings
        raise PlanError(
            f"the plan is for {made}, but read.grid is {self.grid}; make the plan again with the same ReadOptions"
        )

    @property
    def mask_bits(self) -> tuple[str, ...]:
        """Mask planes of the bits that are read: those requested, those that the policy checks, and NO_DATA."""
        checked = () if self.quality is None else self.quality.mask_planes
        return (*self.mask_planes, *(name for name in checked if name not in self.mask_planes), "NO_DATA")

    @property
    def needs_valid(self) -> bool:
        """Whether the validity of every pixel has to be computed."""
        return bool({"valid", "ivar"} & set(self.planes)) or self.fill == "noise" or self.quality is not None

    @property
    def needs_covered(self) -> bool:
        """Whether the reader must record which pixels are covered by a file."""
        return self.needs_valid or self.fill != 0.0

    @property
    def sources(self) -> dict[str, type[np.generic]]:
        """Planes of the files to read, and the type of their arrays."""
        needed: dict[str, type[np.generic]] = {}
        if "image" in self.planes or self.needs_valid:
            needed["image"] = np.float32
        checks_variance = self.quality is not None and self.quality.positive_variance
        if {"variance", "ivar"} & set(self.planes) or self.fill == "noise" or checks_variance:
            needed["variance"] = np.float32
        if "mask" in self.planes or self.needs_valid:
            needed["mask"] = np.int32
        return needed
