"""Galleries: cutouts of chosen targets with captions, for print, as image files, or as a page for the browser."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import batched
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...catalog.ids import take_rows
from ...errors import ConfigurationError, CoverageError
from ...plan.arguments import SizeLike
from ...plan.read_options import ReadOptions
from ...read.export import file_stem
from ...read.options import ReaderOptions
from ...read.reader import CutoutReader, Delivery, Request, default_threads, stream
from ...read.report import Report
from ...source.progress import Update, progress_bar
from ...source.writing import atomic_file
from .entries import entries_of, valid_pixels, with_valid
from .entry import Entry
from .gallery_targets import GalleryTargets, Source, find_targets
from .page import write_page
from .pictures import Pictures, PictureStyle
from .sheet import Layout, draw_sheet

__all__ = ["GalleryResult", "gallery"]

_PAPER = {"a4": (8.27, 11.69), "letter": (8.5, 11.0)}
"""Width and height, inches."""

_BATCH, _BATCH_BYTES = 40, 64e6
"""Most targets of a batch, and about the most bytes of its pixels."""
_SAMPLE = 48
"""Targets from which the scale of all is measured."""


@dataclass(frozen=True)
class GalleryResult:
    """What a gallery shows.

    Attributes
    ----------
    report
        What happened to each chosen target that has pixels.
    total
        Rows of the catalog that ``select`` and ``cone`` keep.
    outside
        Ids of chosen rows without pixels, with the reason.
    files
        Files that were written, in order.
    """

    report: Report
    total: int
    outside: tuple[tuple[int | str, str], ...]
    files: tuple[str, ...]

    @property
    def targets(self) -> int:
        """Number of targets that are shown."""
        return self.report.delivered

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        outside = [{"object_id": identity, "reason": reason} for identity, reason in self.outside]
        return {
            "targets": self.targets,
            "total": self.total,
            "outside": outside,
            "files": list(self.files),
            "report": self.report.as_dict(),
        }

    def __str__(self) -> str:
        lines = [f"{self.targets:,} targets of {self.total:,} rows"]
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        lines.append(f"  written: {self.files[0]}{more}")
        for reason in dict.fromkeys(reason for _, reason in self.outside):
            ids = [str(identity) for identity, other in self.outside if other == reason]
            rest = f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""
            lines.append(f"  {len(ids):,} not shown ({reason}): {', '.join(ids[:5])}{rest}")
        if losses := self.report.losses():
            lines.append(f"  {losses}")
        return "\n".join(lines)


def gallery(
    catalog: Any,
    output: str | os.PathLike[str],
    *,
    repo: Any = None,
    collections: str | Sequence[str] | None = None,
    bands: str | Sequence[str] | None = None,
    size: SizeLike | None = None,
    dataset_type: str | None = None,
    select: str | None = None,
    cone: Sequence[float] | None = None,
    sort: str | Sequence[str] = (),
    limit: int | None = None,
    caption: str | Sequence[str] | None = None,
    title: str = "",
    panels: str = "colour",
    rgb: Sequence[str] | None = None,
    stretch: str = "asinh",
    scale: str = "all",
    outline: Sequence[str] = (),
    circle: float | None = None,
    columns: int | None = None,
    page: str = "a4",
    ra: str | None = None,
    dec: str | None = None,
    object_id: str | None = None,
    unit: Any = None,
    read: ReadOptions = ReadOptions(on_read_error="mask"),
    threads: int | None = None,
    progress: bool = True,
) -> GalleryResult:
    r"""Draw the cutouts of some rows of a catalog with captions.

    Parameters
    ----------
    catalog
        As `Catalog.from_any` takes it; a table of predictions knows its repository. None for the rows of an export.
    output
        ``x.pdf``: pages for print; ``x.png``: the same as images, ``x-001.png`` and so on if there are several; ``x.html``: one page for
        the browser, to look through and label; a folder: a PNG for each target, named by its id. What exists is replaced.
    repo, collections, bands, size, dataset_type
        As in `build_plan`, or an export as ``repo``. By default those of the predictions or the export, and ``"ugrizy"``, 64 pixels and
        ``"deep_coadd"``.
    select, cone
        Rows to choose from, as in `Catalog.from_any`.
    sort
        Columns to sort by, ``"-score"`` from the largest on; missing values come last.
    limit
        Most targets that are shown; by default all.
    caption
        Names of columns, or text with names in braces, as in ``"{object_id}\\n{score:.3f}"``; by default the id and the columns of
        ``sort``.
    title
        Text above the pictures; by default what is shown.
    panels, rgb, stretch, scale
        As in `PictureStyle`.
    outline
        Mask planes whose pixels, in any band, are outlined, such as ``["SATURATED", "COSMIC_RAY"]``.
    circle
        Radius of a circle around each target, arcsec; by default there is none.
    columns
        Pictures from left to right; by default 5, and 1 target with all of its bands.
    page
        Paper: ``"a4"`` or ``"letter"``.
    ra, dec, object_id, unit
        As in `Catalog.from_any`.
    read
        Options for reading. By default pixels of unreadable files are missing, and the result says which files.
    threads
        Decoding threads; by default one for each core.
    progress
        Whether a bar is shown.

    Raises
    ------
    ConfigurationError
        If a setting is invalid or does not fit the catalog.
    CatalogError, RepositoryError, CoverageError, ReadError
        As `build_plan` and `CutoutReader`.
    WriteError
        If a file cannot be written.
    """
    style = PictureStyle(panels, rgb, stretch, scale)
    keys, outlined = _names(sort), _names(outline)
    kind = _kind(output)
    if page not in _PAPER:
        raise ConfigurationError(f"page={page!r} must be one of {', '.join(_PAPER)}")
    if columns is not None and (isinstance(columns, bool) or not isinstance(columns, int)):
        raise ConfigurationError(
            f"columns={columns!r} must be the number of pictures from left to right; caption= names columns of the catalog"
        )
    for name, value in (("columns", columns), ("circle", circle)):
        if value is not None and not value > 0:
            raise ConfigurationError(f"{name}={value!r} must be larger than 0")
    source = Source(catalog, repo, collections, bands, size, dataset_type, ra, dec, object_id, unit, read)
    targets = find_targets(source, select=select, cone=cone, sort=keys, limit=limit)
    plan = targets.plan
    captions = _captions(targets, caption, keys)
    options = ReaderOptions.of(
        replace(read, mask_planes=outlined),
        planes=with_valid(plan, ("image", "mask") if outlined else ("image",)),
        columns=(),
    )
    reader = CutoutReader(plan, options, whole_tiles=True)
    most = max(1, int(_BATCH_BYTES / (4 * len(plan.bands) * plan.size.y * plan.size.x)))
    spread = np.unique(np.linspace(0, len(targets) - 1, min(_SAMPLE, most, len(targets))).astype(np.int64))
    sample = valid_pixels(reader.read(targets.target[spread])) if scale == "all" else None
    pictures = Pictures(plan.bands, style, sample)
    report = Report(plan, targets.target)
    layout = Layout(
        *_PAPER[page],
        across=columns or (5 if pictures.count == 1 else pictures.count),
        panels=pictures.count,
        aspect=plan.size.y / plan.size.x,
        lines=max(text.count("\n") + 1 for text in captions),
        circle=circle,
        outline=outlined,
    )
    title = title or _title(targets, keys)
    parts = np.split(np.arange(len(targets)), range(min(_BATCH, most), len(targets), min(_BATCH, most)))
    entries = _read(targets, parts, captions, pictures, reader, outlined, threads or default_threads(), report)
    with closing(entries), progress_bar("drawing", len(targets), shown=progress) as update:
        shown = _counting(entries, update)
        if kind == "html":
            files = [write_page(output, shown, title=title, total=targets.total)]
        elif kind == "folder":
            files = list(_write_each(Path(output), shown, layout, repeats=bool(plan.repeats_ids)))
        else:
            files = list(_write_sheets(Path(output), shown, layout, title, len(targets)))
    return GalleryResult(report, targets.total, tuple(targets.outside), tuple(map(str, files)))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _kind(output: str | os.PathLike[str]) -> str:
    """Return "pdf", "png", "html" or "folder"."""
    text = os.fspath(output)
    suffix = Path(text).suffix.lower()
    if suffix in {".pdf", ".png", ".html", ".htm"}:
        return {".htm": "html"}.get(suffix, suffix[1:])
    if suffix and not text.endswith("/") and not Path(text).is_dir():
        raise ConfigurationError(
            f"output={text!r} has no known format; choose a name that ends in .pdf, .png or .html, or a folder: a name that ends in /"
        )
    return "folder"


def _title(targets: GalleryTargets, sort: Sequence[str]) -> str:
    """Return the name of the catalog, how many of its rows are shown, and by what they are sorted."""
    label = Path(targets.label).name if isinstance(targets.label, str) else "catalog"
    by = [f"{key[1:]}, largest first" if key.startswith("-") else key for key in sort]
    return f"{label}: {len(targets):,} of {targets.total:,} rows" + (f", by {'; '.join(by)}" if by else "")


def _captions(targets: GalleryTargets, caption: str | Sequence[str] | None, sort: Sequence[str]) -> list[str]:
    """Return the caption of each target.

    Raises
    ------
    ConfigurationError
        If it names a column that the catalog does not have, or a format does not fit its values.
    """
    if caption is None:
        caption = list(dict.fromkeys(["object_id", *(key.removeprefix("-") for key in sort)]))
    template = caption.replace("\\n", "\n") if isinstance(caption, str) and "{" in caption else None
    named = _names(caption)
    try:
        used = (
            named if template is None else [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        )
    except ValueError as error:
        raise ConfigurationError(f"caption={caption!r} is not a valid format: {error}") from error
    known = ["object_id", *targets.values(0), "row"]
    if unknown := [name for name in used if name not in known]:
        raise ConfigurationError(
            f"caption={caption!r}: the catalog has no column {unknown[0]!r}; it has {', '.join(known)}"
        )
    found = []
    for i in range(len(targets)):
        values = {"object_id": targets.object_id(i), "row": int(targets.row[i]), **targets.values(i)}
        if template is None:
            lines = (_shown(values[n]) if n == "object_id" else f"{n} {_shown(values[n])}" for n in used)
            found.append("\n".join(lines))
            continue
        try:
            found.append(template.format_map(values))
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ConfigurationError(
                f"caption={caption!r} does not fit the values of target {values['object_id']}: {error}"
            ) from error
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "-" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def _read(
    targets: GalleryTargets,
    parts: Sequence[NDArray[np.int64]],
    captions: Sequence[str],
    pictures: Pictures,
    reader: CutoutReader,
    outline: Sequence[str],
    threads: int,
    report: Report,
) -> Generator[Entry]:
    """Yield the entries of a gallery in its order, a part at a time read and made in threads; add what happened to a report."""

    def made(delivery: Delivery) -> tuple[Delivery, list[Entry]]:
        batch = delivery.batch
        kept = np.flatnonzero(~np.asarray(batch["is_padding"]))
        chosen = {name: take_rows(values, kept) for name, values in batch.items()}
        places = np.asarray(chosen["place"]).tolist()
        return delivery, list(
            entries_of(
                chosen,
                pictures,
                captions=[captions[i] for i in places],
                values=[targets.values(i) for i in places],
                rows=[int(targets.row[i]) for i in places],
                outline=outline,
            )
        )

    requests = (Request(targets.target[part], columns={"place": part}) for part in parts)
    with closing(stream(reader, requests, threads=threads, ahead=2, then=made)) as batches:  # type: ignore[type-var]
        for delivery, entries in batches:
            report.add(delivery.batch_report)
            yield from entries
    if not report.delivered:
        raise CoverageError(f"none of the {len(targets)} targets is left to show: {report.losses()}")


def _counting(entries: Iterable[Entry], update: Update) -> Iterator[Entry]:
    for done, entry in enumerate(entries, 1):
        yield entry
        update(done)


def _write_each(folder: Path, entries: Iterable[Entry], layout: Layout, *, repeats: bool) -> Iterator[Path]:
    """Write a picture of each target, named by its id, and yield the paths."""
    width = 2 * layout.margin + layout.panels * 2.0
    alone = replace(layout, width=width, height=None, across=layout.panels, margin=0.05)
    for entry in entries:
        path = folder / f"{file_stem(entry.object_id)}{f'_row{entry.row}' * repeats}.png"
        with atomic_file(path) as part:
            draw_sheet([entry], alone).savefig(part, format="png", dpi=150)
        yield path


def _write_sheets(path: Path, entries: Iterable[Entry], layout: Layout, title: str, count: int) -> Iterator[Path]:
    """Write pages of a PDF, or of PNG files, and yield the paths."""
    from matplotlib.backends.backend_pdf import PdfPages

    on_page = (layout.rows or 1) * layout.targets_across
    pages = -(-count // on_page)
    sheets = enumerate(batched(entries, on_page), 1)
    if path.suffix.lower() == ".pdf":
        with atomic_file(path) as part, PdfPages(part, metadata={"Title": title}) as pdf:
            for number, some in sheets:
                pdf.savefig(draw_sheet(some, layout, title=title, foot=f"{number} of {pages}", raw=True))
        yield path
        return
    for number, some in sheets:
        alone = path if pages == 1 else path.with_name(f"{path.stem}-{number:03d}{path.suffix}")
        foot = "" if pages == 1 else f"{number} of {pages}"
        with atomic_file(alone) as part:
            image = replace(layout, height=None, margin=0.2)
            draw_sheet(some, image, title=title, foot=foot).savefig(part, format="png", dpi=200)
        yield alone
