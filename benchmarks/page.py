"""Draws the pictures of docs/speed.md from the JSON of the scripts, and fills its figures in between the marks.

Run: python -m benchmarks.page peers.json kernel.json threads.json scaling.json [page=docs/speed.md]
     python -m benchmarks.page layouts.json page=docs/layouts.md
Any of the files may be left out; what a file is about stands in its name.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lsstcutouts.source.writing import atomic_file

from .layouts import CASES

__all__ = ["filled", "main"]

OURS, OTHERS, INK = ("#cfe2f3", "#9ec5e8", "#4c8fc4", "#1f5f99"), "#b4bcc8", "#1d2433"
STATES = {"new": "new memory", "first": "first epoch", "empty": "tiles decoded again", "memory": "all tiles in memory"}
SCENES = {"dense": "500 targets in one patch", "sparse": "5 targets in each of 36 patches"}

PROCESSORS = {"host": "built for this processor", "avx2": "for AVX2", "baseline": "for the x86-64 baseline"}

type Figures = Sequence[Mapping[str, Any]]


def _label(row: Mapping[str, Any]) -> str:
    if row["way"] not in {"reader", "loader"}:
        return str(row["way"])
    return f"{row['way']}, {STATES[row['tiles']]}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def _peers(figures: Figures) -> tuple[list[list[str]], Callable[[Any], None]]:
    measured = [row for row in figures if "cutouts/s" in row]
    by = {(_label(row), row["scene"]): row for row in measured}
    scenes, labels = list(dict.fromkeys(row["scene"] for row in measured)), list(dict.fromkeys(map(_label, measured)))
    table = [["cutouts/s", *scenes, *(f"reader over this, {scene}" for scene in scenes), "pixels"]]
    for label in labels:
        rows = [by.get((label, scene), {}) for scene in scenes]
        shown = [_number(row["cutouts/s"]) if row else "" for row in rows]
        told = {row["pixels"]: None for row in rows if row}
        table.append([label, *shown, *map(_ratios, rows), "; ".join(told)])
    table += [[row["way"], *[""] * 2 * len(scenes), row["pixels"]] for row in figures if "cutouts/s" not in row]
    table = [row for at, row in enumerate(table) if row not in table[:at]]

    def draw(figure: Any) -> None:
        figure.set_size_inches(11, 1.2 + 0.27 * len(labels))
        for axes, scene in zip(figure.subplots(1, len(scenes), sharey=True, squeeze=False)[0], scenes, strict=True):
            for y, label in enumerate(labels):
                row = by.get((label, scene))
                if row:
                    ours = row["way"] in {"reader", "loader"}
                    colour = OURS[list(STATES).index(row["tiles"])] if ours else OTHERS
                    axes.barh(y, row["cutouts/s"], color=colour)
                    axes.text(row["cutouts/s"] * 1.1, y, _number(row["cutouts/s"]), va="center", fontsize=8)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.set_xscale("log")
            axes.set_xlim(right=10 * axes.get_xlim()[1] / 2)
            axes.set_xlabel("cutouts/s")
            axes.set_title(f"{scene}: {SCENES[scene]}", loc="left")

    return table, draw


def _ratios(row: Mapping[str, Any]) -> str:
    return " / ".join(_number(row[name]) for name in map("ours ({}) / this".format, STATES) if name in row)


def _kernel(figures: Figures) -> tuple[list[list[str]], Callable[[Any], None]]:
    builds, decoders = (list(dict.fromkeys(row[name] for row in figures)) for name in ("built for", "decoder"))
    by = {(row["built for"], row["decoder"]): row for row in figures}
    processors = [PROCESSORS[build] for build in builds]
    table = [["us a tile", *processors]]
    table += [[name, *(_number(by[build, name]["us/tile"]) for build in builds)] for name in decoders]
    seconds = [by[build, "kernel"].get("first compilation, s", 0.0) for build in builds]
    table.append(["first compilation, s", *map(_number, seconds)])

    def draw(figure: Any) -> None:
        figure.set_size_inches(8, 3)
        axes, width = figure.subplots(), 0.8 / len(decoders)
        colours = (OURS[3], OURS[1], OTHERS, "#d8dde4")
        for at, (name, colour) in enumerate(zip(decoders, colours, strict=True)):
            places = [x + (at - (len(decoders) - 1) / 2) * width for x in range(len(builds))]
            bars = axes.bar(places, [by[build, name]["us/tile"] for build in builds], width, color=colour, label=name)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.set_xticks(range(len(builds)), processors)
        axes.set_ylabel("µs a tile")
        axes.set_title(f"RICE tile of {figures[0]['tile']} px, {figures[0]['bits/px']:.1f} bits/px", loc="left")
        axes.legend(frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.12))

    return table, draw


def _threads(figures: Figures) -> tuple[list[list[str]], Callable[[Any], None]]:
    counts = [name for name in figures[0] if name.endswith("cutouts/s")]
    ratio = next(name for name in figures[0] if name.startswith("over"))
    table = [["way", "scene", *counts, ratio]]
    for row in figures:
        shown = [_number(row[name]) for name in (*counts, ratio)]
        table.append([f"{row['way']}, {STATES[row['tiles']]}", row["scene"], *shown])

    def draw(figure: Any) -> None:
        figure.set_size_inches(9, 3)
        scenes = list(dict.fromkeys(row["scene"] for row in figures))
        for axes, scene in zip(figure.subplots(1, len(scenes), sharey=True, squeeze=False)[0], scenes, strict=True):
            mine = [row for row in figures if row["scene"] == scene]
            colours = [OURS[list(STATES).index(row["tiles"])] for row in mine]
            bars = axes.barh(
                [f"{row['way']}, {STATES[row['tiles']]}" for row in mine], [r[ratio] for r in mine], color=colours
            )
            axes.bar_label(bars, fmt=" %.2f", fontsize=8)
            axes.axvline(1, color=INK, linewidth=1, zorder=0)
            axes.margins(x=0.15)
            axes.set_xlabel(f"speed with {counts[-1].split(',')[0]}, {ratio}")
            axes.set_title(f"{scene}: {SCENES[scene]}", loc="left")
        axes.invert_yaxis()

    return table, draw


def _scaling(figures: Figures) -> tuple[list[list[str]], Callable[[Any], None]]:
    names = ("us/cutout", "us/cutout over the first", "tiles/cutout", "us/tile", "us/tile over the first")
    table = [["what varies", "tiles", "targets", *names]]
    for row in figures:
        if row["series"] != "patches":  # the picture shows the others
            continue
        shown = [_number(row[name]) if name in row else "" for name in names]
        table.append([f"{row['of']} patches", STATES[row["tiles"]], f"{row['targets']:,}", *shown])

    def draw(figure: Any) -> None:
        series = list(dict.fromkeys(row["series"] for row in figures))
        figure.set_size_inches(9, 5.5)
        for at, one in enumerate(series):
            axes = figure.add_subplot(2, 3, at + 1)
            for state in ("empty", "memory"):
                mine = [row for row in figures if (row["series"], row["tiles"]) == (one, state)]
                shown = [row["of"].replace(" + ", "\n+ ") for row in mine]
                colour = OURS[list(STATES).index(state)]
                axes.plot(shown, [row["us/cutout"] for row in mine], "o-", color=colour, label=STATES[state])
            axes.set_ylim(bottom=0)
            axes.set_xlabel(one)
            axes.tick_params(labelsize=8)
        figure.supylabel("µs a cutout, all bands", fontsize=9)
        handles, texts = max((axes.get_legend_handles_labels() for axes in figure.axes), key=lambda of: len(of[0]))
        figure.legend(handles, texts, loc="outside upper left", ncols=2, frameon=False)

    return table, draw


def _layouts(figures: Figures) -> tuple[list[list[str]], Callable[[Any], None]]:
    states = [f"{state} {case}" for state in ("warm", "cold") for case in CASES]
    ratios = ["over TensorDataset", *(f"cold {case} over read()" for case in CASES[:2])]
    columns = ("bytes/pixels", "write, s", "open, ms", *states, *ratios)
    table = [["rows/s", *columns]]
    table += [[row["layout"], *(_number(row[name]) if name in row else "" for name in columns)] for row in figures]

    def draw(figure: Any) -> None:
        figure.set_size_inches(11, 1.2 + 0.27 * len(figures))
        for axes, state in zip(figure.subplots(1, 2, sharey=True), ("warm", "cold"), strict=True):
            for at, (case, colour) in enumerate(zip(CASES, (OTHERS, OURS[1], OURS[3]), strict=True)):
                rates = [row.get(f"{state} {case}", 0.0) for row in figures]
                axes.barh([y + (at - 1) * 0.27 for y in range(len(rates))], rates, 0.27, color=colour, label=case)
            axes.set_yticks(range(len(figures)), [row["layout"] for row in figures])
            axes.set_ylim(len(figures) - 0.4, -0.6)
            axes.set_xscale("log")
            axes.set_xlabel("rows/s")
            axes.set_title(f"{state} page cache", loc="left")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)

    return table, draw


PARTS: Mapping[str, Callable[[Figures], tuple[list[list[str]], Callable[[Any], None]]]] = {
    "peers": _peers,
    "kernel": _kernel,
    "threads": _threads,
    "scaling": _scaling,
    "layouts": _layouts,
}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def filled(page: str, name: str, text: str) -> str:
    """Return a page with the text between the marks of a part replaced."""
    begin, end = f"<!-- {name}: from benchmarks -->", "<!-- end -->"
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no place for {name!r}: a line {begin} and after it a line {end}")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures and fill in the figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    given = list(sys.argv[1:] if arguments is None else arguments)
    page = Path(next((text.removeprefix("page=") for text in given if text.startswith("page=")), "docs/speed.md"))
    for path in (Path(text) for text in given if not text.startswith("page=")):
        name, found = next(name for name in PARTS if name in path.stem), json.loads(path.read_text())
        machine = found["machine"]
        (head, *rows), draw = PARTS[name](found["figures"])
        where = f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['date'][:10]}"
        with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
            figure = Figure(layout="constrained")
            draw(figure)
            figure.supxlabel(where, fontsize=7, color=INK, x=0.99, ha="right")
            with atomic_file(page.parent / "images" / f"speed-{name}.png") as part:
                figure.savefig(part, dpi=130, format="png")
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
        versions = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
        told = (
            f"{where}; commit {str(machine['commit'])[:8]}; before the run: {found['load'].split('. ')[0]}. {versions}."
        )
        page.write_text(filled(page.read_text(), name, "\n".join((*lines, "", told))))


if __name__ == "__main__":
    main()
