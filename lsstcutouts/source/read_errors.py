"""Translates exceptions of storage and network libraries to this package's errors, mostly `ReadError`."""

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
    error: type[LsstCutoutsError]
    problem: str
    advice: str = ""


_RULES = {
    ErrorKind.MISSING: _ReadErrorRule(
        MissingFileError, "the file does not exist", "; check the path, or make the plan again if files were moved"
    ),
    ErrorKind.DENIED: _ReadErrorRule(
        AccessDeniedError,
        "this user has no permission to read the file",
        "; ask for read permission for the file and its folders",
    ),
    ErrorKind.CREDENTIALS: _ReadErrorRule(
        AuthenticationError, "access is refused", "; set the credentials for this storage"
    ),
    ErrorKind.TRUNCATED: _ReadErrorRule(
        CorruptFileError, "the file is shorter than expected", "; transfer or download it again"
    ),
    ErrorKind.TIMEOUT: _ReadErrorRule(
        ReadTimeoutError,
        "no answer within the time limit",
        "; check the server or disk, or increase the limit with LSST_HTTP_TIMEOUT_READ (seconds)",
    ),
    ErrorKind.UNAVAILABLE: _ReadErrorRule(
        TransientReadError,
        "the file cannot be read now",
        "; check that the server is running and can be reached from this machine",
    ),
    ErrorKind.DEPENDENCY: _ReadErrorRule(
        DependencyError,
        "a package needed to read this file is not installed",
        "; pip install 'lsst-resources[https,s3,gs]'",
    ),
    ErrorKind.OTHER: _ReadErrorRule(ReadError, "the file cannot be read"),
}


class translate_errors:  # noqa: N801 - used like a function in `with`; a class, since a generator adds 1 microsecond a read
    """Translate exceptions of the operating system and of ``lsst.resources`` in a ``with`` block to our errors.

    Parameters
    ----------
    uri
        The file, for the message.
    access_advice
        What the user can do if access is refused; the end of the message.
    """

    __slots__ = ("_access_advice", "_uri")

    def __init__(self, uri: str, access_advice: str = "") -> None:
        self._uri, self._access_advice = uri, access_advice

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        hide_secrets(error)
        if isinstance(error, LsstCutoutsError) or (kind := error_kind(error)) is None:
            return
        rule = _RULES[kind]
        advice = self._access_advice or rule.advice if kind is ErrorKind.CREDENTIALS else rule.advice
        raise rule.error(f"{self._uri}: {rule.problem}: {error_text(error)}{advice}") from error


def check_length(data: bytes, offset: int, length: int, uri: str) -> bytes:
    """Return ``data``; `ReadError` if it does not have ``length`` bytes: the file ended or the server sent more."""
    if len(data) < length:
        raise CorruptFileError(
            f"{uri} ends at byte {offset + len(data)}, but should contain bytes up to {offset + length}; transfer or "
            "download it again"
        )
    if len(data) > length:
        raise ranges_ignored_error(uri)
    return data


def ranges_ignored_error(uri: str) -> ReadError:
    """Return the error for a server that ignores a range request and sends the whole file."""
    return ReadError(
        f"{uri}: the server ignores byte ranges and sends the whole file for every tile; use a server that answers 206 "
        "to Range requests, or copy the files to a local disk"
    )
