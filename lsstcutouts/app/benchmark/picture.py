"""A picture of a benchmark: cutouts a second with the ceilings, and where the time goes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...fits.stages import STAGES
from ...source.writing import atomic_file
from .entries import OURS, Entry, Profile, ceiling_of, find

__all__ = ["write_pictures"]

_OURS, _OTHERS = "#1f6fb4", "#9aa5b1"
_CEILINGS = {"bare decode": "#c1121f", "bare copy": "#2b2d42", "in memory": "#e07a00"}
_CEILING_NAMES = {
    "bare decode": "bare decode, same threads",
    "bare copy": "bare copy, same threads",
    "in memory": "tensors in memory, same DataLoader",
}
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

    bars = _grouped([e for e in entries if e.way not in _CEILINGS], _group)
    stacks = _grouped(profiles, lambda profile: _group(profile.entry))
    rows = max(len(bars), len(stacks) + 3, 6)
    figure = Figure(figsize=(17, 1.8 + 0.3 * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{subtitle}", fontsize=12)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _draw_rates(left, bars, entries, rows)
    _draw_stages(right, stacks, rows)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=110, format="png")
    return path


def _group(entry: Entry) -> str:
    """Return the heading under which a bar stands."""
    return f"{entry.density}, {entry.cache} cache" if entry.cache else f"{entry.density}, one box after another"


def _grouped[T](items: Sequence[T], group: Callable[[T], str]) -> list[T | str]:
    """Return the items with a heading before each group."""
    rows: list[T | str] = []
    for heading in dict.fromkeys(map(group, items)):
        rows += [heading, *(item for item in items if group(item) == heading)]
    return rows


def _label_rows(axes: Any, labels: Sequence[str], headings: Sequence[int], count: int) -> None:
    """Name the rows, first at the top; headings stand out."""
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(max(count, len(labels)) - 0.4, -0.6)  # as high in both panels
    axes.tick_params(axis="y", length=0)
    for row in headings:
        axes.get_yticklabels()[row].set_fontweight("bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_rates(axes: Any, rows: Sequence[Entry | str], entries: Sequence[Entry], count: int) -> None:
    """Draw a bar a regime, with its own ceilings as lines across it."""
    bars = [row for row in rows if isinstance(row, Entry)]
    least, seen = _least(bars), set[str]()
    for y, entry in enumerate(rows):
        if isinstance(entry, str):
            continue
        colour = _OURS if entry.way in OURS else _OTHERS
        low, high = entry.median - min(entry.rates), max(entry.rates) - entry.median
        axes.barh(y, entry.median, height=0.7, color=colour, xerr=[[low], [high]], ecolor="0.25", capsize=2)
        for ceiling in _ceilings(entry, entries):
            label = None if ceiling.way in seen else _CEILING_NAMES[ceiling.way]
            seen.add(ceiling.way)
            colour = _CEILINGS[ceiling.way]
            axes.plot([ceiling.median] * 2, [y - 0.44, y + 0.44], color=colour, linewidth=2.6, label=label)
        text = f"{entry.median:,.0f}" if entry.median >= 100 else f"{entry.median:.1f}"
        # Inside its bar, where no line can cross it.
        axes.text(least * 1.12, y, text, va="center", ha="left", fontsize=9, color="white", fontweight="bold")
    labels = [row if isinstance(row, str) else _bar_label(row) for row in rows]
    _label_rows(axes, labels, [y for y, row in enumerate(rows) if isinstance(row, str)], count)
    axes.set_xscale("log")
    axes.set_xlim(least, 1.5 * max(e.median for e in entries))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel("cutouts a second (median; whiskers from the slowest to the fastest run)")
    axes.grid(axis="x", which="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if seen:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9)


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
    words = [entry.order, f"{entry.threads} thread{'s' * (entry.threads > 1)}"]
    if entry.workers:
        words = [entry.order, f"{entry.workers} worker process{'es' * (entry.workers > 1)}"]
    return ", ".join(word for word in (way, *words) if word)


def _draw_stages(axes: Any, rows: Sequence[Profile | str], count: int) -> None:
    """Draw a stacked bar a regime: shares of the time of a pass, and what a cutout costs beside it."""
    profiles = [row for row in rows if isinstance(row, Profile)]
    if not profiles:
        axes.text(0.5, 0.5, "no regime without worker processes", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    planning = list(dict.fromkeys((p.entry.density, p.plan_seconds, p.entry.targets) for p in profiles))
    labels = ["before the first pass"]
    for y, (density, seconds, targets) in enumerate(planning, start=1):
        axes.barh(y, 100.0, height=0.7, color=_STAGE_COLOURS["plan"])
        axes.text(101.0, y, f"{seconds:.2f} s", va="center", fontsize=9)
        labels.append(f"plan of {targets} {density} targets")
    headings = [0]
    for y, row in enumerate(rows, start=len(labels)):
        if isinstance(row, str):
            headings.append(y)
            labels.append(row)
            continue
        _draw_stack(axes, y, row)
        axes.text(101.0, y, _per_cutout(row.total), va="center", fontsize=9)
        labels.append(_bar_label(row.entry))
    _label_rows(axes, labels, headings, count)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the time of a pass, %; beside it: time a cutout")
    handles = [_patch(_STAGE_COLOURS[stage], stage) for stage in STAGES]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False, fontsize=9)


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
