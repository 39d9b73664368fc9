"""Draw ``images/architecture.png``, the picture of ``architecture.md``, from the imports in the code."""

from collections import Counter
from pathlib import Path
from textwrap import fill

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tools.house import imports, sources

ROOT = Path(__file__).parents[1]
INK, GREY, BLUE, GREEN, ORANGE = "#1d2433", "#9aa3b2", "#dbe7f5", "#dff0e4", "#fbe8d3"

PLACES = {
    "errors": (1.5, 0),
    "catalog": (0, 1),
    "sky": (1, 1),
    "source": (2, 1),
    "order": (3, 1),
    "fits": (1.5, 2),
    "plan": (1.5, 3),
    "testing": (0, 4),
    "read": (2, 4),
    "transforms": (3, 5),
    "loader": (2, 6),
    "models": (3, 7),
    "bulk": (1, 7),
    "app": (2, 8),
}
"""Column and row of each room."""

FLOW = (
    ("catalog", "targets"),
    ("plan", "boxes and files"),
    ("order", "which targets when"),
    ("source", "bytes"),
    ("fits", "tiles"),
    ("read", "arrays, report"),
    ("loader", "tensors on the device"),
    ("transforms", "normalised batch"),
    ("models", "a training"),
)

WIDTH, HEIGHT, STEP_X, STEP_Y = 2.1, 0.72, 2.9, 1.3
FLOW_Y = 1.9
"""Height of the row that shows the way of a batch; the first row of rooms is at 0."""


def centre(room: str) -> tuple[float, float]:
    """Return where a room is drawn."""
    column, row = PLACES[room]
    return column * STEP_X, -row * STEP_Y


def links() -> Counter[tuple[str, str]]:
    """Return how many files of a room import another room, for each pair."""
    found: set[tuple[str, str, Path]] = set()
    for one in imports(sources(ROOT)):
        room, target = one.file.parts[0], Path(one.target).parts[0]
        if one.own and not one.typing and room != target and {room, target} <= set(PLACES):
            found.add((room, target, one.file))
    return Counter((room, target) for room, target, _ in found)


def reduced(pairs: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the pairs that no chain of two other pairs implies, so that the picture stays readable."""
    direct: dict[str, set[str]] = {room: {b for a, b in pairs if a == room} for room in PLACES}
    beyond = {room: {c for b in direct[room] for c in _below(b, direct)} for room in PLACES}
    return {(a, b): n for (a, b), n in pairs.items() if b not in beyond[a]}


def _below(room: str, direct: dict[str, set[str]]) -> set[str]:
    return direct[room] | {c for b in direct[room] for c in _below(b, direct)}


def badge(ax: Axes, x: float, y: float, number: int) -> None:
    """Draw the number of a step."""
    style = {"boxstyle": "circle,pad=0.25", "facecolor": ORANGE, "edgecolor": INK, "lw": 0.8}
    ax.text(x, y, str(number), ha="center", va="center", fontsize=9, weight="bold", zorder=4, bbox=style)


def draw(ax: Axes) -> None:
    """Draw the way of a batch in one row, and below it rooms and imports."""
    number = {room: i + 1 for i, (room, _) in enumerate(FLOW)}
    step = (3 * STEP_X + WIDTH) / len(FLOW)
    for i, (room, result) in enumerate(FLOW):
        x = -WIDTH / 2 + (i + 0.5) * step
        badge(ax, x, FLOW_Y, i + 1)
        ax.text(x, FLOW_Y - 0.32, room, ha="center", va="center", fontsize=9, weight="bold")
        ax.text(x, FLOW_Y - 0.5, fill(result, 11), ha="center", va="top", fontsize=8, linespacing=1.15)
        if i:
            ends = (x - step + 0.2, FLOW_Y), (x - 0.2, FLOW_Y)
            ax.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, color=INK, lw=1.1))
    for (a, b), count in reduced(links()).items():
        (xa, ya), (xb, yb) = centre(a), centre(b)
        same_row = abs(ya - yb) < 1e-6
        start = (xa + (WIDTH / 2 if xb > xa else -WIDTH / 2), ya) if same_row else (xa, ya + HEIGHT / 2)
        end = (xb + (-WIDTH / 2 if xb > xa else WIDTH / 2), yb) if same_row else (xb, yb - HEIGHT / 2)
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color=GREY, lw=0.7 + 0.06 * count, zorder=1
        )
        ax.add_patch(arrow)
    for room in PLACES:
        x, y = centre(room)
        colour = GREEN if room in {"transforms", "loader", "bulk", "models", "app"} else BLUE
        box = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.1",
            facecolor=colour,
            edgecolor=INK,
            lw=0.8,
            zorder=2,
        )
        ax.add_patch(box)
        ax.text(x, y, room, ha="center", va="center", fontsize=12, weight="bold", zorder=3)
        if room in number:
            badge(ax, x - WIDTH / 2, y + HEIGHT / 2, number[room])
    ax.set_xlim(-WIDTH, 3 * STEP_X + WIDTH)
    ax.set_ylim(-8 * STEP_Y - 1.3, FLOW_Y + 0.4)
    ax.axis("off")
    ax.text(
        -WIDTH / 2,
        -8 * STEP_Y - 1.0,
        "Top: the way of a batch, and what each room adds to it. Below: the rooms. A grey arrow points to a room that is imported, as the\n"
        "code has it; imports that a chain of arrows implies are left out, and a wide arrow is many files. Only green rooms need torch.",
        fontsize=9,
        color=INK,
        va="center",
    )


def main() -> None:
    """Write the picture."""
    with plt.rc_context({"font.family": "DejaVu Sans", "text.color": INK}):
        figure, ax = plt.subplots(figsize=(10.5, 10.5), layout="constrained")
        draw(ax)
        figure.savefig(ROOT / "docs" / "images" / "architecture.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
