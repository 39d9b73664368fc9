"""Collection of values from all ranks."""

from typing import Any

import torch.distributed as dist

__all__ = ["gather_on_first_rank"]


def gather_on_first_rank[T](value: T) -> list[T] | None:
    """Return the values of all ranks, in rank order, on rank 0, and None on the others; every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    # A gloo group: NCCL would copy the pickled values to GPU memory.
    group = dist.new_group(backend="gloo")
    first = dist.get_rank() == 0
    found: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(value, found, dst=0, group=group)  # type: ignore[arg-type]
    dist.destroy_process_group(group)
    return found
