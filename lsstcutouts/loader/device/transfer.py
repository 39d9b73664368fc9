"""Copies to the device, one batch ahead of the loop."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from ...errors import ConfigurationError
from ...transforms.batch import TensorBatch
from ..capability import check_wire
from .wire import Wire, unpacked

__all__ = ["Arrival", "CudaTransfer", "DirectTransfer", "Prefetcher", "Transfer", "resolved", "transfer_to"]

type Arrival = Callable[[], TensorBatch]
"""Function that returns the copied batch; call it in the thread and stream that uses the batch."""


class Transfer(Protocol):
    """Brings batches to a device."""

    def begin(self, batch: TensorBatch) -> Arrival:
        """Start to copy a batch, planes ``(N, B, Y, X)``, and return without waiting."""


class DirectTransfer:
    """Copies at once, for devices without streams.

    Parameters
    ----------
    device
        Where batches go.
    channels_last
        Whether ``image`` is laid out as ``(N, Y, X, B)`` there.
    """

    def __init__(self, device: torch.device, *, channels_last: bool = False) -> None:
        self.device, self.channels_last = device, channels_last

    def begin(self, batch: TensorBatch) -> Arrival:
        """Copy a batch."""
        made = unpacked(_moved(batch, self.device, wait=True), channels_last=self.channels_last)
        return lambda: made


class CudaTransfer:
    """Copies on a stream of its own, beside what the GPU computes.

    Batches should be in page-locked memory: a copy from other memory is correct, too, but the host waits for it.

    Parameters
    ----------
    device
        A CUDA device.
    channels_last
        Whether ``image`` is laid out as ``(N, Y, X, B)`` there.
    """

    def __init__(self, device: torch.device, *, channels_last: bool = False) -> None:
        self.device, self.channels_last = device, channels_last
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, batch: TensorBatch) -> Arrival:
        """Enqueue the copy of a batch, and what turns it back to float32."""
        with torch.cuda.stream(self._stream):
            made = unpacked(_moved(batch, self.device, wait=False), channels_last=self.channels_last)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        return partial(self._received, made, arrived)

    def _received(self, batch: TensorBatch, arrived: torch.cuda.Event) -> TensorBatch:
        """Let the stream of the caller wait for the copy, and the memory for the caller's stream."""
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(arrived)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.record_stream(consumer)
        return batch


class Prefetcher:
    """Copies the next batch while the loop processes the current one.

    The first batch is delivered as soon as it is ready, before the second is read. An error of a batch is raised when
    that batch is asked for, after all batches before it.

    Parameters
    ----------
    batches
        In host memory.
    transfer
        Brings them to the device.
    """

    def __init__(self, batches: Iterator[TensorBatch], transfer: Transfer) -> None:
        self._batches, self._transfer = batches, transfer
        self._following: Arrival | None = None
        self._started = False

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> TensorBatch:
        if not self._started:
            self._started = True
            return self._transfer.begin(next(self._batches))()
        current = self._following or self._begin()
        self._following = None if isinstance(current, _Failure) else self._begin()
        return current()

    def _begin(self) -> Arrival:
        try:
            return self._transfer.begin(next(self._batches))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to a batch that is not asked for yet
            return _Failure(error)


class _Failure:
    """What happened to a batch instead of its arrival, the end of all batches included."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self) -> NoReturn:
        try:
            raise self._error
        finally:
            del self._error  # its traceback holds this frame: a ring that would keep threads and files until collected


def resolved(device: torch.device | str | None) -> torch.device | None:
    """Return the device that batches have to be brought to, with its number; None where they are in host memory.

    Raises
    ------
    ConfigurationError
        If torch does not see it.
    """
    if device is None:
        return None
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(
            f"device={device!r} is not a device of torch; use cpu, cuda or, for one of several GPUs, cuda:1"
        ) from error
    if asked.type == "cpu":
        return None
    if asked.type != "cuda":
        return asked
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = asked.index if asked.index is not None else torch.cuda.current_device() if count else 0
    if number >= count:
        raise ConfigurationError(
            f"device={str(device)!r}, but torch {torch.__version__} sees {count or 'no'} CUDA "
            f"device{'' if count == 1 else 's'} (`lsstcutouts doctor` shows why); omit device for batches in host memory"
        )
    return torch.device("cuda", number)


def transfer_to(device: torch.device | None, wire: Wire, *, channels_last: bool = False) -> Transfer | None:
    """Return what brings batches to a device that `resolved` gave; None for host memory.

    Raises
    ------
    ConfigurationError
        If the device cannot take this type.
    """
    cuda = device is not None and device.type == "cuda"
    check_wire(wire, torch.cuda.get_device_capability(device) if cuda else None)
    if device is None:
        return None
    return (CudaTransfer if cuda else DirectTransfer)(device, channels_last=channels_last)


def _moved(batch: TensorBatch, device: torch.device, *, wait: bool) -> TensorBatch:
    return {k: v.to(device, non_blocking=not wait) if isinstance(v, Tensor) else v for k, v in batch.items()}
