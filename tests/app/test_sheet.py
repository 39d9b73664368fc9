"""What a sheet draws, in inches: places of pictures, scale bars, circles, arrows and texts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lsstcutouts.app.gallery.entry import Entry, Panel
from lsstcutouts.app.gallery.sheet import Layout, draw_sheet

LAYOUT = Layout(8.0, None, across=4, aspect=20 / 30, margin=0.5, gap=0.1)
SCALE = (7.0 - 0.3) / 4 / 30
"""Inches per pixel."""


def entry(number: int, panels: int = 1, **changes: object) -> Entry:
    image = np.full((20, 30, 3), number, np.uint8)
    one = Entry(
        object_id=number,
        row=number,
        caption=str(number),
        values={},
        panels=tuple(Panel(f"band {i}", image) for i in range(panels)),
        target=(12.0, 7.0),
        north=(0.6, 0.8),
        east=(-0.8, 0.6),
        pixel_scale=0.2,
        outlines={},
    )
    return replace(one, **changes)


def lines(figure: Figure) -> list[np.ndarray]:
    """Return what is drawn in white, ``(n, 2)`` inches each."""
    white = [one for one in figure.axes[0].collections if isinstance(one, LineCollection)][1]
    return [path.vertices for path in white.get_paths()]


def test_pictures_stand_in_rows() -> None:
    figure = draw_sheet([entry(i) for i in range(6)], LAYOUT)
    found = {int(image.get_array()[0, 0, 0]): image.get_extent() for image in figure.axes[0].images}
    assert len(found) == 6
    width, height = 30 * SCALE, 20 * SCALE
    for i, (left, right, bottom, top) in found.items():
        row, column = divmod(i, 4)
        assert left == pytest.approx(0.5 + column * (width + 0.1))
        assert (right - left, top - bottom) == pytest.approx((width, height))
        assert figure.get_figheight() - top == pytest.approx(0.5 + row * LAYOUT.row)
    assert min(bottom for _, _, bottom, _ in found.values()) > 0.5


def test_bars_circles_and_arrows_have_their_lengths() -> None:
    figure = draw_sheet([entry(3)], replace(LAYOUT, circle=1.4))
    (left, _, bottom, _) = figure.axes[0].images[0].get_extent()
    circle, bar, north, east = lines(figure)
    centre = np.array([left + 12.5 * SCALE, bottom + 7.5 * SCALE])  # the middle of pixel (12, 7)
    np.testing.assert_allclose(np.hypot(*(circle - centre).T), 7 * SCALE)
    text = next(one.get_text() for one in figure.axes[0].texts if one.get_text().endswith('"'))
    assert np.ptp(bar[:, 0]) == pytest.approx(float(text[:-1]) / 0.2 * SCALE)
    assert np.ptp(bar[:, 0]) <= 0.4 * 30 * SCALE
    for arrow, way in ((north, (0.6, 0.8)), (east, (-0.8, 0.6))):
        shaft = arrow[1] - arrow[0]
        assert shaft / np.hypot(*shaft) == pytest.approx(way)


def test_a_circle_stays_on_its_panel() -> None:
    figure = draw_sheet([entry(1), entry(2)], replace(LAYOUT, circle=2.5))
    for image, circle in zip(figure.axes[0].images, lines(figure)[::4], strict=True):
        left, right, bottom, top = image.get_extent()
        seen = circle[np.isfinite(circle).all(axis=1)]
        assert 10 < len(seen) < len(circle)
        assert ((seen >= (left - 1e-9, bottom - 1e-9)) & (seen <= (right + 1e-9, top + 1e-9))).all()


def test_the_panels_of_a_target_are_one_image_with_names_in_the_first_row() -> None:
    layout = replace(LAYOUT, across=3, gap=0.2).of_panels(entry(0, 3))
    figure = draw_sheet([entry(i, 3) for i in range(2)], layout)
    assert [image.get_array().shape[1] % 30 for image in figure.axes[0].images] == [
        2 * round(0.2 / (layout.panel[0] / 30)) % 30
    ] * 2
    texts = [one.get_text() for one in figure.axes[0].texts]
    assert texts.count("band 1") == 1
    assert [one for one in texts if one in {"0", "1"}] == ["0", "1"]


def test_outlines_are_in_the_colours_of_their_names() -> None:
    square = np.array([(2, 3), (6, 3), (6, 8), (2, 8), (2, 3)], np.float32)
    one = entry(1, outlines={"B": (square,)})
    figure = draw_sheet([one], replace(LAYOUT, outline=("A", "B")))
    collection = figure.axes[0].collections[-1]
    (path,) = collection.get_paths()
    left, _, bottom, _ = figure.axes[0].images[0].get_extent()
    np.testing.assert_allclose(path.vertices, (square + 0.5) * SCALE + (left, bottom), rtol=1e-5)
    named = {text.get_text(): text for text in figure.axes[0].texts}
    assert collection.get_edgecolor()[0] == pytest.approx((0x56 / 255, 0xB4 / 255, 0xE9 / 255, 1))
    assert named["B"].get_color() == "#56B4E9"


def test_without_a_wcs_there_are_neither_bar_nor_arrows() -> None:
    bare = entry(1, north=None, east=None, pixel_scale=None)
    assert lines(draw_sheet([bare], replace(LAYOUT, circle=1.0))) == []


def test_long_captions_are_shortened_and_rows_fit_on_the_paper() -> None:
    figure = draw_sheet([entry(1, caption="7" * 200 + "\n$a$")], LAYOUT, title="t" * 500, foot="1 of 1")
    texts = [one.get_text() for one in figure.axes[0].texts]
    caption = next(one for one in texts if one.startswith("77"))
    assert caption.endswith("\n$a$")
    figure.canvas.draw()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= 8.0 * figure.dpi
    paper = replace(LAYOUT, height=6.0)
    tops = [0.28 + 0.5 + row * paper.row for row in range(paper.rows + 1)]
    assert all(top + paper.row <= 6.0 - 0.5 + 1e-9 for top, _ in pairwise(tops))
