"""Kinds of errors of other packages, and the messages made from them."""

import copyreg
from copy import copy

import pytest
import requests
import urllib3

from lsstcutouts.errors import PlaneError
from lsstcutouts.errors.error_classes import ErrorKind, error_kind, error_text, fresh, status_kind


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (FileNotFoundError("Unable to read resource http://x/y; status: 403 Forbidden"), ErrorKind.CREDENTIALS),
        (FileNotFoundError("Unable to read resource http://x/y; status code: 416"), ErrorKind.TRUNCATED),
        (FileNotFoundError("Resource http://x/y does not exist, status: 404 Not Found"), ErrorKind.MISSING),
        (ValueError("Unexpected response for HEAD request for http://x, status: 403 Forbidden"), ErrorKind.CREDENTIALS),
        (FileNotFoundError("no file 403"), ErrorKind.MISSING),
        (ValueError("status"), None),
        (ZeroDivisionError(), None),
        (TimeoutError(), ErrorKind.TIMEOUT),
        (ConnectionResetError(), ErrorKind.UNAVAILABLE),
        (
            requests.ConnectionError(urllib3.exceptions.ReadTimeoutError(None, "", "")),
            ErrorKind.TIMEOUT,
        ),
        (requests.exceptions.SSLError("certificate"), ErrorKind.OTHER),
        (requests.exceptions.RetryError("too many 503 error responses"), ErrorKind.UNAVAILABLE),
        (ImportError("s3fs is not available"), ErrorKind.DEPENDENCY),
    ],
    ids=repr,
)
def test_kinds_of_errors_of_other_packages(error: Exception, meaning: ErrorKind | None) -> None:
    assert error_kind(error) is meaning


def test_s3_tells_an_expired_token_with_status_400() -> None:
    from botocore.exceptions import ClientError

    def answer(status: int, code: str) -> ClientError:
        return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    assert error_kind(answer(400, "ExpiredToken")) is ErrorKind.CREDENTIALS
    assert error_kind(answer(400, "InvalidArgument")) is ErrorKind.OTHER
    assert error_kind(answer(503, "SlowDown")) is ErrorKind.UNAVAILABLE


def test_words_are_one_line() -> None:
    assert error_text(RuntimeError("first\nsecond")) == "first"
    assert error_text(RuntimeError("Possible reasons:\n- one\n- two")) == "Possible reasons: - one - two"
    assert error_text(RuntimeError()) == "RuntimeError"


def test_every_status_means_something() -> None:
    for status in range(100, 600):
        assert isinstance(status_kind(status), ErrorKind)


def test_a_fresh_error_has_no_traceback_whoever_copies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's pickling of exceptions, which ``copy`` uses as well, restores what they refer to."""

    def restored(text: str, *referred: object) -> PlaneError:
        error = PlaneError(text)
        error.__traceback__, error.__cause__, error.__context__ = referred  # type: ignore[assignment]
        return error

    monkeypatch.setitem(
        copyreg.dispatch_table,
        PlaneError,
        lambda error: (restored, (*error.args, error.__traceback__, error.__cause__, error.__context__)),
    )
    with pytest.raises(PlaneError) as raised:
        raise PlaneError("no such plane") from ValueError("cause")
    caught = raised.value
    assert copy(caught).__traceback__ is not None
    found = fresh(caught)
    assert type(found) is PlaneError
    assert str(found) == "no such plane"
    assert (found.__traceback__, found.__cause__, found.__context__) == (None, None, None)
    assert caught.__traceback__ is not None
