"""`LensFinder`: a small convolutional network for cutouts of any number of bands."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError

__all__ = ["LensFinder"]


class LensFinder(nn.Module):
    """Small convolutional network: image ``(N, B, Y, X)`` to one value ``(N,)`` or several ``(N, K)`` per target.

    Parameters
    ----------
    bands
        Input channels ``B``: their names or their number.
    widths
        Channels of each stage; each stage is a convolution with stride 2.
    dropout
        Dropout probability before the last layer.
    outputs
        Number ``K`` of values per target, such as one per class; None returns ``(N,)``.

    Raises
    ------
    ConfigurationError
        If a width or ``outputs`` is less than 1, or there is no width.
    """

    def __init__(
        self,
        bands: int | str | Sequence[str],
        widths: Sequence[int] = (24, 48, 64, 64),
        dropout: float = 0.2,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or (outputs is not None and outputs < 1):
            raise ConfigurationError(
                f"widths={list(widths)} and outputs={outputs} must be positive, and there must be at least one width"
            )
        stages: list[nn.Module] = []
        channels = bands if isinstance(bands, int) else len(bands)
        for width in widths:
            stages += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels, outputs or 1))
        self.outputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        """Return ``(N,)`` or ``(N, outputs)`` for images ``(N, B, Y, X)``."""
        features: Tensor = self.features(image)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        values: Tensor = self.head(pooled)
        return values.squeeze(1) if self.outputs is None else values
