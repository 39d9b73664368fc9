"""Where the room's own exceptions become the package's."""

from ..errors import CorruptFileError, UnsupportedFormatError
from .headers import BadStructureError, UnknownFeatureError

__all__ = ["PlaneErrors"]


class PlaneErrors:
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
