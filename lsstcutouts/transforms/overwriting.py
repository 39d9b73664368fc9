"""Modules that can write over the image that comes in."""

from typing import ClassVar, Protocol, runtime_checkable

__all__ = ["Overwriting"]


@runtime_checkable
class Overwriting(Protocol):
    """A module with a switch that makes it write its result over the image of the batch.

    The mark beside the switch tells it from torch's own modules with ``inplace``, which overwrite what their network
    may still need.
    """

    overwrites_image: ClassVar[bool]
    inplace: bool
