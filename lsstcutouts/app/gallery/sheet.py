"""Draws entries of a gallery on a sheet: pictures in rows, with captions, scale bars, arrows, circles and outlines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...source.notebook import new_figure
from .entry import Entry, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Layout", "draw_sheet"]

_OUTLINES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7")
"""Okabe and Ito's colours, for mask planes in the order in which they are given."""

_MISSING = "#E69F00"
_LINE = 1.25
"""Height of a line of text, in units of its size."""
_LETTER = 0.62
"""Mean width of a letter, in units of the text's size."""
_HEAD = 0.28
"""Inches of the title above the pictures."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a sheet, in inches; text sizes in points.

    Attributes
    ----------
    width
        Of the sheet.
    height
        Of the sheet; None: as high as its rows are.
    across
        Panels from left to right; a target with more has a row of its own, with smaller ones.
    panels
        Panels of a target.
    aspect
        Height of a panel in units of its width.
    lines
        Most lines of a caption.
    text
        Size of the captions.
    margin, gap
        Around all, and between two panels.
    circle
        Radius of the circle around a target, arcsec; None: no circle.
    outline
        Mask planes that are outlined.
    """

    width: float
    height: float | None
    across: int
    panels: int = 1
    aspect: float = 1.0
    lines: int = 1
    text: float = 6.5
    margin: float = 0.45
    gap: float = 0.05
    circle: float | None = None
    outline: tuple[str, ...] = ()

    @property
    def targets_across(self) -> int:
        """Targets in a row."""
        return max(1, self.across // self.panels)

    @property
    def panel(self) -> tuple[float, float]:
        """Width and height of a panel."""
        count = max(self.across, self.panels)
        width = (self.width - 2 * self.margin - (count - 1) * self.gap) / count
        return width, width * self.aspect

    @property
    def row(self) -> float:
        """Height of a row with its captions."""
        return self.panel[1] + self.lines * self.text * _LINE / 72 + 0.09

    @property
    def rows(self) -> int | None:
        """Rows on a sheet, at least one; None if it is as high as needed."""
        if self.height is None:
            return None
        return max(1, int((self.height - 2 * self.margin - _HEAD) / self.row))

    def of_panels(self, entry: Entry) -> "Layout":
        """Return the layout for entries like this one."""
        y, x = entry.panels[0].image.shape[:2]
        return replace(self, panels=len(entry.panels), aspect=y / x)


def draw_sheet(
    entries: Sequence[Entry],
    layout: Layout,
    *,
    title: str = "",
    foot: str = "",
    colours: Sequence[str] | None = None,
    raw: bool = False,
) -> "Figure":
    """Return a figure of some entries.

    Parameters
    ----------
    entries
        At most as many as fit.
    layout
        Sizes; those of the panels must be theirs (`Layout.of_panels`).
    title, foot
        Texts above and below the pictures.
    colours
        Colour of each caption.
    raw
        Whether pixels are kept as they are, for formats that are enlarged by their viewer.
    """
    across = layout.targets_across
    rows = -(-len(entries) // across)
    head = _HEAD if title or layout.outline else 0.0
    height = layout.height or 2 * layout.margin + head + rows * layout.row
    figure = new_figure(layout.width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, layout.width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    sheet = _Sheet(axes, layout, raw=raw)
    if title:
        names = sum(len(name) + 2 for name in layout.outline) * layout.text
        most = int(((layout.width - 2 * layout.margin) * 72 / _LETTER - names) / (layout.text + 2.5))
        text = _shortened(title, max(8, most))
        sheet.write(layout.margin, height - layout.margin - 0.05, text, layout.text + 2.5, ha="left", va="center")
    for i, name in enumerate(reversed(layout.outline)):
        # From the right; what a name takes is estimated.
        right = (
            layout.width - layout.margin - sum(len(n) + 2 for n in layout.outline[len(layout.outline) - i :]) * 0.055
        )
        colour = _outline_colour(layout, name)
        sheet.write(right, height - layout.margin - 0.05, name, layout.text, colour, ha="right", va="center")
    if foot:
        sheet.write(layout.width / 2, layout.margin / 2, foot, layout.text, va="center")
    for i, entry in enumerate(entries):
        row, place = divmod(i, across)
        left = layout.margin + place * layout.panels * (layout.panel[0] + layout.gap)
        top = height - layout.margin - head - row * layout.row
        sheet.target(entry, left, top, colours[i] if colours else "black", named=row == 0)
    sheet.finish()
    return figure


class _Sheet:
    """The axes of a sheet in inches, and what is drawn in one go at the end."""

    def __init__(self, axes: "Axes", layout: Layout, *, raw: bool) -> None:
        self._axes, self._layout, self._raw = axes, layout, raw
        self._lines: list[NDArray[np.float64]] = []
        self._outlines: list[tuple[NDArray[np.float64], str]] = []

    def write(self, x: float, y: float, text: str, size: float, colour: str = "black", **where: str) -> None:
        """Write text; an id may contain dollar signs."""
        from matplotlib.patheffects import withStroke

        where = {"ha": "center", "va": "bottom", **where}
        edge = [withStroke(linewidth=1.2, foreground="black")] if colour == "white" else None
        self._axes.text(x, y, text, fontsize=size, color=colour, parse_math=False, path_effects=edge, **where)  # type: ignore[arg-type]

    def target(self, entry: Entry, left: float, top: float, colour: str, *, named: bool) -> None:
        """Draw the panels of one target from its upper left corner, its caption, and perhaps the names of the panels."""
        from matplotlib.image import AxesImage

        layout, panels = self._layout, entry.panels
        width, height = layout.panel
        y, x = panels[0].image.shape[:2]
        scale = width / x
        step = x + round(layout.gap / scale)  # of all panels one image is made: 14,000 small ones would take minutes
        strip = np.full((y, step * len(panels) - (step - x), 3), 255, np.uint8)
        for i, panel in enumerate(panels):
            strip[:, i * step : i * step + x] = panel.image
        whole = strip.shape[1] * scale
        image = AxesImage(
            self._axes,
            extent=(left, left + whole, top - height, top),
            origin="lower",  # the first row of a cutout is the southern one
            interpolation="none" if self._raw else "nearest",
        )
        image.set_data(strip)
        self._axes.add_image(image)
        for i, panel in enumerate(panels):
            self._panel(entry, panel, left + i * step * scale, top - height, scale, named=named and len(panels) > 1)
        if entry.pixel_scale is not None and width > 0.5:
            self._marks(entry, left, top - height, scale)
        most = max(8, int(whole * 72 / (layout.text * _LETTER)))
        text = "\n".join(_shortened(line, most) for line in entry.caption.split("\n"))
        if text:
            self.write(left + whole / 2, top - height - 0.03, text, layout.text, colour, va="top")

    def _panel(self, entry: Entry, panel: Panel, x0: float, y0: float, scale: float, *, named: bool) -> None:
        """Draw what is on one panel: its name, missing bands, outlines and the circle."""
        width, height = self._layout.panel
        text, shift = self._layout.text, np.array([x0, y0])
        if panel.missing:
            missing = f"no {', '.join(panel.missing)}"
            self.write(x0 + width / 2, y0 + height * 0.9, missing, text + 1, _MISSING, va="center")
        if named:
            self.write(x0 + 0.04, y0 + height - 0.03, panel.label, text + 1, "white", ha="left", va="top")
        for name, lines in entry.outlines.items():
            colour = _outline_colour(self._layout, name)
            self._outlines += [((line + 0.5) * scale + shift, colour) for line in lines]
        if self._layout.circle is not None and entry.pixel_scale is not None:
            angle = np.linspace(0, 2 * np.pi, 97)
            centre, radius = (np.array(entry.target) + 0.5) * scale, self._layout.circle / entry.pixel_scale * scale
            circle = centre + radius * np.column_stack([np.cos(angle), np.sin(angle)])
            circle[((circle < 0) | (circle > (width, height))).any(axis=1)] = np.nan  # only what is on this panel
            self._lines.append(circle + shift)

    def _marks(self, entry: Entry, x0: float, y0: float, scale: float) -> None:
        """Draw a bar of 1, 2 or 5 times a power of ten arcseconds, and arrows to north and east."""
        width, text = self._layout.panel[0], self._layout.text - 1.5
        inch = scale / (entry.pixel_scale or 1.0)  # inches per arcsecond
        power = 10.0 ** math.floor(math.log10(0.4 * width / inch))
        arcsec = power * next(step for step in (5, 2, 1) if step * power * inch <= 0.4 * width or step == 1)
        x, y, tick = x0 + 0.06, y0 + 0.07, 0.02
        bar = [(x, y + tick), (x, y - tick), (x, y), (x + arcsec * inch, y), (x + arcsec * inch, y + tick)]
        self._lines.append(np.array([*bar, (x + arcsec * inch, y - tick)]))
        self.write(x + arcsec * inch / 2, y + 0.02, f'{arcsec:g}"', text, "white")
        if entry.north is None or entry.east is None:
            return
        length = min(0.16, 0.16 * width)
        north, east = np.array(entry.north), np.array(entry.east)
        # In the lower right corner, however the sky is turned.
        start = np.array([x0 + width - 0.1 - length / 2, y0 + 0.1 + length / 2]) - (north + east) * length / 2
        for letter, way in (("N", north), ("E", east)):
            end, aside = start + way * length, np.array([-way[1], way[0]])
            back = end - way * 0.3 * length
            self._lines.append(np.array([start, end, back + aside * 0.15 * length, end, back - aside * 0.15 * length]))
            x, y = end + way * 0.075
            self.write(x, y, letter, text, "white", va="center")

    def finish(self) -> None:
        """Draw the lines: white with a dark edge, so that they are seen on any picture."""
        from matplotlib.collections import LineCollection

        for colour, width in (("black", 1.6), ("white", 0.6)):
            self._axes.add_collection(LineCollection(self._lines, colors=colour, linewidths=width), autolim=False)
        lines, colours = [line for line, _ in self._outlines], [colour for _, colour in self._outlines]
        self._axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.7), autolim=False)


def _outline_colour(layout: Layout, name: str) -> str:
    return _OUTLINES[layout.outline.index(name) % len(_OUTLINES)]


def _shortened(line: str, most: int) -> str:
    """Return a line with at most so many characters: a long id is cut in its middle."""
    return line if len(line) <= most else f"{line[: most // 2 - 1]}\u2026{line[-(most - most // 2) :]}"
