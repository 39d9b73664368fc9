"""Histograms of the pixels of each band, before and after normalisation."""

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
"""Rubin's colours for plots in publications (RTN-045)."""

_BINS = 120


class Pixels(NamedTuple):
    """Valid pixels of one band, ``(n,)``, before and after normalisation."""

    band: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def write_histograms(path: Path, pixels: Sequence[Pixels], statistics: Statistics, name: str) -> Path:
    """Write a PNG with one column per band: pixels before normalisation above, normalised pixels below.

    Parameters
    ----------
    path
        Output file; the folder is created.
    pixels
        Pixels of each band.
    statistics
        Statistics of the pixels; median and noise are marked.
    name
        Name of the normalisation.
    """
    # The object-oriented interface opens no window, has no global state and works in any thread.
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
    axes[0, 0].set_ylabel(f"before, {statistics.unit}\nfraction of pixels per bin")
    axes[1, 0].set_ylabel(f"after {name}\nfraction of pixels per bin")
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
    """Return limits that leave out a thousandth of the values at each end."""
    if not values.size:
        return -1.0, 1.0
    low, high = np.quantile(values, [0.001, 0.999]).tolist()
    pad = 0.03 * (high - low) or 1.0
    return low - pad, high + pad
