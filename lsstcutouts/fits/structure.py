"""Which HDU of a coadd file holds which plane, and whether the file is all there.

Files of ``lsst.images`` say so in an index table at a byte address that the primary header gives; in files
written by afw the headers are walked, over the data, until the plane is found. Planes have small letters;
the second ``MASK`` HDU (``EXTVER`` 2) is ``mask2``, and so on.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .gzipped import inflated
from .headers import BLOCK, BadStructureError, Cards, GzippedFileError, Hdu, read_hdu, table_column, table_dtype
from .source import ByteSource

__all__ = ["FileStructure", "IndexedFile", "WalkedFile", "file_structure", "table_rows"]

_MOST_HDUS = 10_000
"""An index or a file with more HDUs is not a coadd; a bound on what damaged bytes can make us read."""

_INDEX_COLUMNS = {"EXTNAME": "S", "EXTVER": "i", "HDRADDR": "i", "DATADDR": "i", "DATSIZE": "i"}
"""Names and numpy's kinds."""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """HDUs by the INDEX table of an ``lsst.images`` file.

    Attributes
    ----------
    places
        Number and first byte of the HDU of each plane.
    """

    source: ByteSource
    primary: Hdu
    places: Mapping[str, tuple[int, int]]

    def find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None."""
        if plane not in self.places:
            return None
        number, address = self.places[plane]
        hdu = read_hdu(self.source, address, number)
        if _plane(hdu.cards) != plane:
            raise BadStructureError(f"the index says that HDU {number} is {plane.upper()}, its header says otherwise")
        return hdu

    def at(self, number: int) -> Hdu | None:
        """Return the HDU of a number, the primary one is 0, or None."""
        address = next((address for n, address in self.places.values() if n == number), None)
        return None if address is None else read_hdu(self.source, address, number)


@dataclass(slots=True)
class WalkedFile:
    """HDUs by their headers, read one after the other and only as far as needed."""

    source: ByteSource
    primary: Hdu
    _hdus: list[Hdu] = field(default_factory=list)
    _known: dict[str, Hdu] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Start behind the primary HDU, which held the image before afw wrote several planes."""
        self._hdus.append(self.primary)
        if self.primary.cards.integer("NAXIS", most=999) == 2:
            self._known["image"] = self.primary

    def find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None when the file ends without one."""
        with self._lock:
            while plane not in self._known and self._step():
                pass
            return self._known.get(plane)

    def at(self, number: int) -> Hdu | None:
        """Return the HDU of a number, the primary one is 0, or None when the file ends before it."""
        with self._lock:
            while len(self._hdus) <= number and self._step():
                pass
            return self._hdus[number] if number < len(self._hdus) else None

    def check(self) -> None:
        """Walk to the end of the file.

        Raises
        ------
        BadStructureError
            The file is cut off: inside an HDU, or before the last table of the archive that the header announces.
        """
        wanted = self._announced()
        if wanted is not None and self.at(wanted - 1) is None:
            raise BadStructureError(f"truncated: {len(self._hdus)} HDUs, the headers announce {wanted}")
        if wanted is None:
            self.at(_MOST_HDUS)
            if self.source.size % BLOCK:
                # HDUs may be missing behind the cut: nothing but the file's length tells.
                raise BadStructureError(f"truncated: {self.source.size} bytes are no whole number of FITS blocks")
        # Leads of many headers and files would be megabytes; a local file is read again at once.
        self._hdus = [replace(hdu, lead=b"") for hdu in self._hdus]
        self._known = {plane: self._hdus[hdu.index] for plane, hdu in self._known.items()}

    def _announced(self) -> int | None:
        """Return the number of HDUs that an afw file must have, None where no header says.

        ``AR_HDU`` is the number, from 1, of the archive's index, whose ``AR_NCAT`` counts the tables of the archive,
        itself among them (afw, ``ExposureInfo.cc`` and ``OutputArchive.cc``). Before headers were inherited, the image
        had all keywords.
        """
        image = self.find("image")
        for cards in (self.primary.cards, image.cards if image else self.primary.cards):
            first = cards.integer("AR_HDU", 0, most=_MOST_HDUS)
            if first:
                index = self.at(first - 1)
                return first - 1 + (index.cards.integer("AR_NCAT", 1, least=1, most=_MOST_HDUS) if index else 1)
        return None

    def _step(self) -> bool:
        """Read the next header; return whether there was one."""
        at = self._hdus[-1].end
        if at >= self.source.size or len(self._hdus) > _MOST_HDUS:
            return False
        hdu = read_hdu(self.source, at, len(self._hdus))
        self._hdus.append(hdu)
        self._known.setdefault(_plane(hdu.cards), hdu)
        return True


type FileStructure = IndexedFile | WalkedFile


def file_structure(source: ByteSource, *, whole: bool) -> FileStructure:
    """Read the first header and, where there is one, the index; inflate a gzipped file first.

    Parameters
    ----------
    source
        The file; the structure's own ``source`` is another one for a gzipped file.
    whole
        Whether to make sure that no part is missing, also where this costs a read for every HDU (afw files).

    Raises
    ------
    BadStructureError
        Not a FITS file, or one that is damaged or cut off.
    """
    try:
        primary = read_hdu(source, 0, 0)
    except GzippedFileError:
        source, whole = inflated(source), True
        primary = read_hdu(source, 0, 0)
    if "INDXADDR" in primary.cards:
        return _indexed(source, primary)
    walked = WalkedFile(source, primary)
    if whole:
        walked.check()
    return walked


def _indexed(source: ByteSource, primary: Hdu) -> IndexedFile:
    """Read the index of an ``lsst.images`` file, the last HDU: where it is whole, all before it is there."""
    address = primary.cards.integer("INDXADDR")
    if address + primary.cards.integer("INDXSIZE") > source.size:
        raise BadStructureError(f"truncated: the index should start at byte {address}, the file ends at {source.size}")
    index = read_hdu(source, address, 0)
    if index.cards.string("XTENSION") != "BINTABLE" or index.cards.string("EXTNAME") != "INDEX":
        raise BadStructureError("no index table at the address that the primary header gives")
    rows = table_rows(source, index, _MOST_HDUS)
    if not set(rows.dtype.names or ()) >= _INDEX_COLUMNS.keys():
        raise BadStructureError("the index table lacks columns")
    _check_addresses(rows, source.size)
    places: dict[str, tuple[int, int]] = {}
    columns = (table_column(rows, name, _INDEX_COLUMNS[name]).tolist() for name in ("EXTNAME", "EXTVER", "HDRADDR"))
    for number, (name, version, at) in enumerate(zip(*columns, strict=True)):
        places.setdefault(_key(name.decode("ascii", "replace").rstrip(" \0"), version), (number, at))
    if "json" not in places:
        raise BadStructureError("the index names no JSON table, which describes the file")
    return IndexedFile(source, primary, places)


def _check_addresses(rows: NDArray[np.void], size: int) -> None:
    """Raise where the index names bytes outside the file."""
    header, data, length = (
        table_column(rows, name, "i").astype(np.int64) for name in ("HDRADDR", "DATADDR", "DATSIZE")
    )
    if not len(rows) or header.min() < 0 or (data < header).any() or length.min() < 0 or (data > size - length).any():
        raise BadStructureError("the index names bytes outside the file")


def table_rows(source: ByteSource, hdu: Hdu, most: int) -> NDArray[np.void]:
    """Return the rows of a small binary table.

    Raises
    ------
    BadStructureError
        It is empty, or has more than ``most`` rows or more bytes than its HDU.
    """
    dtype, count = table_dtype(hdu.cards), hdu.cards.integer("NAXIS2", most=most)
    size = count * dtype.itemsize
    if size > hdu.data_size or not size:
        raise BadStructureError(f"a table of {size} bytes in {hdu.data_size}")
    data = hdu.lead if len(hdu.lead) >= size else source.read(hdu.data_at, size)
    return np.frombuffer(data, dtype, count)


def _plane(cards: Cards) -> str:
    """Return the plane that a header announces, in small letters; old files have only EXTTYPE."""
    name, kind = cards.string("EXTNAME"), cards.string("EXTTYPE")
    # Compression calls planes without a name so; only the image has no type either.
    if name == "COMPRESSED_IMAGE":
        name = kind or "image"
    return _key(name or kind, cards.integer("EXTVER", 1))


def _key(name: str, version: int) -> str:
    """Return the plane of an HDU name; mask planes beyond the 31st are in HDUs of a higher version."""
    return name.lower() if version <= 1 else f"{name.lower()}{version}"
