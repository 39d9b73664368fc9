"""Refused access to remote files, whose token goes where, and how ranges are asked for."""

import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lsstcutouts.errors import (
    AccessDeniedError,
    AuthenticationError,
    ConfigurationError,
    LsstCutoutsError,
    MissingFileError,
    ReadError,
)
from lsstcutouts.source.byte_source import Streams, open_source
from lsstcutouts.source.remote import HttpSource
from lsstcutouts.source.web.byte_parts import URGENT
from lsstcutouts.source.web.process import web_of_process

from ..support.server import CERTIFICATE, LOGIN_PAGE, Store, TlsStore, serving, xml

DATA = bytes(range(256)) * 1000
EXPIRED = xml("AccessDenied", "Request has expired")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for name in ("a", "b", "c", "other"):
        (tmp_path / name).write_bytes(DATA)
    with serving(tmp_path, Store) as server:
        yield server


def signed(store: Store, name: str, life: float = 3600) -> str:
    return f"{store.url}/{name}?AWSAccessKeyId=AKIA&Signature=geheim&Expires={int(time.time() + life)}"


def opened(uri: str, others: list[str] | None = None) -> HttpSource:
    source = open_source(uri, others=others or [])
    assert isinstance(source, HttpSource)
    return source


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (
            400,
            xml("ExpiredToken", "The provided token has expired."),
            {},
            "ExpiredToken: The provided token has expired",
        ),
        (400, xml("InvalidToken"), {}, "InvalidToken"),
        (400, xml("TokenRefreshRequired"), {}, "TokenRefreshRequired"),
        (400, xml("RequestExpired"), {}, "RequestExpired"),
        (400, xml("AuthorizationHeaderMalformed"), {}, "AuthorizationHeaderMalformed"),
        (400, xml("AuthorizationQueryParametersError"), {}, "AuthorizationQueryParametersError"),
        (400, xml("RequestTimeTooSkewed"), {}, "RequestTimeTooSkewed"),
        (400, xml("SignatureDoesNotMatch"), {}, "SignatureDoesNotMatch"),
        (400, xml("InvalidAuthenticationInfo"), {}, "InvalidAuthenticationInfo"),
        (400, b'{"error": "invalid_token", "error_description": "too old"}', {}, "invalid_token: too old"),
        (400, b"", {"WWW_Authenticate": 'Bearer realm="x", error="invalid_token"'}, "invalid_token"),
        (401, xml("AuthenticationRequired"), {}, "AuthenticationRequired"),
        (401, b"<html><head><title>401 Authorization Required</title></head></html>", {}, "401 Authorization Required"),
        (401, b"", {}, "401 Unauthorized"),
        (403, EXPIRED, {}, "AccessDenied: Request has expired"),
        (403, xml("InvalidAccessKeyId"), {}, "InvalidAccessKeyId"),
        (403, b'{"error": {"code": 403, "message": "no access", "status": "PERMISSION_DENIED"}}', {}, "no access"),
        (407, b"", {}, "407 Proxy Authentication Required"),
        (
            200,
            LOGIN_PAGE,
            {"Content_Type": "text/html"},
            r"answers with a web page \('Sign in'\), probably a login page",
        ),
        (200, b"\n<!-- x --><HTML>", {}, "answers with a web page, probably"),
    ],
)
@pytest.mark.parametrize("when", ["opened", "read"])
def test_refused_access_is_no_fault_of_a_file(
    store: Store, status: int, body: bytes, headers: dict[str, str], words: str, when: str
) -> None:
    uri = signed(store, "a")
    source = None if when == "opened" else opened(uri)
    store.refuse("/", status, body, **headers)  # every file
    asked = len(store.requests)
    with pytest.raises(AuthenticationError, match=words) as caught:
        opened(uri, [signed(store, "b")]) if source is None else source.read(100_000, 10)
    text = str(caught.value)
    assert "127.0.0.1" in text
    assert "make the plan again" in text
    assert not isinstance(caught.value, ReadError)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    assert len(store.requests) <= asked + 3  # it is not tried again


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, xml("InvalidArgument", "the range"), ReadError),
        (400, b"<html>bad request</html>", ReadError),
        (400, b"", ReadError),
        (404, xml("NoSuchKey"), MissingFileError),
        (404, xml("AccessDenied"), MissingFileError),
        (200, DATA, ReadError),
        (200, b"<?xml version='1.0'?><VOTABLE></VOTABLE>", ReadError),
    ],
)
def test_other_answers_are_faults_of_a_file(
    store: Store, status: int, body: bytes, kind: type[LsstCutoutsError]
) -> None:
    store.refuse("/a", status, body)
    with pytest.raises(kind) as caught:
        opened(signed(store, "a"))
    assert type(caught.value) is kind


def test_what_to_do_fits_the_kind_of_uri(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.refuse("/", 401)
    with pytest.raises(AuthenticationError, match=r"signed and valid until 20\d\d-.* UTC: make the plan again"):
        opened(signed(store, "a"))
    with pytest.raises(
        AuthenticationError, match=r"set LSST_HTTP_AUTH_BEARER_TOKEN to a token that 127\.0\.0\.1 accepts"
    ):
        opened(f"{store.url}/a")
    monkeypatch.setenv("LSST_HTTP_AUTH_BEARER_TOKEN", "geheim")
    with pytest.raises(
        AuthenticationError, match=r"not sent, since LSSTCUTOUTS_TOKEN_HOSTS does not name 127\.0\.0\.1"
    ):
        opened(f"{store.url}/a")


# A missing object of S3, where objects may not be listed


def test_one_refused_file_beside_others_that_are_served(store: Store) -> None:
    """In any order of reading, and also where many other files are gone as well."""
    store.refuse("/a", 403, xml("AccessDenied", "Access Denied"))
    store.refuse("/b", 403, xml("AccessDenied", "Access Denied"))
    others = [signed(store, name) for name in ("a", "b", "other")]
    with pytest.raises(
        AccessDeniedError,
        match=r"/a: the file does not exist, or this user has no permission to read it: .*AccessDenied",
    ) as caught:
        opened(others[0], others)  # the first file of all
    assert isinstance(caught.value, ReadError)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    (store.root / "c").write_bytes(DATA)
    source = opened(others[2], [*others, signed(store, "c")])
    store.refuse("/other", 403, xml("AccessDenied"))
    with pytest.raises(AccessDeniedError, match=r"/other: the file does not exist, or"):
        source.read(100_000, 2)
    # A file that was opened before counts as well.
    opened(signed(store, "c"))
    with pytest.raises(AccessDeniedError, match=r"/a: the file does not exist, or"):
        opened(others[0])


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("the answer names an expiry", "Request has expired"),
        ("the clocks differ", "RequestTimeTooSkewed"),
        ("the URL has expired", "make the plan again"),
        ("the URL has expired by the server's clock", "make the plan again"),
        ("the URL says no expiry", "LSST_HTTP_AUTH_BEARER_TOKEN"),
        ("every other file is refused", "the file may also be missing"),
        ("no other file is known", "the file may also be missing"),
        ("other files cannot be asked for", "the file may also be missing"),
    ],
)
def test_a_refusal_that_may_be_of_every_file(store: Store, why: str, words: str) -> None:
    body = xml("AccessDenied", "Access Denied")
    uri, others = signed(store, "a"), [signed(store, name) for name in ("a", "b", "c")]
    if "answer" in why:
        body = EXPIRED
    elif "clocks" in why:
        body = xml("RequestTimeTooSkewed")
    elif "server's" in why:
        store.clock_ahead = 7200
    elif "has expired" in why:
        uri = signed(store, "a", -10)
    elif "says" in why:
        uri = f"{store.url}/a"
    elif "every" in why:
        store.refuse("/b", 403, body)
        store.refuse("/c", 401)
    elif "no other" in why:
        others = [uri]
    else:
        store.refuse("/b", 404)
        store.refuse("/c", 503)
    store.refuse("/a", 403, body)
    with pytest.raises(AuthenticationError, match=words):
        opened(uri, others)


def test_threads_that_are_refused_at_once_agree(store: Store) -> None:
    store.refuse("/a", 403, xml("AccessDenied"))
    others = [signed(store, name) for name in ("a", "other")]
    barrier = threading.Barrier(16)

    def kind(_: int) -> type:
        barrier.wait()
        with pytest.raises(LsstCutoutsError) as caught:
            opened(others[0], others)
        return type(caught.value)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(kind, range(16))) == {AccessDeniedError}


# Tokens


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsStore]:
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "302").mkdir()
    monkeypatch.setenv("LSST_HTTP_CACERT_BUNDLE", str(CERTIFICATE))
    for name in ("LSST_HTTP_AUTH_BEARER_TOKEN", "BUTLER_RUBIN_ACCESS_TOKEN", "ACCESS_TOKEN", "CADC_TOKEN"):
        monkeypatch.setenv(name, "geheim")
    for name in ("LSSTCUTOUTS_TOKEN_HOSTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with serving(tmp_path, TlsStore) as server:
        yield server


def test_no_token_goes_to_a_host_that_is_not_named(tls: TlsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for hosts in ("", "localhost, example.org", "127.0.0.1:1", "127.0.0"):
        monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", hosts)
        assert open_source(f"{tls.url}/file").read(3, 4) == DATA[3:7]
    assert open_source(signed(tls, "file")).read(3, 4) == DATA[3:7]
    assert len(tls.tokens) == 5
    assert set(tls.tokens) == {""}


def test_the_token_goes_to_the_hosts_that_are_named(
    tls: TlsStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, to URLs that are not signed, and not where these redirect to."""
    port = tls.server_address[1]
    for hosts in ("127.0.0.1", f"example.org, 127.0.0.1:{port}"):
        monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", hosts)
        asked = len(tls.tokens)
        open_source(f"{tls.url}/file")
        assert tls.tokens[asked:] == ["Bearer geheim"]
        open_source(signed(tls, "file"))
        assert tls.tokens[-1] == ""
    tls.refuse("/moved", 307, Location=f"{store.url}/a")
    assert open_source(f"{tls.url}/moved").read(3, 4) == DATA[3:7]
    assert tls.tokens[-1] == "Bearer geheim"
    open_source(f"{store.url}/a")
    assert set(store.tokens) == {""}


def test_a_refusal_shows_no_token(tls: TlsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", "127.0.0.1")
    tls.refuse("/file", 403, b"<html>Authorization: Bearer geheim is not accepted</html>")
    with pytest.raises(AuthenticationError, match="check that LSST_HTTP_AUTH_BEARER_TOKEN is a token that") as caught:
        open_source(f"{tls.url}/file")
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


# Ranges


@pytest.mark.parametrize(("gap", "count"), [(3_000, 1), (60_000, 2)])
def test_small_gaps_are_read_and_large_ones_left_out(store: Store, gap: int, count: int) -> None:
    source = opened(f"{store.url}/a")
    asked = len(store.requests)
    offsets, sizes = np.array([100_100, 100_200 + gap]), np.array([100, 50])
    parts = source.want(offsets, sizes, URGENT)
    assert len(parts) == count
    streams = Streams(source, offsets, sizes).read()
    assert [bytes(view) for view in streams.views()] == [DATA[o : o + s] for o, s in zip(offsets, sizes, strict=True)]
    assert len(store.requests) - asked == count


def test_connections_are_kept(store: Store) -> None:
    """48 connections at most, whatever the number of requests, and they are used again."""
    (store.root / "long").write_bytes(40 * DATA)
    source = opened(f"{store.url}/long")
    store.delay = 0.5  # so long that a busy machine sends them all meanwhile
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda start: source.read(start, 10), range(100_000, 10_000_000, 100_000)))
    assert 24 <= store.most_waiting <= 48


def test_one_request_for_bytes_that_several_want(store: Store) -> None:
    source = opened(f"{store.url}/a")
    asked, store.delay = len(store.requests), 0.05
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: source.read(100_000, 10), range(16))) == {DATA[100_000:100_010]}
    assert len(store.requests) == asked + 1


def test_bytes_that_nobody_wants_any_more_are_not_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "2")
    source = opened(f"{store.url}/a")
    asked, store.delay = len(store.requests), 0.1
    offsets = np.arange(60_000, 240_000, 60_000)
    parts = source.want(offsets, np.full(len(offsets), 10), URGENT)
    assert len(parts) == 3
    del parts
    store.delay = 0
    assert source.read(250_000, 10) == DATA[250_000:250_010]
    assert len(store.requests) <= asked + 2


# Other kinds of servers


def test_webdav_is_read_in_ranges(store: Store) -> None:
    source = opened(store.url.replace("http://", "dav://") + "/a")
    assert source.read(100_000, 10) == DATA[100_000:100_010]
    assert [r for _, _, r in store.requests] == ["bytes=0-32767", "bytes=100000-100009"]


WEBDAV = """
- base_url: "davs://127.0.0.1:{port}/"
  trusted_authorities: "${{AUTHORITIES}}"
  {credentials}
- base_url: davs://other.example:2880/
  token: of-another-server
"""


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        ("token: geheim-dav", "Bearer geheim-dav"),
        ('token: "{folder}/token"', "Bearer geheim-of-a-file"),
        ("user_name: me\n  user_password: geheim", "Basic bWU6Z2VoZWlt"),
        ('user_cert: "{certificate}"', ""),
    ],
)
def test_webdav_servers_of_the_file_of_lsst_resources(
    tls: TlsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: str, sent: str
) -> None:
    """Its token goes to the server that it is written for, without another variable."""
    (tmp_path / "token").write_text("geheim-of-a-file\n")
    monkeypatch.setenv("AUTHORITIES", str(CERTIFICATE))
    monkeypatch.delenv("LSST_HTTP_CACERT_BUNDLE")
    uri = f"davs://127.0.0.1:{tls.server_address[1]}/file"
    with pytest.raises(LsstCutoutsError, match="CERTIFICATE_VERIFY_FAILED"):
        opened(uri)
    text = WEBDAV.format(
        port=tls.server_address[1], credentials=credentials.format(folder=tmp_path, certificate=CERTIFICATE)
    )
    (tmp_path / "webdav.yaml").write_text(text)
    monkeypatch.setenv("LSST_RESOURCES_WEBDAV_CONFIG", str(tmp_path / "webdav.yaml"))
    assert opened(uri).read(3, 4) == DATA[3:7]
    assert set(tls.tokens) == {sent}
    tls.refuse("/file", 401)
    with pytest.raises(
        AuthenticationError, match=r"set token, or user_cert.*LSST_RESOURCES_WEBDAV_CONFIG names"
    ) as caught:
        opened(uri)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_a_file_of_webdav_servers_that_cannot_be_read(
    tls: TlsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (None, "token: geheim", "- [geheim", "geheim"):
        if text is not None:
            (tmp_path / "webdav.yaml").write_text(text)
        monkeypatch.setenv("LSST_RESOURCES_WEBDAV_CONFIG", str(tmp_path / "webdav.yaml"))
        with pytest.raises(ConfigurationError, match=r"webdav\.yaml cannot be read.*a YAML list of servers") as caught:
            opened(f"{tls.url}/file")
        assert "geheim" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("left_out", [False, True])
def test_the_proxy_of_the_environment_is_asked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: bool
) -> None:
    """Except for the hosts that NO_PROXY names."""
    web_of_process()._hosts.clear()
    with serving(tmp_path) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1" if left_out else "")
        assert opened(f"{store.url}/a").read(3, 4) == DATA[3:7]
        assert len(proxy.requests) == (0 if left_out else 1)
        assert len(store.requests) == (1 if left_out else 0)
    web_of_process()._hosts.clear()
