"""Draw ``images/splits.png``, the figure of ``splits.md``: ``python docs/splits_drawing.py demo/repo``."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.splits.assignment import SplitAssignment, assign_splits
from lsstcutouts.plan.splits.split_options import SplitOptions
from lsstcutouts.sky.geometry import YX

INK, GREY, RED = "#1d2433", "#9aa3b2", "#c8322b"
COLOURS = {"train": "#4c78a8", "val": "#e4a23c", "test": "#54a277"}
STYLE = {"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK}


def boxes(ax: Axes, yx0: np.ndarray, size: YX[int], colour: str, **style: object) -> None:
    """Draw boxes of targets."""
    squares = [Rectangle((x - 0.5, y - 0.5), size.x, size.y) for y, x in yx0.tolist()]
    ax.add_collection(PatchCollection(squares, facecolor=colour, edgecolor=colour, **style))


def sky(ax: Axes, assignment: SplitAssignment) -> None:
    """Draw every box in the colour of its split, and those that the guard leaves out in red."""
    for name, colour in COLOURS.items():
        plan, rows = assignment.splits[name]
        boxes(ax, plan.yx0[rows], plan.size, colour, alpha=0.55, lw=0.6)
        boxes(ax, plan.yx0[assignment.dropped[name]], plan.size, RED, alpha=0.85, lw=0.6, zorder=4)
    plan, _ = assignment.splits["predict"]
    has_files = (plan.patches.files >= 0).any(axis=1)
    for y0, y1, x0, x1 in plan.patches.inner[has_files].tolist():
        ax.add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, facecolor="none", edgecolor=INK, lw=1.2, zorder=5)
        )
    ax.set_aspect("equal")
    ax.tick_params(length=3, labelsize=8.5)
    ax.set_xlabel("x, tract pixels")


def main(repo: str) -> None:
    """Write the figure."""
    plan = build_plan(repo, f"{repo}/truth.parquet", collections="dp2", bands="gri", size=64)
    asked = SplitOptions({"train": 0.6, "val": 0.2, "test": 0.2}, by="block")
    assignment = assign_splits(plan, asked, seed=2)
    low, high = plan.yx0.min(axis=0) - 60, plan.yx0.max(axis=0) + 124
    left = np.concatenate(list(assignment.dropped.values()))
    # Closer: around the target left out that has most others of its kind nearby.
    near = np.abs(plan.yx0[left][:, None] - plan.yx0[left][None]).max(axis=2) < 200
    middle = plan.yx0[left[np.argmax(near.sum(axis=1))]] + 32
    with mpl.rc_context(STYLE):
        fig, (whole, part) = plt.subplots(1, 2, figsize=(12.5, 6.6), layout="constrained")
        sky(whole, assignment)
        whole.set_xlim(low[1], high[1])
        whole.set_ylim(low[0], high[0])
        whole.set_ylabel("y, tract pixels")
        zoom = Rectangle(
            (middle[1] - 250, middle[0] - 250), 500, 500, facecolor="none", edgecolor=INK, lw=2.2, zorder=6
        )
        whole.add_patch(zoom)
        share = len(left) / len(plan)
        whole.set_title(
            f"The demo sky in blocks: {len(left)} of {len(plan)} targets left out ({share:.1%})", fontsize=10.5
        )
        sky(part, assignment)
        part.set_xlim(middle[1] - 250, middle[1] + 250)
        part.set_ylim(middle[0] - 250, middle[0] + 250)
        part.set_title("Closer: red boxes share pixels with a more protected split", fontsize=10.5)
        handles = [Line2D([], [], marker="s", ls="", ms=9, color=c, alpha=0.6, label=n) for n, c in COLOURS.items()]
        handles.append(Line2D([], [], marker="s", ls="", ms=9, color=RED, label="left out by the guard"))
        handles.append(Line2D([], [], color=INK, lw=1.2, label="patches"))
        fig.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
        fig.savefig(Path(__file__).parent / "images" / "splits.png", dpi=130, facecolor="white")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo/repo")
