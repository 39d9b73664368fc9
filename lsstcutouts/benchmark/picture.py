"""A picture of a benchmark: cutouts a second with the ceilings, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..stages import STAGES
from ..writing import whole_file
from .entries import OURS, Entry, Profile, ceiling_of, find

__all__ = ["write_pictures"]

_OURS, _OTHERS = "#1f6fb4", "#9aa5b1"
_CEILINGS = {"bare decode": "#c1121f", "bare copy": "#2b2d42", "in memory": "#e07a00"}
_STAGE_COLOURS = {
    "plan": "#b8b8b8",
    "locate": "#8d99ae",
    "read": "#2a9d8f",
    "decode": "#1f6fb4",
    "assemble": "#7cb518",
    "collate": "#f4a261",
    "hand-over": "#e76f51",
    "device": "#7b2cbf",
}


def write_pictures(
    folder: Path, entries: Sequence[Entry], profiles: Sequence[Profile], title: str, subtitle: str
) -> list[Path]:
    """Write a PNG for each release, size and choice of planes.

    Parameters
    ----------
    folder
        Where.
    entries, profiles
        Of one run.
    title, subtitle
        Lines above the picture.

    Returns
    -------
    list of Path
        The files: ``benchmark.png``, and others named after what they show.
    """
    written = list[Path]()
    for release, size, planes in dict.fromkeys((e.release, e.size, e.planes) for e in entries):
        chosen = [e for e in entries if (e.release, e.size, e.planes) == (release, size, planes)]
        own = [p for p in profiles if (p.entry.release, p.entry.size, p.entry.planes) == (release, size, planes)]
        name = f"benchmark-{release}-{size}-{planes}.png" if written else "benchmark.png"
        about = f"{title}: {release}, {size} px, {'image plane' if planes == 'image' else 'image, variance and mask'}"
        written.append(_write(folder / name, chosen, own, about, subtitle))
    return written


def _write(path: Path, entries: Sequence[Entry], profiles: Sequence[Profile], title: str, subtitle: str) -> Path:
    # The object-oriented interface: no window, no global state, any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [e for e in entries if e.way not in _CEILINGS]
    planning = list(dict.fromkeys((p.entry.density, p.plan_seconds, p.entry.targets) for p in profiles))
    rows = max(len(bars), len(profiles) + len(planning), 4)
    figure = Figure(figsize=(17, 2.6 + 0.36 * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n", fontsize=14, fontweight="bold")
    figure.text(0.5, 1 - 0.46 / figure.get_figheight(), subtitle, ha="center", va="top", fontsize=10, color="0.35")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_rates(left, bars, entries)
    _draw_stages(right, profiles, planning)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, format="png")
    return path


def _draw_rates(axes: Any, bars: Sequence[Entry], entries: Sequence[Entry]) -> None:
    """Draw a bar a regime, with its own ceilings as lines across it."""
    seen = set[str]()
    for y, entry in enumerate(bars):
        colour = _OURS if entry.way in OURS else _OTHERS
        low, high = entry.median - min(entry.rates), max(entry.rates) - entry.median
        axes.barh(y, entry.median, height=0.68, color=colour, xerr=[[low], [high]], ecolor="0.25", capsize=2)
        for ceiling in _ceilings(entry, entries):
            label = None if ceiling.way in seen else f"{ceiling.way} (on as many cores)"
            seen.add(ceiling.way)
            colour = _CEILINGS[ceiling.way]
            axes.plot([ceiling.median] * 2, [y - 0.44, y + 0.44], color=colour, linewidth=2.6, label=label)
        text = f"{entry.median:,.0f}" if entry.median >= 100 else f"{entry.median:.1f}"
        # Inside its bar, where no line can cross it.
        axes.text(_least(bars) * 1.12, y, text, va="center", ha="left", fontsize=9, color="white", fontweight="bold")
    axes.set_yticks(range(len(bars)), [_bar_label(e) for e in bars], fontsize=9)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(_least(bars), 1.5 * max(max(e.rates) for e in entries))
    axes.set_xlabel("cutouts a second (median; whiskers from the slowest to the fastest run)")
    axes.grid(axis="x", which="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if seen:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def _least(bars: Sequence[Entry]) -> float:
    """Return where the axis begins: the shortest bar still has room for its number."""
    return min(min(e.rates) for e in bars) / 4


def _ceilings(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Return the ceilings that concern a bar: what its ratio is taken of, and for warm loaders the tensors in memory."""
    found = [ceiling_of(entry, entries)]
    if entry.way == "loader" and entry.cache == "warm":
        found.append(find(entries, "in memory", scene=entry.scene, order=entry.order, workers=entry.workers))
    return [one for one in found if one is not None]


def _bar_label(entry: Entry) -> str:
    way = {"loader": "DataLoader", "reader": "reader"}.get(entry.way, entry.way)
    return f"{entry.density}  {way}, {entry.label}"


def _draw_stages(axes: Any, profiles: Sequence[Profile], planning: Sequence[tuple[str, float, int]]) -> None:
    """Draw a stacked bar a regime: shares of the time of a pass, and what a cutout costs beside it."""
    if not profiles:
        axes.text(0.5, 0.5, "no regime without worker processes", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    labels = []
    for y, (density, seconds, targets) in enumerate(planning):
        axes.barh(y, 100.0, height=0.68, color=_STAGE_COLOURS["plan"])
        axes.text(101.0, y, f"{seconds:.2f} s", va="center", fontsize=9)
        labels.append(f"{density}  plan, once for {targets} targets")
    for y, profile in enumerate(profiles, start=len(planning)):
        _draw_stack(axes, y, profile)
        axes.text(101.0, y, _per_cutout(profile.total), va="center", fontsize=9)
        labels.append(f"{profile.entry.density}  {profile.entry.label}")
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 116)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the time of a pass, %; beside it: time a cutout")
    handles = [_patch(_STAGE_COLOURS[stage], stage) for stage in STAGES]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.46, 1.0), ncols=len(STAGES), frameon=False, fontsize=9,
                handlelength=1.0, columnspacing=0.9, handletextpad=0.4)  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_stack(axes: Any, y: int, profile: Profile) -> None:
    at = 0.0
    for stage in STAGES:
        share = 100.0 * profile.share(stage)
        axes.barh(y, share, left=at, height=0.68, color=_STAGE_COLOURS[stage])
        if share >= 6.0:
            axes.text(at + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=9, color="white")
        at += share


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _per_cutout(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} µs"
