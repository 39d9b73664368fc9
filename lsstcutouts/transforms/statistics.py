"""Pixel statistics of each band, and their YAML file."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from ..errors import StatisticsError
from ..source.notebook import html_table
from ..source.writing import atomic_file

__all__ = ["DEFAULT_SAMPLE", "QUANTILES", "BandStatistics", "Statistics"]

DEFAULT_SAMPLE = 1000
"""Targets. With 64 px a side these are four million pixels a band, whose median is known to 0.0006 of the noise; what
limits it is how the depth and the objects vary from target to target."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995, 0.999)
"""Fractions of the pixels at which quantiles are recorded."""

_VERSION = 2
"""Version 1 had no ``pixel_scale``."""

_SCALE_TOLERANCE = 1e-3
"""Relative tolerance of pixel scales: tracts of one skymap differ by 1e-9, surveys by several percent."""

_TITLE = "# Pixels of each band, fitted by lsstcutouts on a sample of the training split.\n"


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Robust statistics of the valid pixels of one band.

    Attributes
    ----------
    median
        Median, in the unit of the statistics (nJy by default).
    noise
        1.4826 times the median absolute deviation: the standard deviation, for a normal distribution. Same unit.
    quantiles
        Fraction of the pixels to the quantile, in the same unit.
    pixels, targets
        Number of valid pixels, and of targets that have any.
    """

    median: float
    noise: float
    quantiles: Mapping[float, float]
    pixels: int
    targets: int

    def __post_init__(self) -> None:
        values = (self.median, self.noise, *self.quantiles.values())
        if not all(map(math.isfinite, values)) or self.noise <= 0:
            raise StatisticsError(
                f"median={self.median}, noise={self.noise} and the quantiles must be finite, and the noise positive"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the statistics from the dictionary of `dataclasses.asdict`."""
        return cls(
            median=float(values["median"]),
            noise=float(values["noise"]),
            quantiles={float(share): float(value) for share, value in values["quantiles"].items()},
            pixels=int(values["pixels"]),
            targets=int(values["targets"]),
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Pixel statistics of every band, and the data that they were fitted to.

    Attributes
    ----------
    bands
        Band name to its statistics, in channel order.
    unit
        Unit of median, noise and quantiles: ``nJy``, or ``native`` for the unit of the files.
    dataset_type, size
        Dataset type of the coadds, and ``(height, width)`` of the cutouts in pixels.
    seed, sample
        Seed of the choice of targets, and the number requested.
    targets
        Number of targets used; lower than ``sample`` if the training split is smaller or a policy drops targets.
    pixels_per_target
        Pixels used per cutout and band; all of them if they fit into memory.
    plan
        Fingerprint of the plan.
    pixel_scale
        Arcseconds per pixel, ``(y, x)``; None if unknown.
    """

    bands: Mapping[str, BandStatistics]
    unit: str
    dataset_type: str
    size: tuple[int, int]
    seed: int
    sample: int
    targets: int
    pixels_per_target: int
    plan: str
    pixel_scale: tuple[float, float] | None = None

    def _repr_html_(self) -> str:
        title = f"Statistics of {self.targets:,} targets of {self.size[0]} x {self.size[1]} pixels, in {self.unit}"
        rows = [(band, one.median, one.noise, one.pixels, one.targets) for band, one in self.bands.items()]
        return html_table(title, rows, ("band", "median", "noise", "pixels", "targets"))

    def ordered(
        self,
        bands: Sequence[str],
        *,
        unit: str | None = None,
        size: Sequence[int] | None = None,
        pixel_scale: Sequence[float] | None = None,
    ) -> Self:
        """Return the statistics of these bands, in this order.

        Parameters
        ----------
        bands
            Bands of the data, in channel order.
        unit, size, pixel_scale
            Unit, ``(height, width)`` in pixels and arcseconds per pixel ``(y, x)`` of the data; None if unknown.

        Raises
        ------
        StatisticsError
            If a band is missing, or the statistics have another unit, cutout size or pixel scale.
        """
        lacking = [band for band in bands if band not in self.bands]
        if lacking:
            raise StatisticsError(
                f"the statistics have the bands {','.join(self.bands)} but not {','.join(lacking)}; fit them again "
                f"with bands={','.join(bands)}, or leave out {','.join(lacking)}"
            )
        if unit is not None and unit != self.unit:
            raise StatisticsError(f"the statistics are in {self.unit}, but the pixels are in {unit}; fit them again")
        if size is not None and tuple(size) != self.size:
            raise StatisticsError(
                f"the statistics are for cutouts of {self.size[0]} x {self.size[1]} pixels, but these have {size[0]} x {size[1]}; "
                "fit them again"
            )
        known = self.pixel_scale is not None and pixel_scale is not None
        if known and not all(map(_close, self.pixel_scale or (), pixel_scale or ())):
            scales = [" x ".join(f"{one:.4g}" for one in scale or ()) for scale in (self.pixel_scale, pixel_scale)]
            raise StatisticsError(
                f"the statistics are for pixels of {scales[0]} arcsec, but these have {scales[1]}; fit them again"
            )
        return replace(self, bands={band: self.bands[band] for band in bands})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for YAML files and checkpoints."""
        bands = {band: {**asdict(one), "quantiles": dict(one.quantiles)} for band, one in self.bands.items()}
        about = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bands"}
        scale = None if self.pixel_scale is None else list(self.pixel_scale)
        return {"version": _VERSION, **about, "size": list(self.size), "pixel_scale": scale, "bands": bands}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the statistics") -> Self:
        """Return the statistics from the dictionary of `as_dict`.

        Raises
        ------
        StatisticsError
            If an entry is missing or invalid, or the version is unknown.
        """
        if not isinstance(values, Mapping) or values.get("version") not in (1, _VERSION):
            raise StatisticsError(
                f"{source} are not statistics of version 1 or {_VERSION}; fit them again with lsstcutouts normalise"
            )
        try:
            y, x = values["size"]
            scale = values.get("pixel_scale")
            return cls(
                bands={str(band): BandStatistics.from_dict(one) for band, one in values["bands"].items()},
                unit=str(values["unit"]),
                dataset_type=str(values["dataset_type"]),
                size=(int(y), int(x)),
                seed=int(values["seed"]),
                sample=int(values["sample"]),
                targets=int(values["targets"]),
                pixels_per_target=int(values["pixels_per_target"]),
                plan=str(values["plan"]),
                pixel_scale=None if scale is None else (float(scale[0]), float(scale[1])),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StatisticsError(
                f"{source} are damaged: {error!r}; fit them again with lsstcutouts normalise"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as YAML, atomically.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        text = yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)
        with atomic_file(path) as part:
            part.write_text(_TITLE + text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read statistics that `save` wrote.

        Raises
        ------
        StatisticsError
            If the file is missing, damaged, or of another version.
        """
        source = f"statistics {os.fspath(path)!r}"
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise StatisticsError(f"{source} cannot be read: {error}; fit them with lsstcutouts normalise") from error
        return cls.from_dict(values, source)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SCALE_TOLERANCE)
