"""Injection into batches of NumPy arrays."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .inject_sources import InjectSources

__all__ = ["inject"]


def inject(batch: Mapping[str, Any], sources: InjectSources, *, epoch: int = 0) -> dict[str, Any]:
    """Return a batch of NumPy arrays with simulated sources, and what was injected; the given arrays are not changed.

    Parameters
    ----------
    batch
        As `~lsstcutouts.LsstDataFetcher.fetch` returns it, with ``psf``.
    sources
        What is injected; its documentation lists what is added to the batch.
    epoch
        Selects the random numbers.

    Raises
    ------
    ConfigurationError
        If the batch lacks what the sources need.
    """
    # A copy, as tensors cannot share the memory of arrays that are read-only.
    tensors = {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in batch.items()}
    own = copy.deepcopy(sources).cpu()  # the given ones may be in a training, at its epoch and on its device
    own.set_epoch(epoch)
    with torch.no_grad():
        result = own(tensors)
    changed = {name: v for name, v in result.items() if v is not tensors.get(name)}
    return {**batch, **{name: v.numpy() for name, v in changed.items()}}
