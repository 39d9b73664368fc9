"""Transforms and augmentations on the device of a batch, compiled on request."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from ...transforms.batch import TensorBatch
from ...transforms.compose import Compose
from ...transforms.overwriting import Overwriting
from ..capability import COMPILES_FROM, can_compile

__all__ = ["DeviceSteps", "compiles_on"]

_log = logging.getLogger(__name__)


class DeviceSteps:
    """Runs modules over a batch where the batch is.

    Parameters
    ----------
    compile
        Whether the modules of a call are compiled as one. Then they see the tensors of a batch, not its lists, and
        one compilation serves batches of every length from 2 on, and every epoch.
    """

    def __init__(self, *, compile: bool = False) -> None:  # noqa: A002 - torch's own word
        self._compile = compile
        self._possible: dict[torch.device, bool] = {}
        self._compiled: dict[tuple[int, ...], Callable[[TensorBatch], TensorBatch]] = {}

    def __reduce__(self) -> tuple[Callable[..., "DeviceSteps"], tuple[()]]:
        return partial(DeviceSteps, compile=self._compile), ()

    def run(self, batch: TensorBatch, modules: Sequence[nn.Module]) -> TensorBatch:
        """Apply modules in this order to a batch; all planes have the shape ``(N, B, Y, X)``.

        If the image is not on the CPU, it is overwritten: it must be a copy that nothing else uses.
        """
        device = _device_of(batch)
        self._move(modules, device)
        with _in_place(modules, allowed=device.type != "cpu"):
            if self._compile and self._compiles_on(device):
                return self._run_compiled(batch, modules)
            for module in modules:
                batch = module(batch)
            return batch

    def _move(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        """Move modules that are elsewhere: a data module is not a module of Lightning's, nothing else does."""
        for module in modules:
            if any(values.device != device for values in chain(module.parameters(), module.buffers())):
                # In validation Lightning has inference mode on; what is made in it cannot be written to in training.
                with torch.inference_mode(mode=False):
                    module.to(device)

    def _compiles_on(self, device: torch.device) -> bool:
        if device not in self._possible:
            self._possible[device] = compiles_on(device)
        return self._possible[device]

    def _run_compiled(self, batch: TensorBatch, modules: Sequence[nn.Module]) -> TensorBatch:
        # Lists are strings: compiled code would be made again for each of them.
        tensors: TensorBatch = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        for value in tensors.values():
            if isinstance(value, Tensor) and value.ndim:
                torch._dynamo.maybe_mark_dynamic(value, 0)
        result = self._step(modules)(tensors)
        times = _rows(result) // max(1, _rows(tensors))  # `Views` repeats the rows of a batch
        lists = {name: list(value) * times for name, value in batch.items() if name not in tensors}
        return {**lists, **result}

    def _step(self, modules: Sequence[nn.Module]) -> Callable[[TensorBatch], TensorBatch]:
        key = tuple(map(id, modules))
        if key not in self._compiled:
            self._compiled[key] = torch.compile(Compose(modules))
        return self._compiled[key]


def compiles_on(device: torch.device, capability: tuple[int, int] | None = None) -> bool:
    """Return whether modules can be compiled for a device, and warn if they cannot.

    Parameters
    ----------
    device
        Where they are to run.
    capability
        Compute capability of a CUDA device; by default it is asked for.
    """
    if capability is None and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
    possible = can_compile(capability)
    if not possible:
        _log.warning(
            "compile=True has no effect: torch.compile needs a GPU of compute capability %d.%d, this GPU has %d.%d; the "
            "transforms run without compilation",
            *COMPILES_FROM,
            *(capability or ()),
        )
    return possible


def _rows(batch: TensorBatch) -> int:
    return next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim), 0)


def _device_of(batch: TensorBatch) -> torch.device:
    tensors = (batch.get("image"), *batch.values())
    return next((value.device for value in tensors if isinstance(value, Tensor)), torch.device("cpu"))


@contextmanager
def _in_place(modules: Sequence[nn.Module], *, allowed: bool) -> Iterator[None]:
    """Let modules overwrite the image inside the block, and not outside, such as in a plain loop."""
    switched = [m for top in modules for m in top.modules() if isinstance(m, Overwriting) and not m.inplace]
    for module in switched if allowed else ():
        module.inplace = True
    try:
        yield
    finally:
        for module in switched if allowed else ():
            module.inplace = False
