"""Files that are gzipped as a whole (``.fits.gz``): inflated once, then read like any local file."""

import io
import os
import tempfile
import weakref
import zlib
from typing import Any

from ..errors import CorruptFileError, UnsupportedFormatError, WriteError
from .byte_source import ByteSource, LocalSource, SourceFile

__all__ = ["MAX_INFLATED_BYTES", "inflate"]

MAX_INFLATED_BYTES = 4 << 30
"""Bytes that a gzipped file may inflate to: twenty times a DP0.2 coadd (4200 x 4200 pixels in three planes).

gzip shrinks zeros a thousandfold, so that without a bound a damaged or hostile file of a few megabytes fills a disk.
"""

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


class InflatedSource(LocalSource):
    """The content of a gzipped file in a temporary file without a name, which is gone when it is closed or dropped."""

    def __init__(self, fd: int, uri: str) -> None:
        self.uri = uri
        self._fd = fd
        self._finalizer = weakref.finalize(self, os.close, fd)
        self.size = os.fstat(fd).st_size


def inflate(source: ByteSource) -> InflatedSource:
    """Return the content of a gzipped file and close the file.

    It is written to the folder for temporary files (``TMPDIR``), one megabyte of memory at a time.

    Raises
    ------
    CorruptFileError
        The file is cut off, or its checksum is not that of its content.
    UnsupportedFormatError
        The content is larger than `MAX_INFLATED_BYTES`.
    WriteError
        There is no room for it.
    """
    with _temporary(source.uri) as file:
        _write_content(source, file)
        content = InflatedSource(os.dup(file.fileno()), source.uri)
    source.close()
    return content


def _temporary(uri: str) -> "io.FileIO":
    """Return an open temporary file without a name and without a buffer."""
    try:
        return tempfile.TemporaryFile("w+b", buffering=0)
    except OSError as error:
        raise _write_error(uri, error) from error


def _write_content(source: ByteSource, file: "io.FileIO") -> None:
    """Write the content of a gzipped file to another; like gzip, ignore what follows its last member."""
    with io.BufferedReader(SourceFile(source), _CHUNK) as raw:
        data = raw.read(_CHUNK)
        while data.startswith(_GZIP):
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                chunk = _next_chunk(member, data, source.uri)
                if file.tell() + len(chunk) > MAX_INFLATED_BYTES:
                    raise UnsupportedFormatError(f"{source.uri} inflates to more than {MAX_INFLATED_BYTES} bytes")
                try:
                    _write(file, chunk)
                except OSError as error:
                    raise _write_error(source.uri, error) from error
                data = member.unused_data if member.eof else member.unconsumed_tail or raw.read(_CHUNK)
                if not (chunk or data or member.eof):
                    raise CorruptFileError(f"{source.uri}: damaged or truncated gzip file: it ends too early")
            data = data if len(data) >= len(_GZIP) else data + raw.read(_CHUNK)


def _next_chunk(member: Any, data: bytes, uri: str) -> bytes:
    """Return the next bytes of a member's content."""
    try:
        chunk: bytes = member.decompress(data, _CHUNK)
    except zlib.error as error:
        raise CorruptFileError(f"{uri}: damaged or truncated gzip file: {error}") from error
    return chunk


def _write(file: "io.FileIO", chunk: bytes) -> None:
    """Write all of a chunk: a raw file may take less at a time."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _write_error(uri: str, error: OSError) -> WriteError:
    return WriteError(
        f"cannot inflate {uri} into the folder for temporary files {tempfile.gettempdir()} (set TMPDIR to choose "
        f"another): {error}"
    )
