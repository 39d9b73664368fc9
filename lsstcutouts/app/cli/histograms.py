"""Histograms of the pixels of each band, before and after a normalisation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...source.writing import atomic_file
from ...transforms.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Pixels", "write_histograms"]

_COLOURS = {"u": "#0c71ff", "g": "#49be61", "r": "#c61c00", "i": "#ffc200", "z": "#f341a2", "y": "#5d0000"}
"""Rubin's own, of its plots for publication (RTN-045)."""

_BINS = 120


class Pixels(NamedTuple):
    """Valid pixels of one band."""

    band: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def write_histograms(path: Path, pixels: Sequence[Pixels], statistics: Statistics, name: str) -> Path:
    """Write a PNG: a column a band, above in the unit of the statistics, below normalised on one scale for all bands.

    Parameters
    ----------
    path
        Where; the folder is made.
    pixels
        Of each band.
    statistics
        Their median and noise are marked.
    name
        Of the normalisation.
    """
    # The object-oriented interface: no window, no global state, any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 2.5 * len(pixels)), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(pixels), squeeze=False, sharey="row")
    after = [one.after for one in pixels if one.after.size]
    common = _range(np.concatenate(after)) if after else (-1.0, 1.0)
    for i, one in enumerate(pixels):
        _before(axes[0, i], one, statistics)
        _draw(axes[1, i], one.after, common, _COLOURS.get(one.band, "tab:blue"))
        axes[1, i].axvline(0, color="0.35", linewidth=0.8)
    axes[0, 0].set_ylabel(f"before, {statistics.unit}\nshare of the pixels a bin")
    axes[1, 0].set_ylabel(f"after {name}\nshare of the pixels a bin")
    figure.suptitle(
        f"Pixels of the training split: {statistics.dataset_type}, {statistics.targets} targets", fontsize=11
    )
    with atomic_file(path) as part:
        figure.savefig(part, dpi=120, format="png")
    return path


def _before(axes: "Axes", one: Pixels, statistics: Statistics) -> None:
    known = statistics.bands[one.band]
    _draw(axes, one.before, _range(one.before), _COLOURS.get(one.band, "tab:blue"))
    axes.axvline(known.median, color="0.35", linewidth=0.8)
    axes.axvspan(known.median - known.noise, known.median + known.noise, color="0.5", alpha=0.2, linewidth=0)
    axes.set_title(f"{one.band}: median {known.median:.3g}, noise {known.noise:.3g}", fontsize=9)


def _draw(axes: "Axes", values: NDArray[np.float32], limits: tuple[float, float], colour: str) -> None:
    edges = np.linspace(*limits, _BINS + 1)
    counts = np.histogram(values, edges)[0] / max(1, values.size)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35)
    axes.stairs(counts, edges, color=colour)
    axes.set_yscale("log")
    axes.set_xlim(*limits)
    axes.tick_params(labelsize=8)


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the limits that hold all but a thousandth of the values at either end."""
    if not values.size:
        return -1.0, 1.0
    low, high = np.quantile(values, [0.001, 0.999]).tolist()
    pad = 0.03 * (high - low) or 1.0
    return low - pad, high + pad
