"""The picture of a benchmark: cutouts/s of each way, and where the loader's time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...source.writing import atomic_file
from .result import BenchmarkEntry

__all__ = ["write_picture"]

_COLOURS = {
    "locate": "#8d99ae",
    "read": "#2a9d8f",
    "decode": "#1f6fb4",
    "assemble": "#7cb518",
    "collate": "#f4a261",
    "device": "#7b2cbf",
    "other": "#e76f51",
}


def write_picture(path: Path, entries: Sequence[BenchmarkEntry], title: str) -> Path:
    """Write a PNG with a bar for each way, and beside the loader's bars the shares of the stages."""
    # The object-oriented interface: no window, no global state, any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.4 + 0.38 * len(entries)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.1, 1))
    _draw_rates(left, entries)
    _draw_stages(right, entries)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=120, format="png")
    return path


def _draw_rates(axes: Any, entries: Sequence[BenchmarkEntry]) -> None:
    for y, entry in enumerate(entries):
        low, high = entry.median - min(entry.rates), max(entry.rates) - entry.median
        colour = "#1f6fb4" if entry.way in {"loader", "reader"} else "#9aa5b1"
        axes.barh(y, entry.median, height=0.7, color=colour, xerr=[[low], [high]], ecolor="0.25", capsize=2)
        text = f"{entry.median:,.0f}" if entry.median >= 100 else f"{entry.median:.1f}"
        axes.text(max(entry.rates) * 1.15, y, text, va="center", fontsize=9)
    axes.set_yticks(
        range(len(entries)), [f"{e.label}\n({e.cache} cache)" if e.cache else e.label for e in entries], fontsize=9
    )
    axes.set_ylim(len(entries) - 0.4, -0.6)  # the first at the top
    axes.set_xscale("log")
    axes.set_xlim(min(min(e.rates) for e in entries) / 3, 5 * max(max(e.rates) for e in entries))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel("cutouts/s (median; whiskers: slowest and fastest run)")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_stages(axes: Any, entries: Sequence[BenchmarkEntry]) -> None:
    from matplotlib.patches import Patch

    for y, entry in enumerate(entries):
        if entry.stages is None:
            continue
        at = 0.0
        for stage, colour in _COLOURS.items():
            share = 100 * entry.stages.share(stage)
            axes.barh(y, share, left=at, height=0.7, color=colour)
            if share >= 7:
                axes.text(at + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=9, color="white")
            at += share
        axes.text(102, y, f"{entry.stages.threads_used:.1f} of {entry.threads} threads used", va="center", fontsize=8)
    axes.set_xlim(0, 145)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the work of all threads, %")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    seen = {stage for entry in entries if entry.stages for stage, value in entry.stages.seconds.items() if value}
    handles = [Patch(color=colour, label=stage) for stage, colour in _COLOURS.items() if stage in seen]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False, fontsize=8)
