"""How batches travel to the device."""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigurationError
from .capability import check_wire

__all__ = ["TransferOptions"]


@dataclass(frozen=True)
class TransferOptions:
    """How batches travel to the device, and how the transforms run there.

    Parameters
    ----------
    wire
        Type in which ``image``, ``variance``, ``ivar`` and ``psf`` travel to the device; they arrive as float32.
        ``"float16"`` halves the bytes at a relative error of at most 2^-11, ``"bfloat16"`` of 2^-8 (details in
        `lsstcutouts.loader.device.wire.packed`). The values are the same without a device.
    channels_last
        Whether ``image`` has the memory layout ``(N, Y, X, B)``, which convolutions in 16 bits prefer; its shape stays
        ``(N, B, Y, X)``.
    compile
        Whether a data module compiles its transforms and augmentations. They then see only the tensors of a batch.
        On a GPU older than compute capability 7.0 they run uncompiled, with a warning.

    Raises
    ------
    ConfigurationError
        If a value is not allowed.
    """

    wire: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_wire(self.wire)
        for name in ("channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be true or false, got {getattr(self, name)!r}")
