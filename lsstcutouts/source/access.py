"""Which token goes to which server, and what the user can do if access is refused."""

import os
import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from ..errors.secrets import expiry_of, is_signed

__all__ = [
    "CADC_ADVICE",
    "access_advice",
    "access_variables",
    "butler_token",
    "file_token",
    "is_permanent",
    "is_safe",
    "origin_of",
    "trust_origin",
    "trusted_origins",
]

_RUBIN = ("*.lsst.cloud", "*.slac.stanford.edu")
_CADC = ("*.cadc-ccda.hia-hia.nrc-cnrc.gc.ca", "*.canfar.net")
"""Hosts to which ``lsst.daf.butler`` itself sends the tokens of these platforms."""

_BUTLER_TOKEN, _PLATFORM_TOKEN, _CADC_TOKEN = "BUTLER_RUBIN_ACCESS_TOKEN", "ACCESS_TOKEN", "CADC_TOKEN"
CADC_ADVICE = f"set {_CADC_TOKEN} to a valid token of CADC; it is sent only to {' and '.join(_CADC)}, over https"
"""What the user can do where a Butler server of CADC or its file servers refuse access."""

_FILE_TOKEN, _TOKEN_HOSTS = "LSST_HTTP_AUTH_BEARER_TOKEN", "LSSTCUTOUTS_TOKEN_HOSTS"

_PERMANENT = re.compile(r"/v1/dataset/[0-9a-fA-F-]{36}/download$")
_PORTS = {"http": 80, "https": 443}

_lock = threading.Lock()
_trusted: set[str] = set()
"""Origins of the Butler servers that the user named in this process."""


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL, as ``https://host:port``; the port is left out if it is the default one."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    scheme = {"dav": "http", "davs": "https"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, _PORTS.get(scheme)) else "")


def trust_origin(url: str) -> None:
    """Let the server of a URL have the Butler token, since the user named it as a repository."""
    if url.startswith(("http://", "https://")):
        with _lock:
            _trusted.add(origin_of(url))


def trusted_origins(add: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the origins that the user named, after adding those that the user named in another process of this program."""
    with _lock:
        _trusted.update(add)
        return tuple(sorted(_trusted))


def access_variables() -> dict[str, str]:
    """Return the environment variables of this process that reading depends on.

    A worker process that a fork server starts has those of the time when that server was started: an older token, for example.
    """
    names = {_BUTLER_TOKEN, _PLATFORM_TOKEN, _CADC_TOKEN, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "X509_USER_PROXY"}
    names |= {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
    kinds = ("LSSTCUTOUTS_", "LSST_HTTP_", "LSST_RESOURCES_", "AWS_", "S3_")
    return {name: text for name, text in os.environ.items() if name.upper() in names or name.startswith(kinds)}


def is_permanent(url: str) -> bool:
    """Whether a URL is the permanent address that a Butler server gives a dataset, which answers with a signed URL."""
    return _PERMANENT.search(urlsplit(url).path) is not None


def is_safe(url: str) -> bool:
    """Whether a token may be sent to this URL at all: over https, on this machine, or where the user allows plain http."""
    parts = urlsplit(origin_of(url))
    host = parts.hostname or ""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return parts.scheme == "https" or local or origin_of(url) in _named()


def butler_token(url: str) -> str:
    """Return the token for the Butler server of a URL; an empty string if there is none or this server may not have it.

    The server must be one that the user named, as the repository or in ``LSSTCUTOUTS_TOKEN_HOSTS``, or one of Rubin's. A
    plan from somebody else can name any server.
    """
    host = urlsplit(url).hostname or ""
    rubin = _matches(host, _RUBIN)
    if not is_safe(url) or not (rubin or origin_of(url) in _trusted or _is_named(url)):
        return ""
    return os.environ.get(_BUTLER_TOKEN, "") or (os.environ.get(_PLATFORM_TOKEN, "") if rubin else "")


def file_token(url: str) -> str:
    """Return the token for the file server of a URL; an empty string if there is none or this server may not have it.

    A URL that is signed gets none: S3 refuses a request with both.
    """
    if is_signed(url) or urlsplit(origin_of(url)).scheme != "https":
        return ""
    if _matches(urlsplit(url).hostname or "", _CADC) and (token := os.environ.get(_CADC_TOKEN)):
        return token
    token = os.environ.get(_FILE_TOKEN, "") if _is_named(url) else ""
    # As in lsst.resources, the variable can also be the path of a file that holds the token.
    path = Path(token).expanduser() if token.startswith(("/", "~")) else None
    return path.read_text(encoding="ascii").strip() if path is not None and path.is_file() else token


def access_advice(uri: str, url: str = "") -> str:
    """Return what the user can do if access to a file is refused; the end of an error message.

    Parameters
    ----------
    uri
        Address of the file in the plan.
    url
        The URL that was refused, if it is another one.
    """
    host = urlsplit(uri).hostname
    if uri.startswith("s3://"):
        return (
            "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN for temporary ones), or AWS_PROFILE, "
            "to valid credentials that may read the bucket"
        )
    if is_permanent(uri):
        return _butler_advice(uri)
    if is_signed(url or uri):
        expiry = expiry_of(url or uri)
        end = "" if expiry is None else f" and valid until {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"; its URL is signed{end}: make the plan again to get new URLs from the repository (a fetcher: call refresh())"
    if _matches(host or "", _CADC):
        return f"; {CADC_ADVICE}"
    if uri.startswith(("dav://", "davs://")) and not file_token(uri):
        return (
            f"; set token, or user_cert and user_key, for base_url {host} in the file that LSST_RESOURCES_WEBDAV_CONFIG names, or "
            f"{_FILE_TOKEN} to a token that {host} accepts, and {_TOKEN_HOSTS} to the name of the host"
        )
    if not os.environ.get(_FILE_TOKEN):
        return f"; set {_FILE_TOKEN} to a token that {host} accepts, and {_TOKEN_HOSTS} to the name of the host"
    if file_token(uri):
        return f"; check that {_FILE_TOKEN} is a token that {host} accepts"
    return f"; {_FILE_TOKEN} was not sent, since {_TOKEN_HOSTS} does not name {host}" + (
        "" if urlsplit(origin_of(uri)).scheme == "https" else "; tokens are sent only over https"
    )


def _butler_advice(uri: str) -> str:
    origin, host = origin_of(uri), urlsplit(uri).hostname
    resume = "then run the same command again: training resumes from its last checkpoint"
    if butler_token(uri):
        return (
            f"; the token has expired, was revoked or lacks the scope read:image: set {_BUTLER_TOKEN} to a new token of {host}, "
            + resume
        )
    if not (os.environ.get(_BUTLER_TOKEN) or os.environ.get(_PLATFORM_TOKEN)):
        return f"; no token is set: set {_BUTLER_TOKEN} to a token of {host} with the scope read:image, {resume}"
    if not is_safe(uri):
        return f"; no token was sent, since {origin} is not encrypted; use https, or name {origin} in {_TOKEN_HOSTS} to allow it"
    return (
        f"; no token was sent, since the plan names {host}, not you: give the URL of its repository as repo=, or name {host} in "
        f"{_TOKEN_HOSTS}, if you trust this server"
    )


def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(host.lower(), pattern) for pattern in patterns)


def _named() -> set[str]:
    """Return the hosts and origins that the user named in the environment."""
    return {one.strip().lower().rstrip("/") for one in os.environ.get(_TOKEN_HOSTS, "").split(",")} - {""}


def _is_named(url: str) -> bool:
    parts = urlsplit(url.lower())
    return not _named().isdisjoint({parts.hostname, parts.netloc.rpartition("@")[2], origin_of(url.lower())})
