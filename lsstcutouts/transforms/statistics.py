"""What is known of the pixels of each band, and its file."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from ..errors import StatisticsError
from ..source.writing import atomic_file

__all__ = ["DEFAULT_SAMPLE", "QUANTILES", "BandStatistics", "Statistics"]

DEFAULT_SAMPLE = 1000
"""Targets. With 64 px a side these are four million pixels a band, whose median is known to 0.0006 of the noise; what
limits it is how the depth and the objects vary from target to target."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995, 0.999)
"""Shares of the pixels whose upper bounds are noted."""

_VERSION = 2
"""Version 1 had no ``pixel_scale``."""

_SCALE_TOLERANCE = 1e-3
"""Of pixel scales, relative: tracts of one skymap differ by 1e-9, those of two surveys by some percent."""

_TITLE = "# Pixels of each band, fitted by lsstcutouts on a sample of the training split.\n"


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Robust statistics of the valid pixels of one band.

    Attributes
    ----------
    median
        In the unit of the statistics.
    noise
        1.4826 times the median absolute deviation from the median, the standard deviation of a normal distribution.
    quantiles
        Share of the pixels to the value that they do not exceed.
    pixels, targets
        How many valid pixels went in, and of how many targets.
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
                f"median={self.median} and noise={self.noise}: values must be finite and the noise positive"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` made plain."""
        return cls(
            median=float(values["median"]),
            noise=float(values["noise"]),
            quantiles={float(share): float(value) for share, value in values["quantiles"].items()},
            pixels=int(values["pixels"]),
            targets=int(values["targets"]),
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of every band, and what they were fitted on.

    Attributes
    ----------
    bands
        Band to its statistics, in channel order.
    unit
        Of median, noise and quantiles: nJy, or native for the values of the files.
    dataset_type, size
        What was cut, rows and columns in pixels.
    seed, sample
        The seed that chose the targets, and how many were asked for.
    targets
        How many there were; fewer where the training split is smaller, or a policy leaves targets out.
    pixels_per_target
        Pixels of each cutout and band that were looked at; all of them where that fits into memory.
    plan
        Fingerprint of the plan.
    pixel_scale
        Arcseconds along rows and columns; None where it is not known.
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
            Of the pixels that they are to serve.
        unit, size, pixel_scale
            Likewise; None for not known.

        Raises
        ------
        StatisticsError
            If a band is not among them, or they are of pixels in another unit, of cutouts of another size, or of another
            pixel scale.
        """
        lacking = [band for band in bands if band not in self.bands]
        if lacking:
            raise StatisticsError(
                f"the statistics are of the bands {','.join(self.bands)} and lack {','.join(lacking)}; fit them again "
                f"with bands={','.join(bands)}, or leave the band out"
            )
        if unit is not None and unit != self.unit:
            raise StatisticsError(f"the statistics are in {self.unit}, the pixels in {unit}; fit them again")
        if size is not None and tuple(size) != self.size:
            raise StatisticsError(
                f"the statistics are of cutouts of {self.size[0]} x {self.size[1]} pixels, these have {size[0]} x {size[1]}; "
                "fit them again"
            )
        known = self.pixel_scale is not None and pixel_scale is not None
        if known and not all(map(_close, self.pixel_scale or (), pixel_scale or ())):
            scales = [" x ".join(f"{one:.4g}" for one in scale or ()) for scale in (self.pixel_scale, pixel_scale)]
            raise StatisticsError(
                f"the statistics are of pixels of {scales[0]} arcsec, these have {scales[1]}; fit them again"
            )
        return replace(self, bands={band: self.bands[band] for band in bands})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as the file and checkpoints hold them."""
        bands = {band: {**asdict(one), "quantiles": dict(one.quantiles)} for band, one in self.bands.items()}
        about = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bands"}
        scale = None if self.pixel_scale is None else list(self.pixel_scale)
        return {"version": _VERSION, **about, "size": list(self.size), "pixel_scale": scale, "bands": bands}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the statistics") -> Self:
        """Return what `as_dict` made plain.

        Raises
        ------
        StatisticsError
            If anything is missing, not what it must be, or of another version.
        """
        if not isinstance(values, Mapping) or values.get("version") not in (1, _VERSION):
            raise StatisticsError(f"{source}: no statistics of version {_VERSION}; make them again")
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
            raise StatisticsError(f"{source}: damaged statistics, {error!r}; make them again") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as YAML; the file appears whole or not at all.

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
        """Read what `save` wrote.

        Raises
        ------
        StatisticsError
            If the file is missing, damaged, or of another version.
        """
        source = f"statistics {os.fspath(path)!r}"
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise StatisticsError(f"{source} cannot be read: {error}; make them with lsstcutouts normalise") from error
        return cls.from_dict(values, source)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SCALE_TOLERANCE)
