"""A figure of a batch in one call."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError
from ...plan.arguments import parse_bands
from .entries import as_array, entries_of, valid_pixels
from .pictures import Pictures, PictureStyle
from .sheet import Layout, draw_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show"]


def show(
    batch: Mapping[str, Any],
    bands: str | Sequence[str] | None = None,
    *,
    captions: Sequence[Any] | None = None,
    colours: Sequence[str] | None = None,
    title: str = "",
    limit: int = 40,
    columns: int = 8,
    width: float = 10.0,
    panels: str = "colour",
    rgb: Sequence[str] | None = None,
    stretch: str = "asinh",
    scale: str = "all",
    circle: float | None = None,
) -> "Figure":
    """Return a figure of the cutouts of a batch, north up as on the tract; a notebook displays it.

    Parameters
    ----------
    batch
        ``image`` ``(N, B, Y, X)``, array or tensor on any device, before the normalisation. With ``object_id`` there are captions, with ``wcs``,
        ``ra`` and ``dec`` also a scale bar and arrows to north and east.
    bands
        Names of the B channels, in their order; by default their numbers.
    captions
        A text or number for each cutout, in their order; by default its id.
    colours
        Colour of each caption.
    title
        Text above the pictures.
    limit
        Most cutouts: the first ones.
    columns
        Pictures from left to right.
    width
        Of the figure, inches.
    panels, rgb, stretch, scale
        As in `gallery`.
    circle
        Radius of a circle around each target, arcsec.

    Raises
    ------
    ConfigurationError
        If the batch has no cutouts, or the arguments do not fit it.
    """
    if not isinstance(batch, Mapping):
        raise ConfigurationError(f"show takes a batch, a dictionary with 'image', got {type(batch).__name__}")
    if "image" not in batch:
        raise ConfigurationError(
            f"the batch has no 'image', only {', '.join(batch)}; read it with planes=('image', ...)"
        )
    for name, number in (("limit", limit), ("columns", columns)):
        if number < 1:
            raise ConfigurationError(f"{name}={number!r} must be at least 1")
    images = as_array(batch["image"])
    if images.ndim != 4 or not len(images):
        raise ConfigurationError(f"image of the batch must be (N, B, Y, X) with N >= 1, got {images.shape}")
    names = tuple(map(str, range(images.shape[1]))) if bands is None else parse_bands(bands)
    if len(names) != images.shape[1]:
        raise ConfigurationError(
            f"bands={bands!r} are {len(names)} names, but the batch has {images.shape[1]} channels"
        )
    real = ~as_array(batch["is_padding"]).astype(bool) if "is_padding" in batch else np.ones(len(images), bool)
    kept = np.flatnonzero(real)[:limit]
    if not len(kept):
        raise ConfigurationError("the batch holds only padding")
    if captions is None:
        captions = (
            [str(one) for one in as_array(batch["object_id"]).tolist()] if "object_id" in batch else [""] * len(images)
        )
    for name, texts in (("captions", captions), ("colours", colours)):
        if isinstance(texts, str):
            raise ConfigurationError(f"{name}={texts!r} must be a list with one text for each cutout")
        if texts is not None and len(texts) != len(images):
            raise ConfigurationError(f"{name}= has {len(texts)} texts for {len(images)} cutouts; give one for each")
    # Also a column of a table, whose own index may be another one.
    captions = [str(one) for one in captions]
    colours = None if colours is None else list(colours)
    chosen = {
        name: as_array(batch[name])[kept]
        for name in ("image", "valid", "object_id", "ra", "dec", "wcs")
        if name in batch
    }
    pictures = Pictures(names, PictureStyle(panels, rgb, stretch, scale), valid_pixels(chosen))
    entries = list(entries_of(chosen, pictures, captions=[captions[i] for i in kept.tolist()]))
    layout = Layout(
        width,
        None,
        across=columns if pictures.count == 1 else max(columns, pictures.count),
        lines=max(entry.caption.count("\n") + 1 for entry in entries),
        margin=0.1,
        circle=circle,
    ).of_panels(entries[0])
    chosen_colours = None if colours is None else [colours[i] for i in kept.tolist()]
    return draw_sheet(entries, layout, title=title, colours=chosen_colours)
