"""Draw ``images/footprint.png``, the figure of ``footprint.md``: ``python docs/footprint_drawing.py demo/repo``."""

import sys
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from lsstcutouts import CutoutPlan, Footprint, build_plan
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.positions import CoveredSky
from lsstcutouts.sky.geometry import TanProjection
from lsstcutouts.sky.skymap import KNOWN_RINGS, SkyMap, Tract

INK = "#1d2433"
COLOURS = ("#4c78a8", "#e4a23c", "#54a277", "#b5579b")
STYLE = {"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK}
STEP = 10
"""Pixels of the map of bands that are averaged."""


def outlines(ax: Axes, plan: CutoutPlan) -> None:
    """Draw the inner regions of the patches."""
    for y0, y1, x0, x1 in plan.patches.inner[(plan.patches.files >= 0).any(axis=1)].tolist():
        ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=INK, lw=1.2, zorder=5))
    ax.set_aspect("equal")
    ax.tick_params(length=3, labelsize=8.5)
    ax.set_xlabel("x, tract pixels")


def bands_map(plan: CutoutPlan) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return how many bands have valid pixels where, ``(y, x)`` in steps of pixels, and the extent for ``imshow``."""
    held = plan.patches.inner[(plan.patches.files >= 0).any(axis=1)]
    (y0, x0), (y1, x1) = held[:, [0, 2]].min(axis=0), held[:, [1, 3]].max(axis=0)
    counts = np.zeros(((y1 - y0) // STEP, (x1 - x0) // STEP))
    for inner, files in zip(plan.patches.inner, plan.patches.files, strict=True):
        for file in files[files >= 0].tolist():
            with open_coadd(plan.files.uri[file]) as coadd:
                plane, bit = coadd.mask_location("NO_DATA")
                mask = coadd.read(plane)
                part = mask[inner[0] - coadd.bbox.y0 :, inner[2] - coadd.bbox.x0 :][:1500:STEP, :1500:STEP]
            rows, columns = (inner[0] - y0) // STEP, (inner[2] - x0) // STEP
            counts[rows : rows + part.shape[0], columns : columns + part.shape[1]] += (part >> bit) & 1 == 0
    return counts, (x0 - 0.5, x1 - 0.5, y0 - 0.5, y1 - 0.5)


def tracts(numbers: tuple[int, ...]) -> CoveredSky:
    """Return tracts of Rubin's skymap, with coadds of all their patches."""
    rings = next(one for one in KNOWN_RINGS.values() if not one.clipped)
    step, middle = rings.pixel_scale / 3600, 15_000 - 0.5
    known = {
        n: Tract(n, TanProjection(rings.centre(n), (middle, middle), (-step, 0, 0, step)), rings.grid, rings.inner)
        for n in numbers
    }
    tract, patch = np.repeat(numbers, 100), np.tile(np.arange(100), len(numbers))
    return CoveredSky(SkyMap("lsst_cells_v2", known, rings), tract, patch)


def overlapping(ax: Axes) -> None:
    """Draw positions on tracts that overlap near the pole, in a projection about it."""
    sky = tracts((8, 21, 9, 22))
    drawn = np.concatenate(list(islice(sky.uniform(1), 1)))[:3000]
    own = sky.skymap.find(*drawn.T)
    x, y = ((90 + drawn[:, 1]) * f(np.radians(drawn[:, 0])) for f in (np.sin, np.cos))
    edge, side = np.linspace(-0.5, 29_999.5, 50), 29_999.5
    low = np.full(50, -0.5)
    for (number, tract), colour in zip(sky.skymap.tracts.items(), COLOURS, strict=True):
        ax.plot(x[own == number], y[own == number], ".", ms=2.6, color=colour, alpha=0.9, mew=0)
        py = np.concatenate([low, edge, np.full(50, side), edge[::-1]])
        px = np.concatenate([edge, np.full(50, side), edge[::-1], low])
        ra, dec = tract.projection.pixel_to_sky(py, px)
        ax.plot((90 + dec) * np.sin(np.radians(ra)), (90 + dec) * np.cos(np.radians(ra)), color=INK, lw=1.1)
    ax.set_aspect("equal")
    ax.set_axis_off()


def main(repo: str) -> None:
    """Write the figure."""
    given = {"collections": "dp2", "bands": "ugrizy", "size": 64}
    every = build_plan(repo, Footprint("grid"), **given)
    some = build_plan(repo, Footprint(n=500, bands="all", min_valid=0.95), **given)
    counts, extent = bands_map(every)
    with mpl.rc_context(STYLE):
        fig, (left, middle, right) = plt.subplots(1, 3, figsize=(14.5, 6.0), layout="constrained")
        overlapping(left)
        left.set_title(
            "Uniform on the sphere, on tracts that overlap:\ncolours are the tracts that the skymap assigns",
            fontsize=10.5,
        )
        shades = mpl.colors.ListedColormap(["#4a5160", "#4a5160", "#626a7a", "#7d8595", "#9aa3b2", "#dde1e8", "white"])
        middle.imshow(counts, origin="lower", extent=extent, cmap=shades, vmin=-0.5, vmax=6.5)
        outlines(middle, every)
        middle.plot(some.yx0[:, 1] + 31.5, some.yx0[:, 0] + 31.5, ".", ms=3.2, color=COLOURS[0])
        middle.set_ylabel("y, tract pixels")
        middle.set_title(
            "All six bands, at least 95 % of their pixels valid,\non the demo sky; grey: a band lacks data",
            fontsize=10.5,
        )
        inner = every.patches.inner[(every.patches.files >= 0).any(axis=1)][:, [1, 3]].min(axis=0)
        squares = [Rectangle((x - 0.5, y - 0.5), 64, 64) for y, x in every.yx0.tolist()]
        right.add_collection(PatchCollection(squares, facecolor=COLOURS[0], alpha=0.25, edgecolor=COLOURS[0], lw=0.8))
        right.plot(every.yx0[:, 1] + 31.5, every.yx0[:, 0] + 31.5, ".", ms=4, color=COLOURS[0])
        outlines(right, every)
        right.set_xlim(inner[1] - 400, inner[1] + 400)
        right.set_ylim(inner[0] - 400, inner[0] + 400)
        right.set_title(
            "A grid of cutouts of 64 pixels, where four patches meet:\neach pixel is in one cutout", fontsize=10.5
        )
        handles = [Line2D([], [], marker=".", ls="", ms=9, color=COLOURS[0], label="positions")]
        handles += [Line2D([], [], color=INK, lw=1.2, label="tracts (left), patches")]
        handles += [Patch(facecolor=COLOURS[0], alpha=0.25, edgecolor=COLOURS[0], label="cutouts")]
        fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        fig.savefig(Path(__file__).parent / "images" / "footprint.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo/repo")
