"""Several modules as one."""

from collections.abc import Sequence

from torch import nn

from ..errors import ConfigurationError

__all__ = ["Compose"]


class Compose(nn.Sequential):
    """Apply modules over a batch one after the other."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        for module in modules:
            if not isinstance(module, nn.Module):
                hint = f"; give an object: {module.__name__}(...)" if isinstance(module, type) else ""
                raise ConfigurationError(f"Compose takes objects of torch.nn.Module, got {module!r}{hint}")
        super().__init__(*modules)
