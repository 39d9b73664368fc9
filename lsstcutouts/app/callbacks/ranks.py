"""From all processes of a training to the first one."""

from typing import Any

import torch.distributed as dist

__all__ = ["gather_on_first_rank"]


def gather_on_first_rank[T](value: T) -> list[T] | None:
    """Return the values of all processes in the first one, by rank, and None in the others; all must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    # Over a group of its own: NCCL would take memory of the GPUs for what never was there.
    group = dist.new_group(backend="gloo")
    first = dist.get_rank() == 0
    found: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(value, found, dst=0, group=group)  # type: ignore[arg-type]
    dist.destroy_process_group(group)
    return found
