"""What goes wrong with a Butler server or a repository on the web: refusals, tokens, other answers."""

import http.server
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from lsst.daf.butler import ButlerUserError

from lsstcutouts.errors import (
    AuthenticationError,
    CollectionError,
    ConfigurationError,
    DatasetError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryUnavailableError,
)
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.source.retry import Retry

from ..support.clock import FakeClock
from ..support.server import CERTIFICATE, LOGIN_PAGE, FileServer, Store, TlsStore, nobody, serving, xml


class ButlerServer(FileServer):
    """Answers as a Butler server does for its configuration, and in one way for everything else."""

    answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
    configuration = b""
    server_url = "<butlerRoot>"
    location = ""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.RequestHandlerClass = ButlerHandler


class ButlerHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ButlerServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        config = {"cls": "lsst.daf.butler.remote_butler.RemoteButler", "remote_butler": {"url": self.server.server_url}}
        config["remote_butler"]["authentication"] = "rubin_science_platform"
        text = self.server.configuration or json.dumps(config).encode()
        answer = (200, "text/yaml", text) if "butler.yaml" in self.path else self.server.answer
        self.server.requests.append(("GET", self.path, self.headers.get("Authorization", "")))
        if answer[0] == 0:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Content-Type", answer[1])
        self.send_header("Content-Length", str(len(answer[2])))
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Connection", "close")  # the client never closes its own when it fails
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[2])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_OPTIONS(self) -> None:
        self.do_GET()


@pytest.fixture
def butler_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ButlerServer]:
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "geheim")
    with serving(tmp_path, ButlerServer) as server:
        yield server


def ask(server: ButlerServer) -> None:
    Repository(f"{server.url}/repo", "dp2", retry=Retry(tries=2, clock=FakeClock()))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, AuthenticationError, "401.*BUTLER_RUBIN_ACCESS_TOKEN"),
        (403, AuthenticationError, "403.*read:image"),
        (302, RepositoryError, "302"),
        (404, RepositoryNotFoundError, "404.*check the path or URL of the repository"),
        (
            500,
            RepositoryUnavailableError,
            "500.*check the URL .repository name, host, port. and that the server is running",
        ),
        (503, RepositoryUnavailableError, "503.*try again later"),
        (0, RepositoryUnavailableError, "disconnected"),
    ],
)
def test_a_butler_server_that_refuses(
    butler_server: ButlerServer, status: int, kind: type[RepositoryError], words: str
) -> None:
    butler_server.answer = (status, "text/plain", b"no")
    with pytest.raises(kind, match=words) as caught:
        ask(butler_server)
    assert type(caught.value) is kind
    assert type(caught.value.__cause__).__name__ == "ButlerServerError"
    assert f"{butler_server.url}/repo" in str(caught.value)
    assert "geheim" not in str(caught.value)
    tried = sum("butler.yaml" in path and method == "GET" for method, path, _ in butler_server.requests)
    assert tried <= (10 if status in {0, 503} else 2)  # these are waited for, for five seconds here


@pytest.mark.parametrize(
    ("name", "kind"),
    [("missing_collection", CollectionError), ("missing_dataset_type", DatasetError), ("new_kind", ConfigurationError)],
)
def test_what_a_butler_server_sends_on(butler_server: ButlerServer, name: str, kind: type[Exception]) -> None:
    """A server answers 422 with the exception of its own Butler."""
    body = json.dumps({"error_type": name, "detail": "no such thing"}).encode()
    butler_server.answer = (422, "application/json", body)
    with pytest.raises(kind, match="no such thing") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, ButlerUserError)


def test_a_page_of_html_is_no_butler(butler_server: ButlerServer) -> None:
    """A page for logging in is a refusal of access, from the server and in the place of its configuration."""
    butler_server.answer = (200, "text/html", b"<html>please log in</html>")
    with pytest.raises(AuthenticationError, match=r"answers with a web page.*login page.*BUTLER_RUBIN_ACC") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)
    butler_server.configuration = b"<!DOCTYPE html>\n<html><head><title>Sign in: here</title></head></html>"
    with pytest.raises(
        AuthenticationError,
        match=r"/repo/butler\.yaml: access is refused: 127\.0\.0\.1 answers with a web page \('Sign in: here'\)",
    ):
        ask(butler_server)


def test_another_answer_is_no_butlers(butler_server: ButlerServer) -> None:
    butler_server.answer = (200, "application/json", b"[1, 2]")
    with pytest.raises(RepositoryError, match="not the answer of a Butler server") as caught:
        ask(butler_server)
    assert type(caught.value) is RepositoryError


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"detail": "unauthorized: the token has expired"}', "400"),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", "ExpiredToken"),
        (401, b"<html><head><title>401 Authorization Required</title></head></html>", "401 Authorization Required"),
        (403, b'{"error": "insufficient_scope"}', "insufficient_scope"),
    ],
)
def test_a_butler_server_that_refuses_access(butler_server: ButlerServer, status: int, body: bytes, words: str) -> None:
    """The message names the host, what the server says, and what to do."""
    butler_server.answer = (status, "application/json", body)
    with pytest.raises(AuthenticationError, match=rf"127\.0\.0\.1.*{words}.*BUTLER_RUBIN_ACCESS_TOKEN") as caught:
        ask(butler_server)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_a_bad_request_is_no_refusal(butler_server: ButlerServer) -> None:
    butler_server.answer = (400, "application/json", b'{"detail": "no such thing"}')
    with pytest.raises(RepositoryError) as caught:
        ask(butler_server)
    assert not isinstance(caught.value, AuthenticationError)


def test_the_token_goes_to_the_repositorys_own_host(butler_server: ButlerServer, tmp_path: Path) -> None:
    """A butler.yaml from the web may name no server elsewhere; nor is a redirection followed with the token."""
    with serving(tmp_path) as other:
        butler_server.server_url = other.url
        with pytest.raises(
            AuthenticationError, match=rf"names a server on another host, {other.url[7:]}, .*your token"
        ):
            ask(butler_server)
        butler_server.server_url = "<butlerRoot>"
        butler_server.answer = (307, "text/plain", b"")
        butler_server.location = f"{other.url}/elsewhere"
        with pytest.raises(RepositoryError, match="307"):
            ask(butler_server)
        assert not any(other.tokens)
    assert "Bearer geheim" in [token for _, _, token in butler_server.requests]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "401 Unauthorized"),
        (403, xml("AccessDenied", "No such right"), "AccessDenied: No such right"),
        (400, xml("ExpiredToken"), "ExpiredToken"),
        (200, LOGIN_PAGE, "web page .'Sign in'."),
    ],
)
def test_a_configuration_that_is_refused(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    """The token of a Butler server would not help: it is not sent for the butler.yaml."""
    with serving(tmp_path, Store) as server:
        server.refuse("butler.yaml", status, body)
        reason = rf"{server.url}/repo/butler\.yaml: access is refused: 127\.0\.0\.1.*{words}.*LSSTCUTOUTS_TOKEN_HOSTS"
        with pytest.raises(AuthenticationError, match=reason):
            Repository(f"{server.url}/repo", "dp2")
        server.refuse("butler.yaml", status, body)
        with pytest.raises(AuthenticationError) as caught:
            Repository(f"{server.url}/repo/butler.yaml?Signature=geheim", "dp2")
    if status >= 400:
        assert "geheim" not in "".join(traceback.format_exception(caught.value.__cause__))


@pytest.mark.parametrize("text", [b"\x89PNG\r\n\x1a\n\x00", b"[1, 2]", b"just words", b"", b"a: [", b"cls: nonsense"])
def test_something_else_in_the_place_of_a_configuration(butler_server: ButlerServer, text: bytes) -> None:
    butler_server.configuration = text or b" "
    with pytest.raises(RepositoryError, match=f"{butler_server.url}/repo' cannot be opened") as caught:
        ask(butler_server)
    assert not isinstance(caught.value, AuthenticationError | RepositoryNotFoundError)


def test_every_name_of_a_repository(
    own: Path, target: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths, URLs and labels, with butler.yaml and without; a token goes only to the hosts that are named for it."""
    for name in ("BUTLER_RUBIN_ACCESS_TOKEN", "LSST_HTTP_AUTH_BEARER_TOKEN", "ACCESS_TOKEN"):
        monkeypatch.setenv(name, "geheim")
    for name in ("DAF_BUTLER_REPOSITORIES", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LSST_HTTP_CACERT_BUNDLE", str(CERTIFICATE))
    monkeypatch.chdir(own.parent)
    (tmp_path / "web").mkdir()
    with serving(own, TlsStore) as files, serving(tmp_path, TlsStore) as server:
        text = (own / "butler.yaml").read_text().replace("root: <butlerRoot>", f"root: {files.url}/")
        (tmp_path / "web/butler.yaml").write_text(text.replace("<butlerRoot>", str(own)))
        url = f"{server.url}/web"
        index = tmp_path / "index.yaml"
        index.write_text(f"folder: {own}\nfile: {own}/butler.yaml\nweb: {url}\nwebfile: {url}/butler.yaml\n")
        monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(index))
        local = [own, str(own), f"{own}/butler.yaml", own.name, f"./{own.name}/", f"file://{own}", "folder", "file"]
        web = [url, f"{url}/", f"{url}/butler.yaml", "web", "webfile"]
        for name in (*local, *web):
            with Repository(name, "dp2") as repository:
                assert repository.bands() == ("g", "r"), name
                (first, *_) = repository.samples()
                assert first.uri.startswith(files.url if name in web else str(own))
        assert len(server.tokens) == len(web)
        signature = "?X-Goog-Signature=" + "geheim"
        with Repository(f"{url}/butler.yaml{signature}", "dp2") as repository:
            assert "geheim" not in repository.name + repository.where
        signed = f"{server.url}/nothing/butler.yaml{signature}"
        with pytest.raises(RepositoryError) as caught:
            Repository(signed, "dp2")
        assert "geheim" not in "".join(traceback.format_exception(caught.value))
        del server.tokens[len(web) :]
        ra, dec = target
        monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", f"127.0.0.1:{server.server_address[1]}")
        with LsstDataFetcher(url, collections="dp2", bands="gr", size=16) as fetcher:
            assert fetcher.fetch(ra, dec)["band_present"].all()
        assert set(server.tokens[:-1]) | set(files.tokens) == {""}
        assert server.tokens[-1] == "Bearer geheim"


def test_no_token(butler_server: ButlerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUTLER_RUBIN_ACCESS_TOKEN")
    with pytest.raises(AuthenticationError, match=r"no access credentials.*BUTLER_RUBIN_ACCESS_TOKEN") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.fixture(scope="module")
def child() -> list[str]:
    """What a child process says of a server where nobody listens, and of one without the client for servers.

    The client waits a minute between its own tries unless the environment that it starts in says less.
    """
    code = (
        "import sys, tempfile, pathlib\n"
        "from lsstcutouts.plan.repository import Repository\n"
        "from lsstcutouts.errors import LsstCutoutsError\n"
        "from lsstcutouts.source.retry import Retry\n"
        "def said(repo):\n"
        "    try:\n        Repository(repo, 'dp2', retry=Retry(tries=1))\n"
        "    except LsstCutoutsError as error:\n"
        "        print(type(error).__name__, type(error.__cause__).__qualname__, error)\n"
        "said(sys.argv[1])\n"
        "sys.modules['httpx2'] = sys.modules['httpx'] = None\n"
        "root = pathlib.Path(tempfile.mkdtemp())\n"
        "(root / 'butler.yaml').write_text('cls: lsst.daf.butler.remote_butler.RemoteButler\\n"
        'remote_butler: {url: "http://127.0.0.1:9/", authentication: rubin_science_platform}\\n\')\n'
        "said(root)\n"
    )
    fast = os.environ | {"LSST_HTTP_BACKOFF_MIN": "0", "LSST_HTTP_BACKOFF_MAX": "0.001", "LSSTCUTOUTS_PATIENCE": "0.6"}
    command = [sys.executable, "-c", code, f"{nobody()}/repo"]
    return subprocess.run(command, env=fast, capture_output=True, text=True, check=True).stdout.splitlines()


def test_nobody_answers(child: list[str]) -> None:
    assert child[0].startswith("RepositoryUnavailableError ClientConnectorError http://127.0.0.1:")
    assert "has given no good answer for 1 s: the Butler repository 'http://127.0.0.1:" in child[0]
    assert "Connect call failed" in child[0]
    assert "check the URL (repository name, host, port) and that the server is running" in child[0]


def test_the_remote_extra_is_missing(child: list[str]) -> None:
    assert child[1].startswith("DependencyError ModuleNotFoundError the Butler repository")
    assert "httpx" in child[1]
    assert "pip install 'lsstcutouts[remote]'" in child[1]
