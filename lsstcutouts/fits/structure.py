"""Which HDU of a coadd file holds which plane.

Files of ``lsst.images`` say so in an index table at a byte address that the primary header gives; in files
written by afw the headers are walked, over the data, until the plane is found.
"""

import threading
from dataclasses import dataclass, field

import numpy as np

from .headers import BadStructureError, Cards, Hdu, read_hdu, table_dtype
from .source import ByteSource

__all__ = ["FileStructure", "IndexedFile", "WalkedFile", "file_structure"]

_MOST_HDUS = 100_000
"""An index or a file with more HDUs is not a coadd; a bound on what damaged bytes can make us read."""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """HDUs by the INDEX table of an ``lsst.images`` file."""

    source: ByteSource
    primary: Hdu
    names: tuple[str, ...]
    addresses: tuple[int, ...]

    def find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None."""
        name = plane.upper()
        if name not in self.names:
            return None
        index = self.names.index(name)
        hdu = read_hdu(self.source, self.addresses[index], index)
        if hdu.cards.string("EXTNAME").upper() != name:
            raise BadStructureError(f"the index says that HDU {index} is {name}, its header says otherwise")
        return hdu


@dataclass(slots=True)
class WalkedFile:
    """HDUs by their headers, read one after the other and only as far as needed."""

    source: ByteSource
    primary: Hdu
    _known: dict[str, Hdu] = field(default_factory=dict)
    _next: int = 0
    _count: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Start behind the primary HDU, which held the image before afw wrote several planes."""
        self._next = self.primary.end
        if self.primary.cards.integer("NAXIS") == 2:
            self._known["image"] = self.primary

    def find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None when the file ends without one."""
        with self._lock:
            while plane not in self._known and self._next < self.source.size and self._count < _MOST_HDUS:
                hdu = read_hdu(self.source, self._next, self._count)
                self._known.setdefault(_plane(hdu.cards), hdu)
                self._next, self._count = hdu.end, self._count + 1
            return self._known.get(plane)


type FileStructure = IndexedFile | WalkedFile


def file_structure(source: ByteSource) -> FileStructure:
    """Read the first header and, where there is one, the index.

    Raises
    ------
    BadStructureError
        Not a FITS file, or one that is damaged or cut off.
    """
    primary = read_hdu(source, 0, 0)
    if "INDXADDR" not in primary.cards:
        return WalkedFile(source, primary)
    address = primary.cards.integer("INDXADDR")
    if address + primary.cards.integer("INDXSIZE") > source.size:
        raise BadStructureError(f"truncated: the index should start at byte {address}, the file ends at {source.size}")
    index = read_hdu(source, address, 0)
    rows = _rows(source, index)
    if not {"EXTNAME", "EXTVER", "HDRADDR", "DATADDR", "DATSIZE"} <= set(rows.dtype.names or ()):
        raise BadStructureError("the index table lacks columns")
    if int((rows["DATADDR"] + rows["DATSIZE"]).max(initial=0)) > source.size or int(rows["HDRADDR"].min(initial=0)) < 0:
        raise BadStructureError("the index names bytes outside the file")
    # Mask planes beyond the 31st are in HDUs of the same name and a higher version.
    names = [name.decode("ascii", "replace").rstrip(" \0").upper() for name in rows["EXTNAME"].tolist()]
    keys = tuple(name if version == 1 else "" for name, version in zip(names, rows["EXTVER"].tolist(), strict=True))
    return IndexedFile(source, primary, keys, tuple(rows["HDRADDR"].tolist()))


def _rows(source: ByteSource, hdu: Hdu) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """Return the rows of a small binary table."""
    if hdu.cards.string("XTENSION") != "BINTABLE" or hdu.cards.string("EXTNAME") != "INDEX":
        raise BadStructureError("no index table at the address that the primary header gives")
    dtype, count = table_dtype(hdu.cards), hdu.cards.integer("NAXIS2", most=_MOST_HDUS)
    size = count * dtype.itemsize
    data = hdu.lead if len(hdu.lead) >= size else source.read(hdu.data_at, size)
    return np.frombuffer(data, dtype, count)


def _plane(cards: Cards) -> str:
    """Return the plane that an afw header announces, in small letters; old files have only EXTTYPE."""
    name, kind = cards.string("EXTNAME"), cards.string("EXTTYPE")
    # Compression calls planes without a name so; only the image has no type either.
    if name == "COMPRESSED_IMAGE":
        name = kind or "image"
    return (name or kind).lower()
