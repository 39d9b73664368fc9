"""A figure of the sky of a plan: patches by number of bands, a panel per band, targets and rejected targets."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError
from ..source.notebook import new_figure
from ..source.writing import atomic_file
from .coverage import DRAWN_AS_POINTS, Coverage, Layer
from .coverage_page import write_page

if TYPE_CHECKING:
    from astropy.visualization.wcsaxes import WCSAxes
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["coverage_figure", "picture_format", "write_coverage"]

_FORMATS = ("png", "pdf", "svg", "html")
_MISSING = "#D55E00"


def picture_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a picture by the end of its name.

    Raises
    ------
    ConfigurationError
        If the name ends in none of .png, .pdf, .svg and .html.
    """
    found = Path(path).suffix.lower().removeprefix(".")
    if found not in _FORMATS:
        raise ConfigurationError(
            f"picture={os.fspath(path)!r} has no known format; choose a name that ends in .png, .pdf, .svg or .html"
        )
    return found


def write_coverage(path: str | os.PathLike[str], coverage: Coverage) -> None:
    """Write a picture; its format follows from the name (`picture_format`).

    Raises
    ------
    DependencyError
        If bokeh is not installed, for .html.
    WriteError
        If it cannot be written.
    """
    kind = picture_format(path)
    if kind == "html":
        write_page(path, coverage)
        return
    figure = coverage_figure(coverage)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=130, format=kind)


def coverage_figure(coverage: Coverage) -> "Figure":
    """Return a figure: the sky on the left, and a small panel for each band on the right."""
    figure = new_figure(11.0, 7.2)
    figure.set_layout_engine("constrained")
    rows = -(-len(coverage.bands) // 2)
    grid = figure.add_gridspec(max(rows, 3), 4, width_ratios=[1, 1, 0.48, 0.48])
    axes = figure.add_subplot(grid[:, :2], projection=coverage.wcs)
    _sky(figure, axes, coverage)
    for i, band in enumerate(coverage.bands):
        _band(figure.add_subplot(grid[i // 2, 2 + i % 2]), coverage, i, band)
    return figure


def _sky(figure: "Figure", axes: "WCSAxes", coverage: Coverage) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import BoundaryNorm, ListedColormap

    bands = len(coverage.bands)
    shades = ListedColormap(colormaps["Greys"](np.linspace(0.0, 0.5, bands + 1)))
    patches = PolyCollection(
        list(coverage.corners),
        array=coverage.present.sum(axis=1),
        cmap=shades,
        norm=BoundaryNorm(np.arange(bands + 2) - 0.5, bands + 1),
        edgecolors="0.35",
        linewidths=0.8,
    )
    axes.add_collection(patches)
    bar = figure.colorbar(patches, ax=axes, location="bottom", shrink=0.6, aspect=30)
    bar.set_ticks(list(range(bands + 1)))
    bar.set_label("bands with a coadd in the patch")
    for layer in coverage.layers:
        _targets(axes, coverage, layer)
    x0, x1, y0, y1 = coverage.view
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal")
    for coordinate, name in zip(axes.coords, ("RA (ICRS, degrees)", "Dec (ICRS, degrees)"), strict=True):
        coordinate.set_axislabel(name)
        coordinate.set_format_unit("deg", decimal=True)
    axes.coords.grid(color="0.6", linewidth=0.4, linestyle=":")
    outside = f"; {coverage.outside} rejected outside this view" if coverage.outside else ""
    count = len(np.unique(coverage.tract))
    # Above a map of a pole are labels of RA, which a title of the axes would cover.
    figure.suptitle(f"{coverage.targets.sum()} targets; tracts: {count}{outside}", fontsize=11)
    if coverage.layers:
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False, markerscale=2)


def _targets(axes: "Axes", coverage: Coverage, layer: Layer) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    label = f"{layer.name}: {len(layer.x)}"
    marker, size = ("x", 14) if layer.rejected else ("o", 5)
    if len(layer.x) <= DRAWN_AS_POINTS:
        axes.scatter(
            layer.x,
            layer.y,
            s=size,
            c=layer.colour,
            marker=marker,
            linewidths=0.8 if layer.rejected else 0,
            label=label,
        )
        return
    axes.scatter([], [], s=size, c=layer.colour, marker=marker, label=f"{label}, as density")
    counts = coverage.density(layer)
    if np.isfinite(counts).any():
        shades = LinearSegmentedColormap.from_list(layer.name, [f"{layer.colour}40", f"{layer.colour}c0"])
        norm = LogNorm(1, max(2.0, float(np.nanmax(counts))))
        axes.imshow(counts, cmap=shades, norm=norm, extent=coverage.view, origin="lower", zorder=2, aspect="equal")


def _band(axes: "Axes", coverage: Coverage, number: int, band: str) -> None:
    """Draw the patches with a band filled, those with other bands only hatched, those without coadds empty."""
    from matplotlib.collections import PolyCollection

    there = coverage.present[:, number]
    axes.add_collection(
        PolyCollection(list(coverage.corners[there]), facecolors="0.6", edgecolors="0.3", linewidths=0.5)
    )
    covered = coverage.present.any(axis=1)
    without = list(coverage.corners[covered & ~there])
    axes.add_collection(
        PolyCollection(list(coverage.corners[~covered]), facecolors="none", edgecolors="0.8", linewidths=0.5)
    )
    axes.add_collection(PolyCollection(without, facecolors="none", edgecolors=_MISSING, hatch="////", linewidths=0.7))
    x0, x1, y0, y1 = coverage.view
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{band}: missing in {len(without)} of {covered.sum()}", fontsize=9)
