"""Batches as Zoobot takes them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..plan.read_options import check_choice
from .adapter import LSST_PIXEL_SCALE, Adapter, positive
from .augmentation import required_tensor
from .batch import TensorBatch
from .planes import pixel_sides
from .rgb import chosen_rgb, galaxy_zoo_rgb, legacy_brightness

__all__ = ["ToZoobot"]

SIZE = 224
"""Pixels (``output_size`` of ``default_view_config`` in galaxy_datasets/transforms.py, galaxy-datasets 0.0.25)."""

FIELD_PER_PIXEL = 424 / 1.2
"""Pixels of Galaxy Zoo's pictures that Zoobot sees.

They have 424 (decals/a_download_decals/get_images/download_images_threaded.py of github.com/zooniverse/decals), and
``minimal_view_config`` in galaxy_datasets/transforms.py enlarges them by 1.2 before it cuts.
"""

LEAST_SCALE = 0.1
"""Arcseconds per pixel of a picture of a small galaxy; others have 0.04 Petrosian half-light radii (same file)."""

FIELD = FIELD_PER_PIXEL * LEAST_SCALE


class ToZoobot(Adapter):
    """Make ``image`` ``(N, 3, 224, 224)`` for Zoobot (arXiv:2404.02973): a colour picture as those of Galaxy Zoo DECaLS.

    The picture is uint8, 0 to 255, as Zoobot's own data loading takes it, or with ``dtype="float32"`` from 0 to 1, as its
    encoder takes it after that. Red, green and blue are the bands z, r and g of the training, or i, r and g if the data have
    no z. The stretch is that of Galaxy Zoo (see `~lsstcutouts.transforms.rgb.galaxy_zoo_rgb`).

    Galaxy Zoo chose the field of view by the size of the galaxy: 35.3 arcsec (of what Zoobot sees) for galaxies with a
    half-light radius below 2.5 arcsec, and 14.1 radii above. Without ``radius`` all targets get the field of small ones.

    Zoobot needs three bands; Galaxy Zoo left out galaxies without. A missing band is 0: leave such targets out by
    ``band_present``, which has the bands of red, green and blue. See `Adapter` for the other entries of the batch.

    Parameters
    ----------
    bands
        Channel order of the batch.
    rgb
        Three bands of g, r, i, z for red, green and blue.
    field
        Side of the picture in arcseconds; None for the whole cutout, of which the longer side is cut.
    radius
        Name of a column of the batch, ``(N,)``: Petrosian half-light radius in arcsec, which sets the field of each target.
        Where it is unknown (NaN) the galaxy is a small one. Pixels outside the cutout are black, and not ``valid``.
    dtype
        ``"uint8"`` or ``"float32"``.
    size
        Pixels of the output.
    native_scale, kernel, keep_invalid
        As in `Adapter`.
    """

    def __init__(
        self,
        bands: str | Sequence[str],
        *,
        rgb: str | Sequence[str] | None = None,
        field: float | None = FIELD,
        radius: str | None = None,
        dtype: Literal["uint8", "float32"] = "uint8",
        size: int | Sequence[int] = SIZE,
        native_scale: float = LSST_PIXEL_SCALE,
        kernel: Literal["bilinear", "cubic", "quintic"] = "quintic",
        keep_invalid: bool = False,
    ) -> None:
        check_choice("dtype", dtype, ("uint8", "float32"))
        if radius is not None and not isinstance(radius, str):
            raise ConfigurationError(f"radius must be the name of a column of the batch, got {radius!r}")
        chosen = chosen_rgb(rgb, bands)
        super().__init__(bands, chosen, size, native_scale=native_scale, kernel=kernel, keep_invalid=keep_invalid)
        self.rgb, self.radius, self.dtype = chosen, radius, dtype
        self.field = None if field is None else positive("field", field)

    def _scale_of(self, batch: TensorBatch) -> Tensor | float:
        if self.radius is not None:
            radius = required_tensor(batch, self.radius, "ToZoobot").float().nan_to_num(0.0)
            field: Tensor | float = FIELD_PER_PIXEL * (0.04 * radius).clamp(min=LEAST_SCALE)
        elif self.field is not None:
            field = self.field
        else:
            return min(old / new for old, new in zip(pixel_sides(batch, "ToZoobot"), self.size, strict=True))
        return field / (max(self.size) * self.native_scale)

    def _pixels(self, flux: Tensor, scale: Tensor) -> Tensor:
        picture = galaxy_zoo_rgb(legacy_brightness(flux, scale * self.native_scale), self.rgb)
        # Galaxy Zoo's pictures were cut to whole numbers, not rounded.
        return picture.mul_(255).to(torch.uint8) if self.dtype == "uint8" else picture
