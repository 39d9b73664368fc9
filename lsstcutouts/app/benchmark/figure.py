"""One number that was measured."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """One number that was measured.

    Attributes
    ----------
    what
        The figure, in words.
    value
        What was measured.
    unit
        Of it; empty for ratios.
    detail
        What belongs to it.
    """

    what: str
    value: float
    unit: str = ""
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)
