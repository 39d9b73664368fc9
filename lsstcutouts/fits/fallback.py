"""Planes that only astropy decodes: HCOMPRESS_1, PLIO_1, and whatever else it learns."""

import io
import threading
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.geom import Box

from .headers import BadStructureError, UnknownFeatureError
from .layout import PlaneLayout
from .source import ByteSource, SourceFile

__all__ = ["AstropyReader"]


class AstropyReader:
    """astropy's own decoder over the same bytes; one thread at a time."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._hdus: Any = None

    def read(self, layout: PlaneLayout, box: Box) -> NDArray[Any]:
        """Return a box of plane pixels.

        Raises
        ------
        BadStructureError
            astropy finds the bytes damaged.
        UnknownFeatureError
            astropy does not know the compression either.
        """
        with self._lock:
            try:
                values = self._section(layout, box)
            except (KeyError, NotImplementedError, AttributeError) as error:
                raise UnknownFeatureError(f"compression {layout.compression}: {error!r}") from error
            except (OSError, ValueError, TypeError, IndexError, RuntimeError, EOFError, zlib.error) as error:
                raise BadStructureError(f"astropy: {error!r}") from error
        out = np.empty(box.shape, layout.dtype)
        np.copyto(out, values, casting="unsafe")
        return out

    def close(self) -> None:
        """Let go of astropy's view of the file."""
        with self._lock:
            if self._hdus is not None:
                self._hdus.close()
            self._hdus = None

    def _section(self, layout: PlaneLayout, box: Box) -> Any:
        import astropy.io.fits

        if self._hdus is None:
            self._hdus = astropy.io.fits.open(io.BufferedReader(SourceFile(self._source)), memmap=False)
        return self._hdus[layout.hdu].section[box.slices()]
