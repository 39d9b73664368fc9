"""Injection of simulated sources into cutouts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from ..augmentation import STAGES, Augmentation, add_per_axis, checked_number
from ..batch import TensorBatch
from ..hashing import random_normal, random_uniform, stream_of
from ..resampling import window
from .draws import Draws, Numbers, numbers_per_band
from .fluxes import BandFluxes, Colours, Fluxes
from .rendering import odd_side, rendered
from .sky_frame import SkyFrame
from .source_model import SourceModel

__all__ = ["DrawnSources", "InjectSources"]

_LARGEST_SIDE = 256
"""Default of the largest image of a source, pixels: 51 arcsec at 0.2 arcsec per pixel."""


class InjectSources(Augmentation):
    """Add simulated sources to a share of the targets, with the PSF, the WCS and the noise of each cutout.

    A source is convolved with the delivered PSF, divided by its sum, and placed at a sub-pixel position. All random choices are a
    hash of seed, epoch and target; see `Augmentation`. Add ``psf`` to the planes, and ``variance`` or ``ivar`` for them to be updated.
    Put it before other augmentations where they change the noise; rotations and shifts may come before or after.

    A target gets a source only if each band that it has also has a PSF, as a source must not be missing from a part of the bands.
    Missing bands and pixels that are not ``valid`` or have no variance remain as they are, and ``mask`` and ``quality`` do not change.

    Added to the batch, with the default ``prefix``:

    - ``injected`` ``(N,)`` bool;
    - ``injected_flux`` ``(N, B)`` nJy, also in missing bands; 0 where nothing is injected;
    - ``injected_position`` ``(N, 2)`` float64: right ascension and declination, degrees ICRS; NaN where nothing is injected;
    - ``injected_NAME`` ``(N,)`` for each parameter of the model, such as ``injected_radius``; NaN where nothing is injected;
    - the label.

    Parameters
    ----------
    model
        `PointSource`, `Sersic`, `Lens`, `Stamps`, or a `SourceModel` of your own.
    flux_njy
        Total flux, nJy: a number; ``(low, high)``, log-uniform; or one number for each band in channel order, or a mapping by band
        (of two bands: a mapping, as two numbers are a range).
    magnitude
        Instead of ``flux_njy``: AB magnitude in every band, ``31.4 - 2.5 log10(nJy)``; a number, ``(low, high)``, uniform, or a list
        of three or more to draw from.
    colours
        Magnitudes that are added in each band, in channel order or as a mapping by band: numbers, or ``(low, high)``.
    bands
        Channel order; required for mappings.
    fraction
        Probability that a target gets a source.
    distance
        Distance of the source from the target, arcsec: a number, ``(low, high)``, uniform per area, or a list to draw from.
    noise
        Electrons per nJy, the effective gain of the coadds: a number, one for each band, or a mapping. A pixel to which the source adds
        ``f`` nJy then gets normal noise with the variance ``f / noise`` nJy², and ``variance`` and ``ivar`` change by it. None adds
        no noise.
    label
        Column that becomes 1 where a source is injected; if the batch has none, it is made, and 0 for the others. None changes none.
    prefix
        Of the names of the columns that are added; two modules need different ones, and so make independent choices.
    side
        Pixels of the square image of a source, which ends there; by default twice the longer side of the cutout, at most
        256, and at least twice the side of the PSF.
    stages
        Where a data module runs it: some of ``"train"``, ``"val"``, ``"test"``; see `Augmentation`.
    seed
        Seed of the random numbers.
    """

    gain: Tensor

    def __init__(
        self,
        model: nn.Module,
        flux_njy: BandFluxes | None = None,
        *,
        magnitude: Numbers | None = None,
        colours: Colours | None = None,
        bands: str | Sequence[str] = "",
        fraction: float = 0.5,
        distance: Numbers = 0.0,
        noise: float | Sequence[float] | Mapping[str, float] | None = None,
        label: str | None = "label",
        prefix: str = "injected",
        side: int | None = None,
        stages: Sequence[str] = STAGES,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not isinstance(model, SourceModel):
            hint = f"; create an object: {model.__name__}(...)" if isinstance(model, type) else ""
            raise ConfigurationError(f"model must be a source such as Sersic() or Lens(), got {model!r}{hint}")
        self.model = model
        self.flux_njy, self.magnitude, self.colours, self.bands = flux_njy, magnitude, colours, bands
        if flux_njy is None and magnitude is None and not model.own_fluxes:
            raise ConfigurationError(f"{type(model).__name__} has no fluxes of its own; give flux_njy or magnitude")
        self.spectrum = Fluxes(flux_njy, magnitude, colours, bands)
        self.fraction = checked_number("fraction", fraction, 0, 1)
        self.distance = distance
        self.separation = Draws("distance", distance, 0)
        self.noise = noise
        gains = [] if noise is None else numbers_per_band("noise", noise, bands)
        gains = [checked_number("noise", one, 1e-12) for one in gains]
        self.register_buffer("gain", torch.tensor(gains, dtype=torch.float32), persistent=False)
        for name, value in (("label", label), ("prefix", prefix)):
            if not (isinstance(value, str) and value) and not (name == "label" and value is None):
                raise ConfigurationError(f"{name} must be the name of a column, got {value!r}")
        self.label, self.prefix = label, prefix
        self._stream = stream_of(f"{type(self).__name__} {prefix}")
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
            raise ConfigurationError(f"side must be a number of pixels >= 1, got {side!r}")
        self.side = side
        names = [stages] if isinstance(stages, str) or not isinstance(stages, Iterable) else [*stages]
        if not all(name in STAGES for name in names):
            raise ConfigurationError(f"stages must be some of {', '.join(STAGES)}, got {stages!r}")
        self.stages = tuple(names)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, batch: TensorBatch) -> TensorBatch:
        """Add sources to ``image`` ``(N, B, Y, X)``.

        Raises
        ------
        ConfigurationError
            If the batch has no ``psf`` or another needed entry, its kernels have even sides, an argument has another number of
            bands than the batch, a column that is to be added exists, or the label is not a number for each target.
        """
        sources = self.sources(batch)
        # Elsewhere the number of sources is not asked for, as the CPU would have to wait for the device.
        on_cpu = sources.injected.device.type == "cpu"
        rows: Tensor | slice = sources.injected.nonzero()[:, 0] if on_cpu else slice(None)
        return {**batch, **self._columns(batch, sources), **self._planes(batch, sources, rows)}

    def sources(self, batch: TensorBatch) -> "DrawnSources":
        """Return the source of each target, drawn also for those that get none."""
        image, psf, wcs, offset = (self.required(batch, name) for name in ("image", "psf", "wcs", "offset"))
        if psf.shape[-1] % 2 == 0 or psf.shape[-2] % 2 == 0:
            raise ConfigurationError(
                f"the kernels of psf must have odd sides, with the source in the middle, got {psf.shape[-2]} x {psf.shape[-1]} pixels"
            )
        bands = psf.shape[1]
        self.model.check_bands(bands)
        total = psf.sum((2, 3), dtype=torch.float32)
        has_psf = (total > 0) & torch.isfinite(total)
        if isinstance(given := batch.get("psf_present"), Tensor):
            has_psf = has_psf & given
        present = batch.get("band_present")
        present = present if isinstance(present, Tensor) else torch.ones_like(has_psf)
        kernel = torch.where((has_psf & present)[:, :, None, None], psf / total[:, :, None, None], 0.0)

        covered = torch.isfinite(wcs).all(1)
        # Any other WCS for those without: where all targets are computed, NaN would become an index out of bounds.
        plain = torch.cat([wcs.new_zeros(4), torch.eye(2, dtype=wcs.dtype, device=wcs.device).flatten() / 3600])
        wcs = torch.where(covered.unsqueeze(1), wcs, plain)
        uniform = random_uniform(self.keys(batch), 4 + bands)
        injected = (has_psf | ~present).all(1) & present.any(1) & covered & (uniform[:, 0] < self.fraction)
        parameters = self.model.parameters_of(random_uniform(self.keys(batch, 1), max(1, self.model.count)))
        fluxes = self.spectrum.of(uniform[:, 1], uniform[:, 4:])
        if self.flux_njy is None and self.magnitude is None:
            fluxes = fluxes * self.model.fluxes(parameters, bands)
        target = add_per_axis(offset.to(torch.float64), [(n - 1) / 2 for n in image.shape[-2:]])
        to_pixels = SkyFrame.at(wcs, target).to_pixels
        east_north = self._separations(uniform[:, 2], uniform[:, 3])
        position = target + (to_pixels * east_north.unsqueeze(1)).sum(2).flip(1)
        return DrawnSources(injected, kernel, fluxes, position, SkyFrame.at(wcs, position), parameters)

    def _separations(self, uniform: Tensor, direction: Tensor) -> Tensor:
        """Return ``(N, 2)`` offsets from the target to the east and to the north, arcsec."""
        low, high = self.separation.low, self.separation.high
        values = self.separation.of(uniform)
        distance = values if self.separation.chosen else (low**2 + (high**2 - low**2) * uniform).sqrt()
        angle = 2 * math.pi * direction
        return torch.stack([distance * angle.sin(), distance * angle.cos()], dim=1).to(torch.float64)

    def _planes(self, batch: TensorBatch, sources: "DrawnSources", rows: Tensor | slice) -> TensorBatch:
        """Return ``image``, ``variance`` and ``ivar`` with the sources of some targets."""
        image = self.required(batch, "image")
        height, width = image.shape[-2:]
        some = sources.rows(rows)
        pixel = (some.position + 0.5).floor()
        side = odd_side(max(2 * max(some.kernel.shape[-2:]), self.side or min(2 * max(height, width), _LARGEST_SIDE)))
        light = rendered(self.model, some.parameters, some.frame, some.kernel, some.position - pixel, side)
        light = window(light, side // 2 - pixel.to(torch.int64), height, width) * some.fluxes[:, :, None, None]
        light = torch.where(self._receiving(batch, rows, some), light, 0.0)
        changed = {"image": light}
        if self.noise is not None:
            if len(self.gain) not in {1, light.shape[1]}:
                raise ConfigurationError(f"noise has {len(self.gain)} bands, but the batch has {light.shape[1]}")
            added = light.clamp(min=0) / self.gain.reshape(-1, 1, 1)
            changed["image"] = light + added.sqrt() * random_normal(self.keys(batch, 2)[rows], *light.shape[1:])
            if isinstance(batch.get("variance"), Tensor):
                changed["variance"] = added
            if isinstance(ivar := batch.get("ivar"), Tensor):
                inverse = ivar[rows].to(torch.float32)
                changed["ivar"] = -inverse * inverse * added / (1 + inverse * added)
        return {name: _with_added(self.required(batch, name), rows, by) for name, by in changed.items()}

    def _receiving(self, batch: TensorBatch, rows: Tensor | slice, some: "DrawnSources") -> Tensor:
        """Return to which pixels ``(n, B, Y, X)`` light is added: those with data."""
        receiving = some.injected.reshape(-1, 1, 1, 1)
        if isinstance(valid := batch.get("valid"), Tensor):
            receiving = receiving & valid[rows]
        if isinstance(variance := batch.get("variance"), Tensor):
            receiving = receiving & (variance[rows] > 0) & torch.isfinite(variance[rows])
        elif isinstance(ivar := batch.get("ivar"), Tensor):
            receiving = receiving & (ivar[rows] > 0)
        return receiving

    def _columns(self, batch: TensorBatch, sources: "DrawnSources") -> TensorBatch:
        """Return the label, and what was injected."""
        injected, missing = sources.injected, ~sources.injected
        columns: TensorBatch = {
            self.prefix: injected,
            f"{self.prefix}_flux": sources.fluxes.masked_fill(missing.unsqueeze(1), 0),
            f"{self.prefix}_position": sources.frame.position.masked_fill(missing.unsqueeze(1), math.nan),
            **{f"{self.prefix}_{name}": v.masked_fill(missing, math.nan) for name, v in sources.parameters.items()},
        }
        if there := [name for name in columns if name in batch]:
            raise ConfigurationError(
                f"InjectSources adds the column {there[0]!r}, which the batch already has; give another prefix="
            )
        if self.label is not None:
            before = batch.get(self.label)
            if before is None:
                columns[self.label] = injected.to(torch.int64)
            elif isinstance(before, Tensor) and before.ndim == 1:
                columns[self.label] = before.masked_fill(injected, 1)
            else:
                raise ConfigurationError(
                    f"the column {self.label!r} must be a number for each target, for InjectSources to set it to 1; give another label=, or "
                    "label=None"
                )
        return columns


@dataclass(frozen=True)
class DrawnSources:
    """The source of each target.

    Attributes
    ----------
    injected
        ``(N,)`` bool.
    kernel
        ``(N, B, y, x)`` PSF with a sum of 1; 0 in bands that get no light.
    fluxes
        ``(N, B)`` nJy.
    position
        ``(N, 2)`` position in the cutout as ``(y, x)``, pixels.
    frame
        Directions on the sky at this position.
    parameters
        ``(N,)`` parameters of the model by name.
    """

    injected: Tensor
    kernel: Tensor
    fluxes: Tensor
    position: Tensor
    frame: SkyFrame
    parameters: dict[str, Tensor]

    def rows(self, chosen: Tensor | slice) -> "DrawnSources":
        """Return the sources of some targets."""
        return DrawnSources(
            self.injected[chosen],
            self.kernel[chosen],
            self.fluxes[chosen],
            self.position[chosen],
            self.frame.rows(chosen),
            {name: v[chosen] for name, v in self.parameters.items()},
        )


def _with_added(plane: Tensor, rows: Tensor | slice, light: Tensor) -> Tensor:
    """Return a plane plus light in some of its rows, added in float32 and in the dtype and memory format of the plane."""
    changed = plane.clone()
    changed[rows] = (plane[rows].to(torch.promote_types(plane.dtype, torch.float32)) + light).to(plane.dtype)
    return changed
