"""Checks of the Butler server of a remote repository: it answers, its clock, and the token that it gets."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from time import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml
from lsst.daf.butler import Butler

from ... import __version__
from ...errors import DependencyError, LsstCutoutsError, RepositoryError, RepositoryUnavailableError
from ...errors.error_classes import error_text
from ...errors.secrets import without_query
from ...plan.butler_errors import suggest, trust_repository
from ...source.access import CADC_ADVICE, butler_token, is_safe, origin_of
from ...source.web.answers import Answer, AnswerError, web_page
from .diagnosis import Result, Settings

__all__ = ["Reply", "ask", "check_clock", "check_server", "check_token", "refused"]

_RUBIN = (".lsst.cloud", ".slac.stanford.edu")
_BUTLER_TOKEN, _PLATFORM_TOKEN = "BUTLER_RUBIN_ACCESS_TOKEN", "ACCESS_TOKEN"
_FILE_TOKENS = ("LSST_HTTP_AUTH_BEARER_TOKEN", "CADC_TOKEN")
_CONFIG = "butler.yaml"
_TIMEOUT = 10.0  # seconds: a server that needs longer for these answers is of no use
_CLOCKS_APART = 60.0  # seconds
_RESOLUTION = 1.0  # seconds, of the time in an answer
_AWAY = (
    "check the URL and the network; behind a proxy set HTTPS_PROXY (and NO_PROXY for hosts inside), or try again later: "
    "the server may be down"
)
_LOGIN = "check the URL of the repository, and that no proxy or login page of the network answers instead of the server"
_INSTALL = "pip install 'lsstcutouts[remote]'"


class Reply(NamedTuple):
    """An answer, and when it was asked for and came (seconds since 1970, by the clock of this machine)."""

    answer: Answer
    began: float
    ended: float


class _Server(NamedTuple):
    """The server of a repository: its URL, the answers for ``butler.yaml`` and for the dimensions, and what the former holds."""

    url: str
    start: Reply
    config: dict[str, Any]
    universe: Reply | None


def ask(url: str, token: str = "") -> Reply:
    """Ask a Butler server as the Butler does: the same HTTP client, proxies and certificates; redirects are not followed.

    Raises
    ------
    RepositoryUnavailableError
        If there is no answer within ten seconds.
    RepositoryError
        If the certificate of the server is not trusted, or the request cannot be sent.
    DependencyError
        If the HTTP client of the Butler is not installed.
    """
    try:
        from lsst.daf.butler.remote_butler import _http_connection
    except ImportError as error:
        raise DependencyError(f"the Butler's HTTP client is not installed ({error})") from error
    # Its name in older versions of daf_butler is httpx.
    httpx: Any = getattr(_http_connection, "httpx2", None) or _http_connection.httpx  # type: ignore[attr-defined]
    headers = {"User-Agent": f"lsstcutouts/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})
    shown, began = without_query(url), time()
    try:
        with httpx.Client(timeout=_TIMEOUT) as client:
            response = client.get(url, headers=headers)
    except httpx.HTTPError as error:
        text = f"{origin_of(url)} does not answer: {error_text(error)}"
        if "CERTIFICATE" in text.upper():
            raise RepositoryError(f"the certificate of {origin_of(url)} is not trusted: {error_text(error)}") from error
        raise RepositoryUnavailableError(text) from error
    answer = Answer(shown, response.status_code, response.reason_phrase, response.headers, response.content)
    return Reply(answer, began, time())


def check_server(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that a Butler server answers, and that it has the repository."""
    try:
        server = _server(settings.repo, stack)
    except DependencyError as error:
        yield Result("fail", str(error), _INSTALL)
        return
    except RepositoryUnavailableError as error:
        yield Result("fail", str(error), _AWAY)
        return
    except RepositoryError as error:
        todo = "set SSL_CERT_FILE and LSST_HTTP_CACERT_BUNDLE to a file with the certificate of the authority that signed it"
        yield Result("fail", str(error), todo)
        return
    if server is None:
        return
    answer, universe = server.start.answer, None if server.universe is None else server.universe.answer
    seconds = server.start.ended - server.start.began
    kind = server.config.get("remote_butler", {}).get("authentication", "none")
    if answer.status_code != 200:
        yield _without_repository(answer) if answer.status_code == 404 else _broken(answer)
    elif web_page(answer) is not None:
        yield Result("fail", f"{answer.url}: a web page, probably a login page, instead of a Butler server", _LOGIN)
    elif not server.config:
        yield Result("fail", f"{answer.url} is not the configuration of a Butler repository", _LOGIN)
    elif universe is None:
        yield Result("pass", f"{answer.url} names no Butler server: the Butler here asks the registry database itself")
    elif universe.status_code in {404, 500}:
        yield _without_repository(universe)
    elif universe.status_code >= 400 and universe.status_code not in {401, 403}:
        yield _broken(universe)
    else:
        version = _version(universe)
        shown = f"API v1 with dimensions {version}" if version else "its version needs a token"
        yield Result("pass", f"{server.url} answers in {1000 * seconds:.0f} ms: {shown}; authentication {kind}")


def check_clock(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check the clock of this machine against that of the server."""
    server = _server(settings.repo, stack)
    if server is None:
        return
    reply, host = server.start, urlsplit(server.url).hostname
    if "Date" not in reply.answer.headers:
        yield Result("pass", f"{host} does not send its time")
        return
    apart = (reply.began + reply.ended) / 2 - (reply.answer.time + _RESOLUTION / 2)
    if abs(apart) <= _CLOCKS_APART:
        within = max(2 * _RESOLUTION, abs(apart))
        yield Result("pass", f"the clocks of this machine and of {host} agree within {within:.0f} s")
        return
    detail = f"the clock of this machine is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} that of {host}"
    todo = "set it (timedatectl set-ntp true, or ask the administrator): S3 refuses signatures of a clock that is 15 minutes off"
    yield Result("warn", detail, todo)


def check_token(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that there is a token for the server, and that the server accepts it."""
    server = _server(settings.repo, stack)
    if server is None or server.universe is None:
        return
    if _is_of_cadc(server.config):
        if os.environ.get("CADC_TOKEN"):
            yield Result("pass", "CADC_TOKEN is set; it is sent to the file servers of CADC, not to the Butler server")
        else:
            yield Result("fail", "no token: CADC_TOKEN is not set, which the file servers need", CADC_ADVICE)
        return
    token, host, answer = butler_token(server.url), urlsplit(server.url).hostname, server.universe.answer
    if not token:
        yield _without_token(server.url)
        return
    variable = _variable()
    other = f"; {_PLATFORM_TOKEN} is not used" if variable == _BUTLER_TOKEN and os.environ.get(_PLATFORM_TOKEN) else ""
    if token != token.strip() or not token.isascii():
        detail = f"{variable} begins or ends with a space or line break, or holds characters that no token has"
        yield Result("fail", detail, f"set {variable} again, to the token alone")
    elif answer.status_code in {401, 403}:
        yield refused(answer)
    elif not _version(answer):
        detail = f"{host} answers {answer.status_code} with another page, such as a login page, to a request with the token of "
        yield Result("fail", f"{detail}{variable}", _LOGIN)
    else:
        yield Result("pass", f"{variable} is set, sent only to {origin_of(server.url)}, and accepted{other}")


def refused(answer: Answer) -> Result:
    """Return the result for a server that refuses a token with 401 or 403."""
    host, variable = urlsplit(answer.url).hostname or "", _variable()
    page = _token_page(host)
    detail = f"{error_text(AnswerError(answer))}: "
    again = f"set {variable} to it" if variable == _BUTLER_TOKEN else "or end the session and start another one"
    if answer.status_code == 401:
        detail += f"the token in {variable} has expired, was revoked, or is of another server"
        return Result("fail", detail, f"create a new token with the scope read:image{page}, {again}")
    detail += f"the token in {variable} lacks the scope read:image, or you may not read this repository"
    return Result(
        "fail", detail, f"create a token with the scope read:image{page}, {again}; else ask for access to the data"
    )


@lru_cache(maxsize=1)
def _server(repo: str | None, _stack: ExitStack) -> _Server | None:
    """Return what the server of a repository answers, asked once for all checks; None for a repository without one."""
    if repo is None:
        return None
    uri = Butler.get_repo_uri(repo, return_label=True)
    if uri.scheme not in {"http", "https"}:
        return None
    trust_repository(repo)
    start = str(uri) if uri.getExtension() else f"{str(uri).rstrip('/')}/{_CONFIG}"
    root = start.rpartition("/")[0]
    reply = ask(start)
    config = _config(reply.answer)
    if "remote_butler" not in config:
        return _Server(f"{root}/", reply, config, None)
    url = str(config["remote_butler"].get("url", root)).replace("<butlerRoot>", root).rstrip("/") + "/"
    token = "" if _is_of_cadc(config) else butler_token(url)
    sendable = token if token.isascii() else ""  # no header can hold it
    return _Server(url, reply, config, ask(f"{url}v1/universe", sendable.strip()))


def _config(answer: Answer) -> dict[str, Any]:
    """Return the configuration in an answer, an empty one if it holds none."""
    if answer.status_code != 200 or web_page(answer) is not None:
        return {}
    try:
        config = yaml.safe_load(answer.content)
    except yaml.YAMLError:
        return {}
    return config if isinstance(config, dict) else {}


def _is_of_cadc(config: dict[str, Any]) -> bool:
    """Whether a Butler server asks for no token, but the servers of its files do."""
    return bool(config["remote_butler"].get("authentication") == "cadc")


def _version(answer: Answer) -> str:
    """Return name and version of the dimensions that a server knows, all that it says of its version; empty in other answers."""
    try:
        found = json.loads(answer.content)["universe"]
        return f"{found['namespace']} {found['version']}"
    except (ValueError, LookupError, TypeError):
        return ""


def _without_repository(answer: Answer) -> Result:
    name = urlsplit(answer.url).path.removesuffix("v1/universe").removesuffix(_CONFIG).rstrip("/").rpartition("/")[2]
    try:
        known = sorted(Butler.get_known_repos())
    except (LsstCutoutsError, OSError, RuntimeError):  # the index is only asked for names to show
        known = []
    detail = f"{error_text(AnswerError(answer))}: it does not know a repository {name!r}"
    detail += ", or has an internal error" if answer.status_code == 500 else ""
    return Result("fail", detail, f"check the name in repo={suggest(name, known) if known else ''}")


def _broken(answer: Answer) -> Result:
    detail = error_text(AnswerError(answer))
    if 300 <= answer.status_code < 400:
        return Result("fail", f"{detail}: it redirects to another page", _LOGIN)
    return Result("fail", detail, "the server is overloaded or broken: try again later, or ask its operators")


def _without_token(url: str) -> Result:
    """Return why no token is sent to a server."""
    origin, host = origin_of(url), urlsplit(url).hostname or ""
    todo = f"create a token with the scope read:image{_token_page(host)}, and set {_BUTLER_TOKEN} to it"
    others = [name for name in _FILE_TOKENS if os.environ.get(name)]
    if os.environ.get(_BUTLER_TOKEN) and not is_safe(url):
        detail = f"{_BUTLER_TOKEN} is set, but is not sent to {origin}, which is not encrypted"
        return Result("fail", detail, f"use its https address, or allow it with LSSTCUTOUTS_TOKEN_HOSTS={origin}")
    if os.environ.get(_BUTLER_TOKEN):
        detail = f"{_BUTLER_TOKEN} is set, but is not sent to {host}, which the butler.yaml names, not you"
        return Result("fail", detail, f"name {host} in LSSTCUTOUTS_TOKEN_HOSTS if you trust this server")
    if os.environ.get(_PLATFORM_TOKEN):
        detail = f"{_PLATFORM_TOKEN} is set, but is sent only to *{_RUBIN[0]} and *{_RUBIN[1]}, not to {host}"
        return Result("fail", detail, todo)
    if others:
        detail = f"{others[0]} is set, but is sent only to file servers, not to the Butler server {host}"
        return Result("fail", detail, todo)
    return Result("fail", f"no token: {_BUTLER_TOKEN} is not set", todo)


def _variable() -> str:
    return _BUTLER_TOKEN if os.environ.get(_BUTLER_TOKEN) else _PLATFORM_TOKEN


def _token_page(host: str) -> str:
    return f" at https://{host}/auth/tokens" if host.endswith(_RUBIN) else f" of {host}"
