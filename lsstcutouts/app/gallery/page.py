"""A gallery as one HTML file: pictures to look through, filter and label in a browser, without a server or network."""

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...source.writing import atomic_file
from .entry import Entry

__all__ = ["write_page"]

_SCRIPTS = ("page.js", "page_labels.js", "page_keys.js")

_BLOCK = 50
"""Targets in one element of the page: few elements, and little text to split when the first of them comes into view."""

_EXACT = 2**53
"""Integers beyond it lose digits as a number of JavaScript."""


def write_page(path: str | os.PathLike[str], entries: Iterable[Entry], *, title: str, total: int | None = None) -> Path:
    """Write a page that shows targets and takes labels, and return its path.

    The page is complete in itself: it works from a disk, without network. Pictures are WebP without loss. Entries are
    written as they come, so the memory does not grow with their number. The file appears when it is complete.

    Parameters
    ----------
    path
        Output file; missing folders are created.
    entries
        Targets in the order of the page.
    title
        Title of the page.
    total
        Number of targets of which the entries are a part. The page says so if it is larger than their number.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    head, tail = _template("page.html").split("<!-- data -->")
    head = head.replace("/* style */", _template("page.css")).replace("<!-- title -->", html.escape(title))
    tail = tail.replace("/* script */", "\n".join(map(_template, _SCRIPTS)))
    fingerprint, planes = hashlib.sha256(), dict[str, None]()
    with atomic_file(path) as part, part.open("wb") as file:
        file.write(head.encode("ascii", "xmlcharrefreplace"))
        for block in batched(entries, _BLOCK):
            for entry in block:
                position = [_value(entry.values.get(name)) for name in ("ra", "dec")]
                fingerprint.update(_json([_value(entry.object_id), *position]))
                planes |= dict.fromkeys(entry.outlines)
            _write_data(file, "entries", _json([_described(entry) for entry in block]))
            _write_data(file, "pictures", b"\n".join(_json(_pictures(entry)) for entry in block))
        about = {"fingerprint": fingerprint.hexdigest(), "block": _BLOCK, "total": total, "planes": list(planes)}
        file.write(b'<script type="application/json" id="page">' + _json(about) + b"</script>\n")
        file.write(tail.encode("ascii"))
    return Path(path)


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("ascii")


def _write_data(file: io.BufferedWriter, kind: str, text: bytes) -> None:
    file.write(b'<script type="application/json" class="%s">%s</script>\n' % (kind.encode(), text))


def _json(value: Any) -> bytes:
    """Return ASCII that no parser of HTML takes for the end of the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").encode()


def _described(entry: Entry) -> dict[str, Any]:
    """Return what the page needs of an entry before its pictures come into view."""
    y, x = entry.panels[0].image.shape[:2]
    return {
        "id": _value(entry.object_id),
        "row": int(entry.row),
        "caption": entry.caption,
        "values": [[name, _value(value)] for name, value in entry.values.items()],
        "size": [x, y],
        "target": _rounded(entry.target),
        "north": entry.north and _rounded(entry.north),
        "east": entry.east and _rounded(entry.east),
        "scale": entry.pixel_scale,
        "panels": [[panel.label, panel.missing] for panel in entry.panels],
    }


def _pictures(entry: Entry) -> Mapping[str, Any]:
    height = entry.panels[0].image.shape[0]
    return {
        "panels": [_webp(panel.image) for panel in entry.panels],
        "outlines": {name: "".join(_line(one, height) for one in lines) for name, lines in entry.outlines.items()},
    }


def _webp(image: NDArray[np.uint8]) -> str:
    """Return an image ``(Y, X, 3)`` as WebP in base64, its first row at the bottom.

    Without loss: WebP with loss halves the resolution of the colours, by 10 of 255 at 64 pixels in noise. Of PNG, with
    its smallest settings, bands are 2.2 times and composites 1.02 times as large.
    """
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(np.flipud(image)).save(encoded, "WEBP", lossless=True, quality=50, method=2)
    return base64.b64encode(encoded.getvalue()).decode()


def _line(line: NDArray[np.float32], height: int) -> str:
    """Return a closed line ``(n, 2)`` of pixel positions as the path of a drawing whose y axis points down."""
    points = np.round(line * (1, -1) + (0.5, height - 0.5), 2)
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points.tolist()) + "Z"


def _rounded(pair: tuple[float, float]) -> list[float]:
    return [round(float(one), 4) for one in pair]


def _value(value: Any) -> Any:
    """Return a value for JSON: NaN as null; what JSON or numbers of JavaScript cannot hold as a list of its text."""
    if isinstance(value, np.floating):
        value = float(str(value))  # the shortest digits: 0.1 of float32, not 0.10000000149011612
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else [str(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else [f"{'-' * (value < 0)}Infinity"]
    return str(value)
