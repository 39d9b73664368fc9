"""Translation of internal FITS errors to errors of the package."""

from ..errors import CorruptFileError, UnsupportedFormatError
from .headers import BadStructureError, UnknownFeatureError

__all__ = ["PlaneErrors"]


class PlaneErrors:
    """Translate internal FITS errors in the block to `CorruptFileError` and `UnsupportedFormatError`, with URI and plane."""

    __slots__ = ("_plane", "_uri")

    def __init__(self, uri: str, plane: str) -> None:
        self._uri, self._plane = uri, plane

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadStructureError):
            raise CorruptFileError(f"{self._uri}: {self._plane} plane: {error}; transfer the file again") from error
        if isinstance(error, UnknownFeatureError):
            raise UnsupportedFormatError(
                f"{self._uri}: {self._plane} plane: {error}; this version of lsstcutouts does not support such files"
            ) from error
