"""The protocol of modules that can overwrite the input image."""

from typing import ClassVar, Protocol, runtime_checkable

__all__ = ["Overwriting"]


@runtime_checkable
class Overwriting(Protocol):
    """A module that overwrites the image of the batch if ``inplace`` is set.

    ``overwrites_image`` distinguishes it from torch's own modules with ``inplace``, which overwrite tensors that their
    network may still need.
    """

    overwrites_image: ClassVar[bool]
    inplace: bool
