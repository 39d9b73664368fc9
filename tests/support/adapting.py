"""Batches of galaxies and stars on the sky, for the tests of adapters."""

import numpy as np
import torch
from scipy.special import erf

type Batch = dict[str, torch.Tensor]


def gaussian(shape: tuple[int, int], sigma: float, at: tuple[float, float], pixel: float = 1.0) -> np.ndarray:
    """Return the integral over each pixel ``(Y, X)`` of a Gaussian of flux 1, ``at`` ``(y, x)`` from the middle.

    ``sigma``, ``at`` and the side ``pixel`` of a pixel have the same unit.
    """
    lines = []
    for count, middle in zip(shape, at, strict=True):
        edges = (np.arange(count + 1) - count / 2) * pixel
        lines.append(np.diff(erf((edges - middle) / (np.sqrt(2) * sigma))) / 2)
    return np.outer(*lines)


def sky_batch(bands: str, shape: tuple[int, int], count: int = 3) -> Batch:
    """Return targets ``(N, B, Y, X)`` in nJy, faint to bright, with noise, invalid pixels and a WCS of 0.2 arcsec."""
    random = np.random.default_rng(5)
    flux = 10.0 ** np.linspace(2, 5, count)[:, None, None, None] * np.linspace(1, 3, len(bands))[:, None, None]
    image = flux * gaussian(shape, 3.0, (1.5, -0.7)) + random.normal(0, 5, (count, len(bands), *shape))
    batch = {
        "image": image.astype(np.float32),
        "valid": random.random(image.shape) > 0.01,
        "band_present": np.ones(image.shape[:2], bool),
        "quality": random.integers(0, 9, image.shape[:2]).astype(np.int32),
        "object_id": np.arange(count),
        "offset": random.uniform(-0.5, 0.5, (count, 2)).astype(np.float32),
        "yx0": random.integers(0, 900, (count, 2)),
        "wcs": np.array([[53.1, -28.0, 13.25, -4.5, -0.2 / 3600, 0, 0, 0.2 / 3600]] * count),
    }
    return {name: torch.from_numpy(value) for name, value in batch.items()}
