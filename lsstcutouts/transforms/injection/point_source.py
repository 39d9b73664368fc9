"""Stars, quasars, transients."""

import torch
from torch import Tensor

from .sky_frame import SkyFrame
from .source_model import Frequencies, SourceModel

__all__ = ["PointSource"]


class PointSource(SourceModel):
    """A source without extent: the image is the PSF."""

    def transform(self, parameters: dict[str, Tensor], frame: SkyFrame, frequencies: Frequencies) -> Tensor:  # noqa: ARG002
        """Return ones; see `SourceModel.transform`."""
        return torch.ones(len(frame.to_sky), 1, 1, 1, device=frame.to_sky.device)
