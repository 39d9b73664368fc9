"""The description of an export: what its pixels are, where they come from, and the names of its files and columns."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ...errors import PlanError
from ...sky.geometry import YX
from ...source.writing import atomic_file
from .export_files import DESCRIPTION

__all__ = ["PLANE_COLUMNS", "ExportDescription"]

PLANE_COLUMNS = {
    "image": "flux",
    "variance": "variance",
    "ivar": "ivar",
    "valid": "valid",
    "mask": "mask_bits",
    "psf": "psf",
}
"""Column of each plane, lists ``(B, Y, X)``."""

_FORMAT = 1


@dataclass(frozen=True)
class ExportDescription:
    """What an export holds.

    Attributes
    ----------
    repo, collections, dataset_type, skymap
        Where the pixels come from.
    bands
        Names of the ``B`` channels.
    size
        Rows and columns of a cutout, pixels.
    planes
        Planes that are stored, names as in `ReaderOptions.planes`.
    mask_planes
        Bit ``i`` of ``mask_bits`` is the ``i``-th name.
    flux_unit, fill, normalise_psf
        As in `ReadOptions`: how pixels were read.
    dtype
        ``"float32"``, or ``"float16"``: then ``flux`` and ``variance`` are to be multiplied by ``flux_scale`` and
        ``variance_scale`` ``(B,)``.
    psf_shape
        Rows and columns of the PSF kernels; None if there are none.
    numbered
        Whether ``row`` counts through the whole catalog, not through each of its partitions.
    catalog
        Label, identity and columns of the catalog.
    other
        Further settings, for comparison.
    version
        Of this package.
    """

    repo: str
    collections: tuple[str, ...]
    dataset_type: str
    skymap: str
    bands: tuple[str, ...]
    size: YX[int]
    planes: tuple[str, ...]
    mask_planes: tuple[str, ...]
    flux_unit: str
    fill: float
    normalise_psf: bool
    dtype: str
    psf_shape: YX[int] | None
    numbered: bool
    catalog: Mapping[str, Any]
    other: Mapping[str, Any]
    version: str = ""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the description whole or not at all."""
        values = {"format": _FORMAT, **asdict(self), "fill": str(self.fill)}
        with atomic_file(Path(folder) / DESCRIPTION) as part:
            part.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the description of an export.

        Raises
        ------
        PlanError
            If there is none, or it has another format.
        """
        path = Path(folder) / DESCRIPTION
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise PlanError(f"{path} cannot be read: {error}; check the path, or export again") from error
        if values.pop("format", None) != _FORMAT:
            raise PlanError(f"{path} has another format than {_FORMAT}, which this version reads; export again")
        for name in ("collections", "bands", "planes", "mask_planes"):
            values[name] = tuple(values[name])
        psf = values["psf_shape"]
        values |= {"size": YX(*values["size"]), "psf_shape": None if psf is None else YX(*psf)}
        return cls(**values | {"fill": float(values["fill"])})
