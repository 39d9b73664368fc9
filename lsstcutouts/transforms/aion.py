"""Batches as AION takes them."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..plan.read_options import check_choice
from .adapter import LSST_PIXEL_SCALE, NANOMAGGY, Adapter, checked_bands
from .augmentation import checked_switch, required_tensor
from .batch import TensorBatch

__all__ = ["ToAion"]

SIZE = 96
"""Pixels: the codec cuts the middle 96 x 96 (``CenterCrop`` in aion/codecs/image.py, polymathic-aion 0.0.2)."""

SURVEYS = {"hsc": ("HSC", 27.0, 0.168), "legacy": ("DES", 22.5, 0.262)}
"""Prefix of the band names, AB magnitude of a flux of 1, and arcseconds per pixel.

Band names: aion/codecs/preprocessing/band_to_index.py. Zero points: ``RescaleToLegacySurvey`` in
aion/codecs/preprocessing/image.py, which divides HSC by 10**((27 - 22.5) / 2.5). Pixel scales: scripts/hsc/build_parent_sample.py
and scripts/legacysurvey/legacysurvey.py of the Multimodal Universe (arXiv:2412.02527), on which AION was trained
(arXiv:2510.17960).
"""

RANGES = {
    "HSC-G": 80.0,
    "HSC-R": 110.0,
    "HSC-I": 200.0,
    "HSC-Z": 330.0,
    "HSC-Y": 500.0,
    "DES-G": 6.0,
    "DES-R": 15.0,
    "DES-I": 20.0,
    "DES-Z": 25.0,
}
"""Largest absolute flux in a pixel, in the unit of the survey (``BAND_CENTER_MAX`` in aion/codecs/preprocessing/band_to_index.py)."""


class ToAion(Adapter):
    """Make ``image`` ``(N, C, 96, 96)`` float32 for AION (arXiv:2510.17960): flux of HSC or of the Legacy Surveys.

    With ``survey="hsc"`` the bands are ``HSC-G``, ``R``, ``I``, ``Z``, ``Y``, in pixels of 0.168 arcsec, and a flux of 1 is 27 mag
    (AB); with ``"legacy"`` they are ``DES-G``, ``R``, ``I``, ``Z``, in pixels of 0.262 arcsec, in nanomaggies. The flux of a source is
    conserved. Values are cut to the range of each band, as AION's codec does. The codec compresses the range itself.

    AION knows a missing band by its name: leave it out with ``use``, and for targets with different bands see `groups`. A
    missing band that is handed over is 0. See `Adapter` for the other entries of the batch.

    Parameters
    ----------
    bands
        Channel order of the batch.
    survey
        ``"hsc"`` or ``"legacy"``.
    use
        Bands to hand over, in this order; by default ``grizy``, or ``griz`` with ``"legacy"``. AION takes a part of them.
    clamp
        Whether to cut the values to the range of each band.
    size
        Pixels of the output; AION's codec cuts the middle 96 of more.
    native_scale, kernel, keep_invalid
        As in `Adapter`.

    Attributes
    ----------
    band_names
        AION's names of the channels, such as ``HSC-G``, for ``HSCImage(flux=batch["image"], bands=list(...))``.
    """

    _option: ClassVar[str] = "use"

    def __init__(
        self,
        bands: str | Sequence[str],
        survey: Literal["hsc", "legacy"] = "hsc",
        *,
        use: str | Sequence[str] | None = None,
        clamp: bool = True,
        size: int | Sequence[int] = SIZE,
        native_scale: float = LSST_PIXEL_SCALE,
        kernel: Literal["bilinear", "cubic", "quintic"] = "quintic",
        keep_invalid: bool = False,
    ) -> None:
        check_choice("survey", survey, tuple(SURVEYS))
        prefix, zero_point, pixel_scale = SURVEYS[survey]
        known = [name[-1].lower() for name in RANGES if name.startswith(prefix)]
        chosen = checked_bands("use", "".join(known) if use is None else use)
        if not set(chosen) <= set(known):
            raise ConfigurationError(
                f"use={use!r} must be some of {''.join(known)}, the bands of AION's survey={survey!r}"
            )
        super().__init__(bands, chosen, size, native_scale=native_scale, kernel=kernel, keep_invalid=keep_invalid)
        self.survey, self.use, self.clamp = survey, chosen, checked_switch("clamp", clamp)
        self.band_names = tuple(f"{prefix}-{band.upper()}" for band in chosen)
        self._zero_point, self._pixel_scale = zero_point, pixel_scale

    def _scale_of(self, batch: TensorBatch) -> float:  # noqa: ARG002
        return self._pixel_scale / self.native_scale

    def _pixels(self, flux: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG002
        flux = flux * (10 ** ((self._zero_point - 22.5) / 2.5) / NANOMAGGY)
        if not self.clamp:
            return flux
        limits = [RANGES[name] for name in self.band_names]
        return torch.stack([flux[:, k].clamp(-limit, limit) for k, limit in enumerate(limits)], dim=1)

    def groups(self, batch: TensorBatch) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Yield targets that have the same bands, from a batch that `forward` returned.

        AION's names of bands hold for all targets of an image object, so targets with different bands need different ones.

        Yields
        ------
        tuple
            Rows in the batch ``(M,)`` int64, flux of their bands ``(M, C', 96, 96)``, and AION's names of these. Targets
            without any band are left out.
        """
        flux, present = (required_tensor(batch, name, "ToAion.groups") for name in ("image", "band_present"))
        patterns, which = torch.unique(present, dim=0, return_inverse=True)
        for i, pattern in enumerate(patterns.tolist()):
            channels = [k for k, there in enumerate(pattern) if there]
            if channels:
                rows = (which == i).nonzero()[:, 0]
                yield rows, flux[rows][:, channels], [self.band_names[k] for k in channels]
