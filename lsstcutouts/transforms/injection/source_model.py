"""The base class of the models of sources."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from .draws import Draws
from .sky_frame import SkyFrame

__all__ = ["Frequencies", "SourceModel"]


@dataclass(frozen=True)
class Frequencies:
    """Spatial frequencies of an image whose Fourier transform is computed, cycles per pixel.

    Attributes
    ----------
    y, x
        ``(P, 1)`` and ``(P // 2 + 1,)`` float32.
    """

    y: Tensor
    x: Tensor

    def along(self, pixels: Tensor) -> Tensor:
        """Return the frequency along vectors ``(N, 2)`` as ``(x, y)``, ``(N, P, P // 2 + 1)`` cycles per vector."""
        pixels = pixels.to(torch.float32)
        return self.y * pixels[:, 1].reshape(-1, 1, 1) + self.x * pixels[:, 0].reshape(-1, 1, 1)

    def transform(self, light: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the Fourier transform of sampled images.

        Parameters
        ----------
        light
            ``(N, B, y, x)`` flux of each sample.
        x, y
            ``(N, x)`` and ``(N, y)`` positions of the columns and rows, pixels.

        Returns
        -------
        Tensor
            ``(N, B, P, P // 2 + 1)`` complex64.
        """
        along_x = _waves(x.unsqueeze(2) * self.x)  # (N, x, P // 2 + 1)
        along_y = _waves(self.y * y.unsqueeze(1))  # (N, P, y)
        # In float64: with torch.set_float32_matmul_precision("high") a GPU rounds the factors of other products to 10 bits.
        return (along_y.unsqueeze(1) @ (light.to(torch.complex128) @ along_x.unsqueeze(1))).to(torch.complex64)


def _waves(cycles: Tensor) -> Tensor:
    phase = cycles * (-2 * math.pi)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex128)


class SourceModel(nn.Module):
    """Base class of the models: a shape with a flux of 1 on the sky, before convolution with the PSF.

    Parameters
    ----------
    draws
        Distribution of each parameter by name.
    """

    own_fluxes = False
    """Whether the model has fluxes of its own, so that none have to be given."""

    def __init__(self, **draws: Draws) -> None:
        super().__init__()
        self.draws = nn.ModuleDict(draws)

    @property
    def count(self) -> int:
        """Number of random numbers that a target needs."""
        return len(self.draws)

    def parameters_of(self, uniform: Tensor) -> dict[str, Tensor]:
        """Return the parameters of each target ``(N,)`` from ``(N, count)`` uniform random numbers."""
        return {name: draws.of(uniform[:, i]) for i, (name, draws) in enumerate(self.draws.items())}  # type: ignore[operator]

    @abstractmethod
    def transform(self, parameters: dict[str, Tensor], frame: SkyFrame, frequencies: Frequencies) -> Tensor:
        """Return the Fourier transform of each target's shape about its position.

        Parameters
        ----------
        parameters
            As `parameters_of` returns them.
        frame
            Directions and distances on the sky.
        frequencies
            Where the transform is computed.

        Returns
        -------
        Tensor
            ``(N, 1 or B, P, P // 2 + 1)``, real or complex; 1 at frequency 0.
        """

    def check_bands(self, bands: int) -> None:
        """Raise `~lsstcutouts.errors.ConfigurationError` if the model is for another number of bands."""

    def fluxes(self, parameters: dict[str, Tensor], bands: int) -> Tensor:  # noqa: ARG002
        """Return the model's own fluxes ``(N, B)``, nJy."""
        raise ConfigurationError(f"{type(self).__name__} has no fluxes of its own; give flux_njy or magnitude")
