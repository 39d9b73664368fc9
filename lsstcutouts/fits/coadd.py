"""One coadd file: its grid, its planes and their pixels."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from lsstcutouts.errors import (
    ConfigurationError,
    CorruptFileError,
    LsstCutoutsError,
    PlaneError,
    UnsupportedFormatError,
)
from lsstcutouts.geom import YX, Box, TanProjection

from .codecs import decode_tiles, rice_padding
from .fallback import AstropyReader
from .headers import BadStructureError, Cards, Hdu, UnknownFeatureError
from .layout import PLANES, PlaneLayout
from .source import ByteSource, open_source, read_extents
from .structure import FileStructure, file_structure
from .tables import plane_layout, table_size
from .wcs import array_origin, astropy_wcs, tan_projection

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from lsst.resources import ResourcePath

__all__ = ["Coadd", "open_coadd"]


def open_coadd(uri: "str | os.PathLike[str] | ResourcePath", *, size: int | None = None) -> "Coadd":
    """Open a coadd file of any Rubin release.

    Only the headers that are needed are read; the pixels stay where they are.

    Parameters
    ----------
    uri
        A path, or a URI that ``lsst.resources`` reads.
    size
        Bytes that the file should have; None or less than one where that is not known.

    Raises
    ------
    MissingFileError
        There is no such file.
    CorruptFileError
        It is not FITS, is shorter than its own structure says, or not of ``size`` bytes.
    UnsupportedFormatError
        It is FITS, but no coadd: no image plane, or no place on a tract's pixel grid.
    """
    source = open_source(uri)
    try:
        _check_size(source, size)
        return Coadd(source)
    except LsstCutoutsError:
        source.close()
        raise


def _check_size(source: ByteSource, size: int | None) -> None:
    """Refuse a file whose size is not the recorded one."""
    if size is not None and size > 0 and size != source.size:
        raise CorruptFileError(f"{source.uri} has {source.size} bytes; the repository recorded {size}")


class Coadd:
    """An open coadd file. Any number of threads may read from it.

    A context manager; a coadd that is dropped closes its file as well. Closing while another thread reads is not
    safe: drop the coadd instead.

    Attributes
    ----------
    uri
        Where the file is.
    bbox
        Its pixels, tract pixels, as the file says.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.uri = source.uri
        self._lock = threading.Lock()
        self._hdus: dict[str, Hdu | None] = {}
        self._layouts: dict[str, PlaneLayout] = {}
        self._astropy = AstropyReader(source)
        with self._named("image"):
            self._structure: FileStructure = file_structure(source)
        image = self._hdu("image")
        with self._named("image"):
            shape = _image_shape(image.cards)
            self.bbox = Box.from_start(array_origin(image.cards), shape)

    @property
    def planes(self) -> tuple[str, ...]:
        """Which of image, mask and variance the file holds."""
        return tuple(plane for plane in PLANES if self._find(plane) is not None)

    @cached_property
    def projection(self) -> TanProjection:
        """The gnomonic projection over tract pixels.

        Raises
        ------
        UnsupportedFormatError
            The file's WCS is another projection or has distortions.
        """
        with self._named("image"):
            return tan_projection(self._wcs_cards, self.bbox.start)

    @cached_property
    def wcs(self) -> "WCS":
        """The file's WCS over 0-based tract pixels, for astropy."""
        with self._named("image"):
            return astropy_wcs(self._wcs_cards, self.bbox.start)

    @cached_property
    def mask_planes(self) -> dict[str, int]:
        """Bits of the mask plane by name: ``MSKN``/``MSKM`` cards of ``lsst.images``, ``MP_`` cards of afw.

        Raises
        ------
        PlaneError
            The file has no mask plane.
        """
        cards = self._hdu("mask").cards
        with self._named("mask"):
            return _mask_planes(cards)

    def unit(self, plane: str) -> str:
        """Return the unit of a plane (``BUNIT``), an empty string where the file gives none."""
        return self._hdu(plane).cards.string("BUNIT")

    def layout(self, plane: str) -> PlaneLayout:
        """Return where and how the pixels of a plane are stored.

        Raises
        ------
        PlaneError
            The file has no such plane.
        CorruptFileError
            Its header or its tile table is damaged.
        UnsupportedFormatError
            It is not a two-dimensional image.
        """
        known = self._layouts.get(plane)
        if known is not None:
            return known
        hdu = self._hdu(plane)
        with self._named(plane):
            size = table_size(hdu)
            table = hdu.lead if len(hdu.lead) >= size else self._source.read(hdu.data_at, size)
            layout = plane_layout(plane, hdu, table, self._source.size)
            if layout.shape != self.bbox.shape:
                raise BadStructureError(f"{layout.shape} pixels, the image has {self.bbox.shape}")
            if (origin := array_origin(hdu.cards, self.bbox.start)) != self.bbox.start:
                raise BadStructureError(f"first pixel {origin}, the image's is {self.bbox.start}")
        self._hdus[plane] = replace(hdu, lead=b"")
        return self._layouts.setdefault(plane, layout)

    def read(self, plane: str, box: Box | None = None) -> NDArray[Any]:
        """Return pixels of a plane, decoding only the tiles under the box.

        Parameters
        ----------
        plane
            ``image``, ``mask`` or ``variance``.
        box
            In tract pixels; the whole plane by default. It may not leave `bbox`.

        Returns
        -------
        pixels
            ``box.shape``; float32 in the unit of the plane, int32 for the mask.

        Raises
        ------
        ConfigurationError
            The box is empty or leaves `bbox`.
        PlaneError
            The file has no such plane.
        CorruptFileError
            A tile is damaged.
        """
        box = self.bbox if box is None else Box(*box)
        if box.is_empty or not self.bbox.contains(box):
            raise ConfigurationError(f"{box} is empty or not inside {self.bbox}, the pixels of {self.uri}")
        layout, wanted = self.layout(plane), box.relative_to(self.bbox.start)
        tiles = layout.tiles_under(wanted)
        pixels = self._decode(layout, [tiles])[0]
        inside = wanted.slices(layout.pixels_of(tiles).start)
        return pixels if pixels.shape == wanted.shape else pixels[inside].copy()

    def read_units(self, plane: str, units: Sequence[int]) -> list[NDArray[Any]]:
        """Return decoded cache units, C-contiguous and read-only, in the order asked for.

        Parameters
        ----------
        plane
            ``image``, ``mask`` or ``variance``.
        units
            Numbers of units, row by row over ``layout(plane).unit_grid``.

        Raises
        ------
        ConfigurationError
            There is no unit of this number.
        PlaneError
            The file has no such plane.
        CorruptFileError
            A tile is damaged; the message names it.
        """
        layout = self.layout(plane)
        for unit in units:
            if not 0 <= unit < layout.units:
                raise ConfigurationError(f"unit {unit} of {plane}, which has {layout.units}, of {self.uri}")
        arrays = self._decode(layout, [layout.tiles_under(layout.unit_box(unit)) for unit in units])
        for array in arrays:
            array.flags.writeable = False
        return arrays

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._astropy.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Coadd {self.uri} {self.bbox}>"

    @property
    def _wcs_cards(self) -> Hdu:
        """The header with the celestial WCS: the image's, in old files the primary one."""
        image = self._hdu("image")
        return image if "CTYPE1" in image.cards else self._structure.primary

    def _find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None."""
        with self._lock, self._named(plane):
            if plane not in self._hdus:
                self._hdus[plane] = self._structure.find(plane)
            return self._hdus[plane]

    def _hdu(self, plane: str) -> Hdu:
        """Return the HDU of a plane that has to be there."""
        if plane not in PLANES:
            raise PlaneError(f"no plane is called {plane!r}; the planes of a coadd are {', '.join(PLANES)}")
        hdu = self._find(plane)
        if hdu is None and plane == "image":
            raise UnsupportedFormatError(f"{self.uri} has no image plane: not a coadd, or not of a known layout")
        if hdu is None:
            raise PlaneError(f"{self.uri} has no {plane} plane; it has {', '.join(self.planes)}")
        return hdu

    def _decode(self, layout: PlaneLayout, rectangles: Sequence[Box]) -> list[NDArray[Any]]:
        """Return the pixels of rectangles in the grid of tiles."""
        with self._named(layout.plane):
            if layout.fallback:
                return [self._astropy.read(layout, layout.pixels_of(tiles)) for tiles in rectangles]
            numbers = [_tile_numbers(layout, tiles) for tiles in rectangles]
            flat = numbers[0] if len(numbers) == 1 else [tile for each in numbers for tile in each]
            padding = rice_padding(layout.rice[0]) if layout.compression == "RICE_1" else b""
            streams = read_extents(self._source, layout.offsets[flat].tolist(), layout.sizes[flat].tolist(), padding)
            arrays, at = [], 0
            for tiles, members in zip(rectangles, numbers, strict=True):
                arrays.append(decode_tiles(layout, tiles, members, streams[at : at + len(members)]))
                at += len(members)
            return arrays

    def _named(self, plane: str) -> "_Named":
        return _Named(self.uri, plane)


class _Named:
    """Turn the room's own exceptions of the block into the package's, with file and plane."""

    __slots__ = ("_plane", "_uri")

    def __init__(self, uri: str, plane: str) -> None:
        self._uri, self._plane = uri, plane

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadStructureError):
            raise CorruptFileError(f"{self._uri}: {self._plane} plane: {error}") from error
        if isinstance(error, UnknownFeatureError):
            raise UnsupportedFormatError(f"{self._uri}: {self._plane} plane: {error}") from error


def _tile_numbers(layout: PlaneLayout, tiles: Box) -> list[int]:
    """Return the numbers of the tiles of a rectangle, row by row."""
    width = layout.tile_grid.x
    if tiles.x1 - tiles.x0 == 1:
        return list(range(tiles.y0 * width + tiles.x0, tiles.y1 * width + tiles.x0, width))
    return [y * width + x for y in range(tiles.y0, tiles.y1) for x in range(tiles.x0, tiles.x1)]


def _image_shape(cards: Cards) -> YX[int]:
    """Return the shape of the image, from its own or its compressed keywords."""
    prefix = "Z" if cards.get("ZIMAGE") is True else ""
    return YX(cards.integer(f"{prefix}NAXIS2"), cards.integer(f"{prefix}NAXIS1"))


def _mask_planes(cards: Cards) -> dict[str, int]:
    """Return the bit of each mask plane by name."""
    planes: dict[str, int] = {}
    for key in cards:
        if key.startswith("MSKN") and key[4:].isdigit():
            value = cards.integer(f"MSKM{key[4:]}", 1 << int(key[4:]), least=1)
            planes[cards.string(key)] = value.bit_length() - 1
        elif key.startswith("MP_"):
            planes[key[3:]] = cards.integer(key, most=63)
    return planes
