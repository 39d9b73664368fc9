"""Which arrays of a batch lie on the sky."""

__all__ = ["PLANES"]

PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Arrays whose last two axes are ``(y, x)`` of the sky."""
