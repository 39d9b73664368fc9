"""The seam between files and this package's errors: what storage and network raise becomes a `ReadError`."""

from dataclasses import dataclass

from lsstcutouts.errors import (
    AccessDeniedError,
    AuthenticationError,
    CorruptFileError,
    DependencyError,
    LsstCutoutsError,
    MissingFileError,
    ReadError,
    ReadTimeoutError,
    TransientReadError,
)
from lsstcutouts.foreign import Trouble, trouble_of, words_of

__all__ = ["complete", "translated"]


@dataclass(frozen=True, slots=True)
class _Translation:
    kind: type[LsstCutoutsError]
    lead: str
    advice: str = ""


_CREDENTIALS = (
    "; if the URL is signed it may have expired: make the plan again. For other servers: LSST_HTTP_AUTH_BEARER_TOKEN "
    "(http), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (s3)"
)

_TRANSLATIONS = {
    Trouble.MISSING: _Translation(MissingFileError, "no file at"),
    Trouble.DENIED: _Translation(
        AccessDeniedError, "this user may not read", "; ask for the right to read it and the folders above it"
    ),
    Trouble.CREDENTIALS: _Translation(AuthenticationError, "not allowed to read", _CREDENTIALS),
    Trouble.TRUNCATED: _Translation(
        CorruptFileError, "read past the end of", "; the file is shorter than expected: fetch or transfer it again"
    ),
    Trouble.TIMEOUT: _Translation(
        ReadTimeoutError,
        "no answer in time for",
        "; see that the server or disk is well, or allow more with LSST_HTTP_TIMEOUT_READ (seconds)",
    ),
    Trouble.UNAVAILABLE: _Translation(
        TransientReadError, "cannot read now", "; see that the server is up and can be reached from here"
    ),
    Trouble.DEPENDENCY: _Translation(
        DependencyError, "a package is missing that is needed to read", "; pip install 'lsst-resources[https,s3,gs]'"
    ),
    Trouble.OTHER: _Translation(ReadError, "cannot read"),
}


class translated:  # noqa: N801 - reads as a clause of `with`; a class, since a generator costs 1 microsecond a read
    """Turn what the operating system, ``lsst.resources`` or a client below it raises in the block into our errors.

    Parameters
    ----------
    uri
        The file, for the message.
    """

    __slots__ = ("_uri",)

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LsstCutoutsError) or not isinstance(error, Exception):
            return
        if (trouble := trouble_of(error)) is None:
            return
        how = _TRANSLATIONS[trouble]
        raise how.kind(f"{how.lead} {self._uri}: {words_of(error)}{how.advice}") from error


def complete(data: bytes, offset: int, length: int, uri: str) -> bytes:
    """Return ``data``, or raise if it is not ``length`` bytes: the file ended, or the server sent something else."""
    if len(data) < length:
        raise CorruptFileError(f"{uri} ends at byte {offset + len(data)}, inside what should reach {offset + length}")
    if len(data) > length:
        raise no_ranges(uri)
    return data


def no_ranges(uri: str) -> ReadError:
    """Return the error for a server that sends whole files where a range of bytes is asked for."""
    return ReadError(
        f"{uri}: the server ignores byte ranges and sends the whole file for every tile; use a server that answers 206 "
        "to a Range request, or copy the files to a disk"
    )
