"""One offline HTML file of the sky of a plan, to zoom in."""

import os

import numpy as np

from ..errors import DependencyError
from ..source.writing import atomic_file
from .coverage import DRAWN_AS_POINTS, Coverage

__all__ = ["write_page"]


def write_page(path: str | os.PathLike[str], coverage: Coverage) -> None:
    """Write a page with pan, zoom, hover on patches, and a legend that hides layers.

    Raises
    ------
    DependencyError
        If bokeh is not installed.
    WriteError
        If it cannot be written.
    """
    try:
        from bokeh.embed import file_html
        from bokeh.models import HoverTool, Range1d
        from bokeh.palettes import cividis
        from bokeh.plotting import figure
        from bokeh.resources import INLINE
    except ImportError as error:
        raise DependencyError(
            f"a picture as .html needs bokeh ({error}); install it with: pip install 'lsstcutouts[notebook]'"
        ) from error

    x0, x1, y0, y1 = coverage.view
    title = f"{coverage.targets.sum()} targets; {coverage.outside} rejected outside the first view"
    page = figure(
        title=title,
        x_range=Range1d(x0, x1),
        y_range=Range1d(y0, y1),
        match_aspect=True,
        sizing_mode="stretch_both",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        x_axis_label=f"degrees to the west of RA {coverage.wcs.wcs.crval[0]:.4f}",
        y_axis_label=f"degrees to the north of Dec {coverage.wcs.wcs.crval[1]:.4f}",
    )
    rows, shades = range(len(coverage.patch)), cividis(len(coverage.bands) + 1)
    patches = page.patches(
        "xs",
        "ys",
        fill_color="colour",
        fill_alpha=0.35,
        line_color="#555555",
        legend_label="patches, by number of bands",
        source={
            "xs": coverage.corners[:, :, 0].tolist(),
            "ys": coverage.corners[:, :, 1].tolist(),
            "colour": [shades[n] for n in coverage.present.sum(axis=1)],
            "tract": coverage.tract,
            "patch": coverage.patch,
            "there": [coverage.bands_of(i, missing=False) for i in rows],
            "missing": [coverage.bands_of(i, missing=True) for i in rows],
            "targets": coverage.targets,
        },
    )
    tips = [(name, f"@{name}") for name in ("tract", "patch")]
    tips += [("bands", "@there"), ("missing", "@missing"), ("targets", "@targets")]
    page.add_tools(HoverTool(renderers=[patches], tooltips=tips))
    for layer in coverage.layers:
        label, marker = f"{layer.name}: {len(layer.x)}", "x" if layer.rejected else "circle"
        if len(layer.x) <= DRAWN_AS_POINTS:
            page.scatter(layer.x, layer.y, marker=marker, size=4, color=layer.colour, legend_label=label)
            continue
        counts = coverage.density(layer)
        row, column = np.nonzero(np.isfinite(counts))
        height, width = (y1 - y0) / len(counts), (x1 - x0) / len(counts)
        many = np.log1p(counts[row, column])
        page.rect(
            x0 + (column + 0.5) * width,
            y0 + (row + 0.5) * height,
            width,
            height,
            color=layer.colour,
            line_alpha=0,
            alpha=0.15 + 0.85 * many / many.max(initial=1.0),
            legend_label=f"{label}, as density",
        )
    page.legend.click_policy = "hide"
    with atomic_file(path) as part:
        part.write_text(file_html(page, INLINE, "Coverage"), encoding="utf-8")
