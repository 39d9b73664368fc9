"""The seam between files and this package's errors: what storage and network raise becomes a `ReadError`."""

from dataclasses import dataclass

from ..errors import (
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
from ..errors.error_classes import ErrorKind, error_kind, error_text
from ..errors.secrets import hide_secrets

__all__ = ["check_length", "translate_errors"]


@dataclass(frozen=True, slots=True)
class _ReadErrorRule:
    kind: type[LsstCutoutsError]
    lead: str
    advice: str = ""


_CREDENTIALS = "; set the credentials that this kind of storage needs"

_RULES = {
    ErrorKind.MISSING: _ReadErrorRule(MissingFileError, "no file at"),
    ErrorKind.DENIED: _ReadErrorRule(
        AccessDeniedError, "this user may not read", "; ask for the right to read it and the folders above it"
    ),
    ErrorKind.CREDENTIALS: _ReadErrorRule(AuthenticationError, "not allowed to read", _CREDENTIALS),
    ErrorKind.TRUNCATED: _ReadErrorRule(
        CorruptFileError, "read past the end of", "; the file is shorter than expected: fetch or transfer it again"
    ),
    ErrorKind.TIMEOUT: _ReadErrorRule(
        ReadTimeoutError,
        "no answer in time for",
        "; see that the server or disk is well, or allow more with LSST_HTTP_TIMEOUT_READ (seconds)",
    ),
    ErrorKind.UNAVAILABLE: _ReadErrorRule(
        TransientReadError, "cannot read now", "; see that the server is up and can be reached from here"
    ),
    ErrorKind.DEPENDENCY: _ReadErrorRule(
        DependencyError, "a package is missing that is needed to read", "; pip install 'lsst-resources[https,s3,gs]'"
    ),
    ErrorKind.OTHER: _ReadErrorRule(ReadError, "cannot read"),
}


class translate_errors:  # noqa: N801 - reads as a clause of `with`; a class, since a generator costs 1 microsecond a read
    """Turn what the operating system, ``lsst.resources`` or a client below it raises in the block into our errors.

    Parameters
    ----------
    uri
        The file, for the message.
    access
        What to do where access is refused; the end of the message.
    """

    __slots__ = ("_access", "_uri")

    def __init__(self, uri: str, access: str = "") -> None:
        self._uri, self._access = uri, access

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        hide_secrets(error)
        if isinstance(error, LsstCutoutsError) or (trouble := error_kind(error)) is None:
            return
        how = _RULES[trouble]
        advice = self._access or how.advice if trouble is ErrorKind.CREDENTIALS else how.advice
        raise how.kind(f"{how.lead} {self._uri}: {error_text(error)}{advice}") from error


def check_length(data: bytes, offset: int, length: int, uri: str) -> bytes:
    """Return ``data``, or raise if it is not ``length`` bytes: the file ended, or the server sent something else."""
    if len(data) < length:
        raise CorruptFileError(f"{uri} ends at byte {offset + len(data)}, inside what should reach {offset + length}")
    if len(data) > length:
        raise ranges_ignored_error(uri)
    return data


def ranges_ignored_error(uri: str) -> ReadError:
    """Return the error for a server that sends whole files where a range of bytes is asked for."""
    return ReadError(
        f"{uri}: the server ignores byte ranges and sends the whole file for every tile; use a server that answers 206 "
        "to a Range request, or copy the files to a disk"
    )
