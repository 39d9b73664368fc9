"""What a benchmark found: for people, for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .entries import OURS, Entry, Profile, butler_of, ceiling_of, ratio
from .figure import Figure
from .settings import Settings
from .shuffle import ShuffleEntry

__all__ = ["BenchmarkResult"]


@dataclass(frozen=True)
class BenchmarkResult:
    """Everything that a benchmark measured.

    Attributes
    ----------
    settings, machine
        What was asked for, and where.
    entries
        Cutouts a second of each way in each regime.
    profiles
        Where the time goes, for each regime without worker processes.
    figures
        Further figures: hit rate, planning, time to the first batch, cost by size of the catalog, waiting.
    advice
        What limits, and which setting to change.
    further
        Other figures, as plain values: the cost of the stage profile, details of the training loop.
    left_out
        What could not be measured, and why.
    files
        What was written.
    shuffles
        What each width of the shuffle costs and gives.
    """

    settings: Settings
    machine: Mapping[str, Any]
    entries: Sequence[Entry]
    profiles: Sequence[Profile]
    figures: Sequence[Figure]
    advice: Sequence[str]
    further: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    files: Sequence[str] = ()
    shuffles: Sequence[ShuffleEntry] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "machine": dict(self.machine),
            "settings": asdict(self.settings),
            "entries": [entry.as_dict(self.entries) for entry in self.entries],
            "profiles": [profile.as_dict() for profile in self.profiles],
            "figures": [figure.as_dict() for figure in self.figures],
            "advice": list(self.advice),
            "further": dict(self.further),
            "left_out": list(self.left_out),
            "files": list(self.files),
        }

    def shown(self) -> Group:
        """Return the result for people: a table a scene, further figures, and words."""
        scenes = list(dict.fromkeys(entry.scene for entry in self.entries))
        parts: list[Any] = [part for scene in scenes for part in (Text(), self._table(scene))]
        if self.figures:
            parts += [Text(), self._figure_table(), Text()]
        if self.shuffles:
            parts += [Text(), self._shuffle_table(), Text()]
        parts += [Text(f"- {text}") for text in self.advice]
        parts += [Text(f"not measured: {text}", style="dim") for text in self.left_out]
        parts += [Text(f"written: {path}", style="dim") for path in self.files]
        return Group(*parts)

    def _table(self, scene: tuple[str, str, int, str]) -> Table:
        entries = [entry for entry in self.entries if entry.scene == scene]
        release, density, size, planes = scene
        title = (
            f"{release} {density}, {size} px, planes: {planes} (medians of {max(len(e.rates) for e in entries)} runs)"
        )
        # Narrow enough for a terminal of 80 columns.
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
        headings = ("way", "regime", "thr", "wrk", "cutouts/s", "min .. max", "/ceil", "/butler")
        for heading in headings:
            table.add_column(heading, justify="left" if heading in {"way", "regime"} else "right", no_wrap=True)
        for entry in entries:
            style = "bold" if entry.way in OURS else ""
            table.add_row(*self._row(entry), style=style)
        return table

    def _row(self, entry: Entry) -> list[str]:
        ceiling = ratio(entry, ceiling_of(entry, self.entries))
        butler = ratio(entry, butler_of(entry, self.entries))
        return [
            entry.way,
            f"{entry.cache} {entry.order}".strip(),
            str(entry.threads),
            str(entry.workers),
            _rate(entry.median),
            f"{_short(min(entry.rates))} .. {_short(max(entry.rates))}",
            "" if ceiling is None else f"{ceiling:.2f}",
            "" if butler is None else f"{butler:,.0f}" if butler >= 10 else f"{butler:.1f}",
        ]

    def _figure_table(self) -> Table:
        table = Table(
            title="Further figures", title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False
        )
        table.add_column("figure")
        table.add_column("measured", justify="right", no_wrap=True)
        for figure in self.figures:
            words = Text(figure.what)
            if figure.detail:
                words.append(f"\n  {figure.detail}", style="dim")
            table.add_row(words, f"{_number(figure.value)}{f' {figure.unit}' if figure.unit else ''}")
        return table

    def _shuffle_table(self) -> Table:
        title = f"Shuffling (medians of {len(self.shuffles[0].rates)} runs)"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
        for heading in ("width", "distance", "correlation", "decodes a tile", "cutouts/s"):
            table.add_column(heading, justify="left" if heading == "width" else "right")
        for entry in self.shuffles:
            numbers = f"{entry.distance:.3f}", f"{entry.correlation:.3f}", f"{entry.decodes:.2f}", _rate(entry.rate)
            table.add_row(entry.name, *numbers)
        return table


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else _rate(value)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
