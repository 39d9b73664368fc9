"""Composition of several modules."""

from collections.abc import Sequence

from torch import nn

from ..errors import ConfigurationError

__all__ = ["Compose"]


class Compose(nn.Sequential):
    """Apply modules to a batch in the given order.

    Parameters
    ----------
    modules
        Module objects that take and return the batch dictionary.

    Raises
    ------
    ConfigurationError
        If one of them is not a `torch.nn.Module` object.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        for module in modules:
            if not isinstance(module, nn.Module):
                hint = f"; create an object: {module.__name__}(...)" if isinstance(module, type) else ""
                raise ConfigurationError(f"Compose needs torch.nn.Module objects, got {module!r}{hint}")
        super().__init__(*modules)
