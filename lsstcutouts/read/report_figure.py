"""A figure of a report: rows by outcome, what is wrong in each band, and the read errors that affected most rows."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors.secrets import without_query
from ..plan.quality import Outcome, Quality
from ..source.notebook import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .batch_report import Failure
    from .report import Report

__all__ = ["report_figure"]

_COLOURS = {
    Outcome.DELIVERED: "#009E73",
    Outcome.OUTSIDE_TRACTS: "#D55E00",
    Outcome.NO_COADD: "#000000",
    Outcome.MISSING_BAND: "#E69F00",
    Outcome.QUALITY: "#CC79A7",
    Outcome.READ_ERROR: "#0072B2",
    Outcome.NOT_DRAWN: "#BBBBBB",
    Outcome.NOT_READ: "#888888",
}
"""Okabe and Ito's colours, rejected rows as in the picture of a plan; grey for what nobody tried to read."""

_MOST_ERRORS = 10
_LETTERS = 36
"""Most letters of the name of a file, from its end."""
_COLUMNS = 6
"""Columns for which the table has room at least: few columns do not become wide."""
_LINE = 0.27
"""Inches of a bar, and of a row of numbers."""
_AROUND = 0.85
"""Inches around the axes of one part: its title, and the labels of its columns."""


def report_figure(report: "Report") -> "Figure":
    """Return a figure: a bar for each outcome, a table of bands and `Quality` bits, a bar for each read error."""
    outcomes, failures, found = report.counts(), report.failures, report.by_band()
    flags = [flag for flag in Quality if any(flag in one for one in found.values())]
    most = sorted(failures, key=failures.__getitem__, reverse=True)[:_MOST_ERRORS]
    lines = [len(outcomes), len(found) if flags else 0, *([len(most)] if most else [])]
    heights = [_AROUND + _LINE * count for count in lines]
    figure = new_figure(9.5, sum(heights))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
    texts = [outcome.text for outcome in outcomes]
    _bars(axes[0], texts, list(outcomes.values()), [_COLOURS[one] for one in outcomes], len(report))
    axes[0].set_title(f"{len(report):,} rows by outcome", loc="left", fontsize=11)
    _table(axes[1], np.array([[one.get(flag, 0) for flag in flags] for one in found.values()]), len(report))
    axes[1].set_title("rows with a problem, by band" if flags else "no problem in any band", loc="left", fontsize=11)
    axes[1].set_yticks(range(len(found)), list(found), fontsize=9, parse_math=False)
    names = [str(flag.name).lower().replace("_", "\n") for flag in flags]
    axes[1].set_xticks(range(len(flags)), names, fontsize=8)
    if most:
        _bars(axes[2], [_named(one) for one in most], [failures[one] for one in most], ["#0072B2"] * len(most))
        some = f"; the {len(most)} that affected most rows" if len(most) < len(failures) else ""
        axes[2].set_title(f"read errors: {len(failures):,}, with affected rows{some}", loc="left", fontsize=11)
    return figure


def _bars(axes: "Axes", names: list[str], counts: list[int], colours: list[str], whole: int | None = None) -> None:
    """Draw a bar for each count, the first one at the top, with its number and its share of the whole."""
    if not names:
        axes.set_axis_off()
        return
    places = list(range(len(names)))
    bars = axes.barh(places, counts, color=colours, height=0.7)
    shares = ["" if not whole else f"  {_percent(count, whole)}" for count in counts]
    axes.bar_label(bars, [f" {n:,}{share}" for n, share in zip(counts, shares, strict=True)], fontsize=9)
    axes.set_yticks(places, names, fontsize=9, parse_math=False)  # an address may contain dollar signs
    axes.set_xlim(0, 1.25 * max(counts))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _percent(count: int, whole: int) -> str:
    """Return a share that is 0 % or 100 % only where nothing or all is meant."""
    share = 100 * count / whole
    return "< 0.1 %" if 0 < share < 0.1 else "> 99.9 %" if 99.9 < share < 100 else f"{share:.3g} %"


def _table(axes: "Axes", counts: NDArray[np.int64], whole: int) -> None:
    """Draw numbers of rows ``(B, n)``, each on a shade of its share of all rows."""
    from matplotlib.colors import PowerNorm

    axes.tick_params(bottom=False, left=False)
    axes.spines[:].set_visible(False)
    if not counts.size:
        axes.set_axis_off()
        return
    axes.imshow(counts / whole, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
    axes.set_xlim(-0.5, max(counts.shape[1], _COLUMNS) - 0.5)
    for (y, x), count in np.ndenumerate(counts):
        colour = "white" if count > 0.4 * whole else "black"
        axes.text(x, y, f"{count:,}", ha="center", va="center", fontsize=9, color=colour)


def _named(failure: "Failure") -> str:
    """Return band, tract, patch and plane of a read error, and the end of the name of its file."""
    name = without_query(failure.uri).rpartition("/")[2]
    name = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"
    return f"{failure.band} {failure.tract}/{failure.patch} {failure.plane or 'file'} of {name}"
