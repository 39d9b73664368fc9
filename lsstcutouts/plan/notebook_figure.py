"""Figures that notebooks display."""

from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["notebook_figure"]

_METHOD = "_repr_png_"
"""What IPython asks an object for."""


def notebook_figure(**settings: Any) -> "Figure":
    """Return an empty figure that a notebook displays, whether pyplot was imported or not.

    The object-oriented interface opens no window, has no global state and works in any thread. IPython knows how to display
    its figures only after an import of pyplot.

    Parameters
    ----------
    **settings
        As of `matplotlib.figure.Figure`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(**settings)
    FigureCanvasAgg(figure)
    setattr(figure, _METHOD, partial(_png, figure))
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
