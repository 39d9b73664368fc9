"""What a notebook shows as the value of a cell: tables of text, and figures."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from ..errors.secrets import without_secrets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["html_table", "new_figure"]

_MOST = 120
"""Most letters of a cell: a longer text makes a table that cannot be read."""

_USER = re.compile(r"//[^/@\s]*@")
"""User and password of a URL."""

_LEFT = ' style="text-align:left"'  # notebooks put text to the right


def html_table(title: str, rows: Iterable[Sequence[object]], columns: Sequence[str] = ()) -> str:
    """Return a small HTML table with a title, for ``_repr_html_``. Texts are escaped, shortened, and without secrets.

    Parameters
    ----------
    title
        Above the table.
    rows
        The cells of each row, the first of which is its name. An object that is no text, number or tuple is named by its class.
    columns
        Names of the columns.
    """
    head = "".join(f"<th{_LEFT}>{_cell(name)}</th>" for name in columns)
    lines = [f"<tr>{head}</tr>"] if columns else []
    for name, *values in rows:
        cells = "".join(f"<td{_LEFT}>{_cell(value)}</td>" for value in values)
        lines.append(f"<tr><th{_LEFT}>{_cell(name)}</th>{cells}</tr>")
    return f"<div><b>{_cell(title)}</b><table>{''.join(lines)}</table></div>"


def _cell(value: object) -> str:
    text = _USER.sub("//", without_secrets(_text(value)))
    return escape(text if len(text) <= _MOST else f"{text[: _MOST - 1]}…")


def _text(value: object) -> str:
    """Return a value as text; an object of another package is asked for nothing, since its answer may be slow or an error."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | bool) else type(value).__name__


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure that a notebook displays, with or without ``%matplotlib``, in any thread.

    The object-oriented interface opens no window and has no global state, so that a figure is displayed only as the value
    of its cell, once.

    Parameters
    ----------
    width, height
        Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    # IPython knows how to display a figure only after pyplot was used; then its own way comes first, and this is not called.
    # An attribute, since a class that is made here could not be pickled.
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: "Figure") -> bytes:
    with BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()
