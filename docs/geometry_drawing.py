"""Draw ``images/geometry.png``, the figure of ``geometry.md``: ``python docs/geometry_drawing.py``."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lsstcutouts.sky.geometry import YX, Box, box_start

INK, GREY, RED = "#1d2433", "#9aa3b2", "#c8322b"
COLOURS = {0: "#4c78a8", 1: "#e4a23c", 2: "#54a277", 3: "#b279a2"}
STYLE = {"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK}


def outline(ax: Axes, box: Box, **style: object) -> None:
    """Draw a box of whole pixels, whose first pixel begins half a pixel before its centre."""
    ax.add_patch(Rectangle((box.x0 - 0.5, box.y0 - 0.5), box.shape.x, box.shape.y, **style))


def compass(ax: Axes, x: float, y: float, length: float) -> None:
    """Draw north up and east to the left."""
    for dx, dy, name in ((0, length, "N"), (-length, 0, "E")):
        arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x + dx, y + dy), (x, y), arrowprops=arrow)
        ax.text(x + 1.3 * dx, y + 1.3 * dy, name, ha="center", va="center", fontweight="bold")


def pixels(ax: Axes, size: int, title: str) -> None:
    """Draw the pixel grid with the box of one size around a target."""
    target = YX(13.3, 24.8)
    start = box_start(np.array(target), (size, size))
    box = Box.from_start(YX(*start.tolist()), YX(size, size))
    middle = YX(*(start + (size - 1) / 2).tolist())
    ax.set_xlim(20.5, 29.5)
    ax.set_ylim(8.5, 18.5)
    outline(ax, box, facecolor="#dfe8f3", edgecolor="none")
    for at in np.arange(8.5, 30):
        ax.axhline(at, color=GREY, lw=0.5, zorder=1)
        ax.axvline(at, color=GREY, lw=0.5, zorder=1)
    y, x = np.mgrid[8:20, 20:31]
    ax.plot(x, y, ".", color=GREY, ms=3, zorder=2)
    outline(ax, box, facecolor="none", edgecolor=COLOURS[0], lw=2.5, zorder=3)
    ax.plot(box.x0, box.y0, "s", color=COLOURS[0], ms=7, zorder=4)
    ax.text(box.x0 + 0.35, box.y0, "yx0", ha="left", va="center", color=COLOURS[0], fontweight="bold", zorder=5)
    ax.plot(middle.x, middle.y, "+", color=INK, ms=15, mew=2, zorder=4)
    ax.plot(target.x, target.y, "*", color=RED, ms=13, mec="white", mew=0.6, zorder=6)
    ax.set_xticks(range(21, 30))
    ax.set_yticks(range(9, 19))
    ax.tick_params(length=0, labelsize=8.5)
    ax.set_aspect("equal")
    dy, dx = target.y - middle.y, target.x - middle.x
    ax.set_title(f"{title}\noffset = ({dy:+.1f}, {dx:+.1f})", fontsize=10.5, linespacing=1.5)
    ax.set_xlabel("x, tract pixels")


def winners(ax: Axes) -> None:
    """Draw four patches, their files, and whose pixels a box gets; one patch has no file in this band."""
    inner, border = YX(30, 36), YX(6, 6)
    grid = {0: YX(0, 0), 1: YX(0, 1), 2: YX(1, 0), 3: YX(1, 1)}
    inside = {p: Box.from_start(YX(g.y * inner.y, g.x * inner.x), inner) for p, g in grid.items()}
    files = {
        p: Box(b.y0 - border.y, b.y1 + border.y, b.x0 - border.x, b.x1 + border.x) for p, b in inside.items() if p != 3
    }
    target = YX(24.0, 31.0)
    box = Box.from_start(YX(*box_start(np.array(target), (34, 38)).tolist()), YX(34, 38))
    owner = np.full(box.shape, -1)
    # As on a canvas: the least important first.
    for patch in (2, 1):
        owner[files[patch].intersection(box).slices(box.start)] = patch
    for patch in (2, 1):
        owner[inside[patch].intersection(files[patch]).intersection(box).slices(box.start)] = patch
    owner[files[0].intersection(box).slices(box.start)] = 0
    for patch, colour in COLOURS.items():
        rgba = np.zeros((*owner.shape, 4))
        rgba[owner == patch] = (*mpl.colors.to_rgb(colour), 0.55)
        ax.imshow(rgba, origin="lower", extent=(box.x0 - 0.5, box.x1 - 0.5, box.y0 - 0.5, box.y1 - 0.5), zorder=1)
    for patch, one in inside.items():
        outline(ax, one, facecolor="none", edgecolor=INK, lw=1.0, zorder=2)
        y, x = (one.y0 + 3 if patch < 2 else one.y1 - 4), (one.x0 + 3 if patch % 2 == 0 else one.x1 - 4)
        name = f"patch {patch}" + (": the target's" if patch == 0 else ", no file" if patch == 3 else "")
        side = "left" if patch % 2 == 0 else "right"
        colour = GREY if patch == 3 else COLOURS[patch]
        ax.text(x, y, name, ha=side, va="center", color=colour, fontweight="bold", zorder=6)
    for patch, one in files.items():
        outline(ax, one, facecolor="none", edgecolor=COLOURS[patch], lw=1.4, ls=(0, (5, 3)), zorder=3)
    outline(ax, box, facecolor="none", edgecolor=INK, lw=2.6, zorder=4)
    ax.plot(target.x, target.y, "*", color=RED, ms=15, mec="white", mew=0.6, zorder=6)
    ax.set_xlim(-9, 81)
    ax.set_ylim(-9, 74)
    ax.set_aspect("equal")
    ax.set_xlabel("x, tract pixels")
    ax.set_ylabel("y, tract pixels")
    ax.tick_params(length=3, labelsize=8.5)
    notes = {(20.8, 17): "patch 0, where\nits file is", (27, 38.5): "patch 2", (46, 20): "patch 1"}
    for (x, y), text in notes.items():
        ax.text(x, y, text, ha="center", va="center", fontsize=8.5, zorder=6)
    arrow = {"arrowstyle": "->", "color": INK, "lw": 1.0}
    ax.annotate("no file: 0, not valid", (46, 38.5), (52.5, 47), fontsize=8.5, arrowprops=arrow, zorder=6)
    note = "region of patch 3,\nno file: that of\npatch 1 is there"
    ax.annotate(note, (46, 32.5), (52.5, 20), fontsize=8.5, arrowprops=arrow, zorder=6)
    handles = [
        Line2D([], [], color=INK, lw=1.0, label="inner regions"),
        Line2D([], [], color=INK, lw=1.4, ls=(0, (5, 3)), label="files"),
        Line2D([], [], color=INK, lw=2.6, label="box"),
    ]
    ax.legend(handles=handles, loc="upper left", fontsize=8.5, frameon=False, ncols=3)
    compass(ax, 77, 64, 5)
    ax.set_title("Whose pixels fill a box (thick) that leaves its patch", fontsize=10.5)


def main() -> None:
    """Write the figure."""
    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(12.5, 5.9), layout="constrained")
        left, right = fig.subfigures(1, 2, width_ratios=(1.06, 1.0))
        odd, even = left.subplots(1, 2)
        pixels(odd, 5, "size 5: middle on a pixel's centre")
        pixels(even, 6, "size 6: middle on a pixel's corner")
        odd.set_ylabel("y, tract pixels")
        handles = [
            Line2D([], [], marker="*", color=RED, ls="", ms=11, label="target"),
            Line2D([], [], marker="+", color=INK, ls="", ms=11, mew=2, label="middle of the box"),
            Line2D([], [], marker=".", color=GREY, ls="", ms=5, label="pixel centres"),
            Line2D([], [], marker="s", color=COLOURS[0], ls="", ms=6, label="first pixel"),
        ]
        left.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
        winners(right.subplots())
        fig.savefig(Path(__file__).parent / "images" / "geometry.png", dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
