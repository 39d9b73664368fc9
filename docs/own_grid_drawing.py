"""Draw ``images/own-grid.png``, the figure of ``own-grid.md``: ``python docs/own_grid_drawing.py``."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from lsst.daf.butler import Butler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lsstcutouts import Grid, LsstDataFetcher, batch_wcs
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.testing import SimulationConfig, simulate, simulation, skymap_of
from lsstcutouts.testing.light import Kind
from lsstcutouts.testing.truth import Sky, draw_sky

BANDS, SIZE = "gri", 96
INK = "#1d2433"
GRID = (60, 38)
POLAR = {
    "release": "dp2",
    "cells": (3, 4),
    "cell": (100, 120),
    "grid": GRID,
    "bands": BANDS,
    "holes": False,
    "missing": (),
}
FIRST, SECOND = 1, 2
"""Tracts near the south pole, whose pixels are turned against each other by 36 degrees."""


def write(folder: Path) -> tuple[str, str, np.ndarray]:
    """Write one sky on the files of two tracts; returns repository, collections, and RA and Dec of its targets ``(2, N)``."""
    skymaps = {t: skymap_of(SimulationConfig(tract=t, patches=1, targets=4, **POLAR)) for t in (FIRST, SECOND)}
    middle = 18.0, skymaps[FIRST].centre[1]
    configs = {}
    for tract, skymap in skymaps.items():
        x, y = skymap.wcs.all_world2pix(*middle, 0)
        row, column = skymap.index(int(skymap.primary_patch(y, x)))
        columns = (column - 1, column, column + 1) if tract == FIRST else (column, column + 1)
        rows = (row, row + 1)
        patches = sorted({r * GRID[1] + c for r in rows for c in columns if 0 <= c < GRID[1]})
        configs[tract] = SimulationConfig(
            tract=tract, patches=patches, targets=500 if tract == FIRST else 4, seed=5, **POLAR
        )
    sky = draw_sky(configs[FIRST], skymaps[FIRST])
    ra, dec = skymaps[FIRST].sky(sky.sources.y, sky.sources.x)
    x, y = skymaps[SECOND].wcs.all_world2pix(ra, dec, 0)
    ahead = skymaps[SECOND].wcs.all_world2pix(*skymaps[FIRST].sky(sky.sources.y, sky.sources.x + 1), 0)
    turn = np.arctan2(ahead[1] - y, ahead[0] - x)
    shape = sky.sources.shape.copy()
    shape[:, 2] += turn
    arcs = sky.sources.kind == Kind.ARC
    behind = (shape[arcs, 5] + 1j * shape[arcs, 4]) * np.exp(1j * turn[arcs])
    shape[arcs, 4], shape[arcs, 5] = behind.imag, behind.real
    moved = Sky(replace(sky.sources, y=y, x=x, shape=shape), sky.truth)
    first = simulate(folder / "first", configs[FIRST])
    simulation.draw_sky = lambda *_: moved
    second = simulate(folder / "second", configs[SECOND])
    with (
        Butler.from_config(str(second.root), collections=second.collections) as source,
        Butler.from_config(str(first.root), writeable=True) as target,
    ):
        target.transfer_from(source, source.query_datasets("deep_coadd"), transfer="copy", transfer_dimensions=True)
    return str(first.root), first.collections, np.stack([ra, dec])


def _arrow_to_north(ax: Axes, batch: Mapping[str, Any]) -> None:
    """Draw the direction of north at the target of a batch of one."""
    wcs = batch_wcs(batch, 0)
    x, y = wcs.all_world2pix(batch["ra"][[0, 0]], batch["dec"][0] + np.array([0, 1e-4]), 0)
    along = np.array([x[1] - x[0], y[1] - y[0]]) / np.hypot(x[1] - x[0], y[1] - y[0])
    start = np.array([0.85, 0.15]) * SIZE
    style = {"arrowstyle": "-|>", "color": "white", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", start + 7 * along, start - 7 * along, arrowprops=style)
    ax.text(*(start + 11 * along), "N", color="white", fontsize=8, ha="center", va="center")


def main() -> None:
    """Write the figure."""
    with tempfile.TemporaryDirectory() as folder:
        repo, collections, (ra, dec) = write(Path(folder))
        fetcher = LsstDataFetcher(repo, collections=collections, bands=BANDS, size=SIZE, planes=("image", "valid"))
        with fetcher:
            plain, north = fetcher.fetch(ra, dec), fetcher.fetch(ra, dec, grid=Grid(north_up=True))
            light = north["image"][:, 1, 32:64, 32:64].sum((1, 2))
            share = plain["valid"].mean((1, 2, 3))
            filled = north["valid"].mean((1, 2, 3)) > 0.97
            whole, torn = (
                int(np.argsort(np.where(kind & filled, light, -np.inf))[-rank])
                for kind, rank in ((share == 1, 6), ((share > 0.35) & (share < 0.7), 1))
            )
            header = (
                fetcher.plan({"ra": ra[[whole]], "dec": dec[[whole]]}).projections[int(plain["tract"][whole])].header()
            )
            cards = {**header, "CRVAL1": float(ra[whole]), "CRVAL2": float(dec[whole])}
            c = 0.2 / 3600 / np.sqrt(2)
            cards |= {"CD1_1": -c, "CD1_2": c, "CD2_1": c, "CD2_2": c}
            panels = [
                ("the tract's pixels", None, whole),
                ("north_up=True", Grid(north_up=True), whole),
                ("north_up=True,\npixel_scale=0.1", Grid(north_up=True, pixel_scale=0.1), whole),
                ("wcs=: a WCS turned\nby 45 degrees", Grid(wcs=cards), whole),
                ("at a tract's border:\nthe tract's pixels", None, torn),
                ("at a tract's border:\nnorth_up=True", Grid(north_up=True), torn),
            ]
            batches = [fetcher.fetch(ra[[n]], dec[[n]], grid=grid) for _, grid, n in panels]
    pictures = Pictures(BANDS, PictureStyle(), plain["image"][[whole, torn]])
    with mpl.rc_context({"font.size": 9.5, "font.family": "DejaVu Sans", "text.color": INK}):
        fig, axes = plt.subplots(1, len(panels), figsize=(11.4, 2.45))
        fig.subplots_adjust(left=0.005, right=0.995, top=0.8, bottom=0.01, wspace=0.05)
        for ax, (title, _, _), batch in zip(axes, panels, batches, strict=True):
            image = batch["image"][0] * (4 if "0.1" in title else 1)  # the same brightness of the sky
            panel = pictures.panels(image, batch["valid"][0].mean((1, 2)))[0].image
            ax.imshow(panel, origin="lower", interpolation="nearest")
            _arrow_to_north(ax, batch)
            ax.set_title(title, fontsize=9.5, pad=5)
            ax.set_axis_off()
        fig.savefig(Path(__file__).parent / "images" / "own-grid.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
