"""Decompresses files that are gzipped as a whole (``.fits.gz``), so that they are read like any local file."""

import io
import os
import tempfile
import weakref
import zlib

from ..errors import CorruptFileError, UnsupportedFormatError, WriteError
from .byte_source import ByteSource, LocalSource, SourceFile

__all__ = ["MAX_INFLATED_BYTES", "inflate"]

MAX_INFLATED_BYTES = 4 << 30
"""Largest decompressed size, bytes: twenty times a DP0.2 coadd (4200 x 4200 pixels in three planes).

gzip compresses zeros by a factor of 1000, so without a limit a damaged or malicious file of a few MB fills a disk.
"""

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


class InflatedSource(LocalSource):
    """The content of a gzipped file in an unnamed temporary file, which is deleted when the source is closed."""

    def __init__(self, fd: int, uri: str) -> None:
        self.uri = uri
        self._fd = fd
        self._finalizer = weakref.finalize(self, os.close, fd)
        self.size = os.fstat(fd).st_size
        self.stamp = (self.size,)


def inflate(source: ByteSource) -> InflatedSource:
    """Decompress a gzipped file and close it.

    The content is written to the folder for temporary files (``TMPDIR``) and needs one megabyte of memory.

    Raises
    ------
    CorruptFileError
        If the file is truncated or its checksum is wrong.
    UnsupportedFormatError
        If the content is larger than `MAX_INFLATED_BYTES`.
    WriteError
        If the content cannot be written, for example on a full disk.
    """
    with _temporary(source.uri) as file:
        _write_content(source, file)
        content = InflatedSource(os.dup(file.fileno()), source.uri)
    source.close()
    return content


def _temporary(uri: str) -> "io.FileIO":
    """Return an open, unnamed and unbuffered temporary file."""
    try:
        return tempfile.TemporaryFile("w+b", buffering=0)
    except OSError as error:
        raise _write_error(uri, error) from error


def _write_content(source: ByteSource, file: "io.FileIO") -> None:
    """Write the content of a gzipped file to another file; bytes after the last gzip member are ignored, as gzip does."""
    with io.BufferedReader(SourceFile(source), _CHUNK) as raw:
        data = raw.read(_CHUNK)
        while data.startswith(_GZIP):
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                try:
                    chunk = member.decompress(data, _CHUNK)
                except zlib.error as error:
                    raise CorruptFileError(
                        f"{source.uri}: damaged or truncated gzip file: {error}; transfer the file again"
                    ) from error
                if file.tell() + len(chunk) > MAX_INFLATED_BYTES:
                    raise UnsupportedFormatError(
                        f"{source.uri}: the gzip content is larger than the limit of {MAX_INFLATED_BYTES} bytes; decompress"
                        " the file with gunzip"
                    )
                try:
                    _write(file, chunk)
                except OSError as error:
                    raise _write_error(source.uri, error) from error
                data = member.unused_data if member.eof else member.unconsumed_tail or raw.read(_CHUNK)
                if not (chunk or data or member.eof):
                    raise CorruptFileError(
                        f"{source.uri}: damaged or truncated gzip file: it ends too early; transfer the file again"
                    )
            data = data if len(data) >= len(_GZIP) else data + raw.read(_CHUNK)


def _write(file: "io.FileIO", chunk: bytes) -> None:
    """Write all of a chunk, since one write to a raw file can be partial."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _write_error(uri: str, error: OSError) -> WriteError:
    return WriteError(
        f"{uri} cannot be decompressed into the temporary folder {tempfile.gettempdir()}: {error}; free space there, or set "
        "TMPDIR to another folder"
    )
