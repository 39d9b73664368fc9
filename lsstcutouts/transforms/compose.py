"""Several modules as one."""

from collections.abc import Sequence

from torch import nn

__all__ = ["Compose"]


class Compose(nn.Sequential):
    """Apply modules over a batch one after the other."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(*modules)
