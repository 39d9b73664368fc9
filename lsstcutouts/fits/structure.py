"""Finds the HDU of each plane in a coadd file.

Files of ``lsst.images`` say so in an index table at a byte address that the primary header gives; in all others, and
where the index is missing or damaged, the headers are read one after the other until the plane is found. Planes
have small letters; the second ``MASK`` HDU (``EXTVER`` 2) is ``mask2``, and so on.

Only the HDUs that are asked for are checked: cutouts keep the keywords of the coadd that they were cut from, and
not its archive. Other headers are only used to explain why an HDU is missing.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..source.byte_source import ByteSource, LocalSource
from ..source.gzipped import inflate
from .headers import BLOCK, BadStructureError, GzippedFileError, Hdu, NoHeaderError, read_hdu, table_column, table_dtype

__all__ = ["FileStructure", "file_structure", "table_rows"]

_MOST_HDUS = 10_000
"""An index or a file with more HDUs is not a coadd; a bound on what damaged bytes can make us read."""

_INDEX_COLUMNS = {"EXTNAME": "S", "EXTVER": "i", "HDRADDR": "i", "DATADDR": "i", "DATSIZE": "i"}
"""Names and numpy's kinds."""


@dataclass(slots=True)
class FileStructure:
    """HDUs by the index, or by their headers, read one after the other and only as far as needed.

    Attributes
    ----------
    primary
        The first HDU.
    """

    source: ByteSource
    primary: Hdu
    _places: Mapping[str, tuple[int, int]] | None = None
    _hdus: list[Hdu] = field(default_factory=list)
    _known: dict[str, Hdu] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Start after the primary HDU, which held the image before afw wrote several planes."""
        self._hdus.append(self.primary)
        if self.primary.cards.integer("NAXIS", most=999) == 2:
            self._known["image"] = self.primary

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """Number and first byte of the HDU of each plane, by the INDEX table; empty where the headers have to be walked."""
        if self._places is None:
            self._places = _index(self.source, self.primary)
        return self._places

    def find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None where the file has no such one.

        Raises
        ------
        BadStructureError
            A header on the way to it is damaged.
        """
        with self._lock:
            if plane == "image" and plane not in self._known and (hdu := self._second()) is not None:
                return hdu
            if plane in self.places and (hdu := self._indexed(plane)) is not None:
                return hdu
            # The HDUs of one mask follow each other: no need to read the HDUs after them.
            previous = self._known.get(_before(plane), self.primary).index if plane.startswith("mask") else 0
            while not (self.places or plane in self._known or 0 < previous < len(self._hdus) - 1) and self._step():
                pass
            # A single image needs no name: cfitsio, fpack and fitsio give a compressed one none.
            return self._known.get(plane) or (self._known.get("") if plane == "image" else None)

    def at(self, number: int) -> Hdu | None:
        """Return the HDU of a number, the primary one is 0, or None when the file ends before it."""
        with self._lock:
            while len(self._hdus) <= number and self._step():
                pass
            return self._hdus[number] if number < len(self._hdus) else None

    def cut_off(self) -> str:
        """Return why HDUs may be missing after the last one, in words; empty where nothing says so.

        ``AR_HDU`` is the number, from 1, of the index of the archive, which follows the planes in files written by afw
        (``ExposureInfo.cc``). Before headers were inherited, the image had all keywords.
        """
        if self.places:
            return ""  # the index comes last: where it is whole, all before it is there
        self.at(_MOST_HDUS)
        image, size = self._known.get("image", self.primary), self.source.size
        announced = max(hdu.cards.integer("AR_HDU", 0, most=_MOST_HDUS) for hdu in (self.primary, image))
        if self._hdus[-1].cut:
            return self._hdus[-1].cut
        if announced > len(self._hdus):
            return f"truncated, or cut out of a larger file: {len(self._hdus)} HDUs, the headers announce {announced}"
        if (address := self.primary.cards.integer("INDXADDR", 0)) >= size:
            return f"truncated: the index should start at byte {address}, the file ends at {size}"
        if self._hdus[-1].end < size:
            return f"damaged, or something else follows the last HDU: no FITS header at byte {self._hdus[-1].end}"
        return f"truncated: {size} bytes are not a multiple of the FITS block size" if size % BLOCK else ""

    def _second(self) -> Hdu | None:
        """Return the HDU after the primary one if it is the image, as in most files: no need to read the index."""
        try:
            hdu = self._step() if len(self._hdus) == 1 else None
        except BadStructureError:
            return None
        return hdu if hdu is not None and "image" in self._known else None

    def _indexed(self, plane: str) -> Hdu | None:
        """Return the HDU that the index names; None, and no index from then on, where it is another one."""
        number, address = self.places[plane]
        try:
            hdu = read_hdu(self.source, address, number)
        except NoHeaderError:
            hdu = None
        if hdu is None or _plane(hdu) != plane:
            # HDUs were moved by a program that knows nothing of the index, such as astropy.
            self._places = {}
            return None
        return hdu

    def _step(self) -> Hdu | None:
        """Read the next header, if there is one."""
        at = self._hdus[-1].end
        if at >= self.source.size or len(self._hdus) > _MOST_HDUS:
            return None
        try:
            hdu = read_hdu(self.source, at, len(self._hdus))
        except NoHeaderError:
            return None  # the standard allows special records after the last HDU, and readers of FITS ignore the rest
        # Of many headers and files, the first bytes of the data would be megabytes; a local file is read again at once.
        kept = replace(hdu, lead=b"") if isinstance(self.source, LocalSource) else hdu
        self._known.setdefault(_plane(hdu), kept)
        self._hdus.append(kept)
        return hdu


def file_structure(source: ByteSource) -> FileStructure:
    """Read the first header; inflate a gzipped file first.

    Parameters
    ----------
    source
        The file; the structure's own ``source`` is another one for a gzipped file.

    Raises
    ------
    BadStructureError
        Not a FITS file.
    """
    try:
        primary = read_hdu(source, 0, 0)
    except GzippedFileError:
        source = inflate(source)
        primary = read_hdu(source, 0, 0)
    return FileStructure(source, primary)


def _index(source: ByteSource, primary: Hdu) -> dict[str, tuple[int, int]]:
    """Return number and first byte of the HDUs that the index of an ``lsst.images`` file names, the last HDU.

    Empty if the index is missing, damaged or belongs to another file: the headers have the same information.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        address = primary.cards.integer("INDXADDR", 0)
        if not 0 < address < source.size:
            return {}
        rows = table_rows(source, read_hdu(source, address, 0), _MOST_HDUS)
        if not set(rows.dtype.names or ()) >= _INDEX_COLUMNS.keys():
            return {}
        columns = [table_column(rows, name, kind).tolist() for name, kind in _INDEX_COLUMNS.items()]
        _check_addresses(rows, source.size)
    except BadStructureError:
        return {}
    for number, (name, version, at, _, _) in enumerate(zip(*columns, strict=True)):
        places.setdefault(_key(name.decode("ascii", "replace").rstrip(" \0"), version), (number, at))
    return places


def _check_addresses(rows: NDArray[np.void], size: int) -> None:
    """Raise where the index names bytes outside the file."""
    header, data, length = (
        table_column(rows, name, "i").astype(np.int64) for name in ("HDRADDR", "DATADDR", "DATSIZE")
    )
    if not len(rows) or header.min() < 0 or (data < header).any() or length.min() < 0 or (data > size - length).any():
        raise BadStructureError("the index names bytes outside the file")


def table_rows(source: ByteSource, hdu: Hdu, most: int) -> NDArray[np.void]:
    """Return the rows of a small binary table, ``(rows,)`` structured.

    Raises
    ------
    BadStructureError
        It is empty, cut off, or has more than ``most`` rows or more bytes than its HDU.
    """
    if hdu.cut:
        raise BadStructureError(hdu.cut)
    dtype, count = table_dtype(hdu.cards), hdu.cards.integer("NAXIS2", most=most)
    size = count * dtype.itemsize
    if size > hdu.data_size or not size:
        raise BadStructureError(f"the table needs {size} bytes, but its HDU has {hdu.data_size}")
    data = hdu.lead if len(hdu.lead) >= size else source.read(hdu.data_at, size)
    return np.frombuffer(data, dtype, count)


def _plane(hdu: Hdu) -> str:
    """Return the plane that a header announces, in small letters; old files have only EXTTYPE.

    Nothing for an image without either; ``?`` for anything else without a name.
    """
    name, kind = hdu.cards.string("EXTNAME"), hdu.cards.string("EXTTYPE")
    # Compression calls planes without a name so; only the image has no type either.
    if name == "COMPRESSED_IMAGE":
        name = kind or "image"
    if not (name or kind):
        is_image = hdu.cards.get("ZIMAGE") is True or hdu.cards.string("XTENSION") == "IMAGE"
        return "" if is_image and len(hdu.axes) == 2 and not hdu.is_empty else "?"
    return _key(name or kind, hdu.cards.integer("EXTVER", 1))


def _before(plane: str) -> str:
    """Return the plane that comes before ``mask2``, ``mask3``, ...; the plane itself where it is none of these."""
    number = plane.removeprefix("mask")
    return plane if not number.isdecimal() else "mask" if number == "2" else f"mask{int(number) - 1}"


def _key(name: str, version: int) -> str:
    """Return the plane of an HDU name; mask planes beyond the 31st are in HDUs of a higher version."""
    return name.lower() if version <= 1 else f"{name.lower()}{version}"
