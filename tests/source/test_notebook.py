"""Tables and figures for notebooks."""

import copy
import pickle
import threading
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from lsstcutouts.source.notebook import html_table, new_figure


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, _attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def cells(*values: object) -> list[str]:
    tags = Tags(html_table("T", [("name", *values)]))
    assert not tags.open
    assert tags.seen == {"div", "b", "table", "tr", "th", "td"}
    assert tags.texts[:2] == ["T", "name"]
    return tags.texts[2:]


def test_a_table_holds_each_cell_as_text() -> None:
    assert cells(1_000_000, 0.123456789, True, None, ("g", "r"), []) == [
        "1,000,000", "0.123457", "True", "none", "g, r", "none",
    ]  # fmt: skip
    assert cells("<script>alert('&')</script>") == ["<script>alert('&')</script>"]
    assert "<tr><th" in html_table("T", [], ["a"])


def test_a_table_shows_no_secrets_and_asks_no_foreign_object() -> None:
    assert cells("https://me:word@host/repo?X-Amz-Signature=abc") == ["https://host/repo?..."]

    class Foreign:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    assert cells(Foreign(), [Foreign()]) == ["Foreign", "Foreign"]


def test_long_texts_are_shortened() -> None:
    (text,) = cells("x" * 1000)
    assert len(text) == 120
    assert text.endswith("…")


@pytest.mark.parametrize("changed", [lambda f: f, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_figure_gives_its_own_image_also_copied_and_in_a_thread(changed) -> None:
    images: list[bytes] = []

    def draw() -> None:
        figure = new_figure(2, 1)
        figure.add_subplot().plot([0, 1])
        image = figure._repr_png_()  # type: ignore[attr-defined]
        figure = changed(figure)
        assert isinstance(figure, Figure)
        assert vars(figure)["_repr_png_"]() == image
        figure.axes[0].plot([1, 0])
        assert vars(figure)["_repr_png_"]() != image
        images.append(image)

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert images[0].startswith(b"\x89PNG")
