"""Opens a Butler, translates its exceptions to this package's errors, and suggests names for unknown ones."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pydantic
import yaml
from lsst.daf.butler import (
    Butler,
    ButlerConfig,
    ButlerUserError,
    Config,
    DatasetNotFoundError,
    EmptyQueryResultError,
    MissingCollectionError,
    MissingDatasetTypeError,
)
from lsst.daf.butler.registry import CollectionError as ButlerCollectionError  # type: ignore[attr-defined]
from lsst.resources import ResourcePath
from sqlalchemy.exc import SQLAlchemyError

from ..errors import (
    AuthenticationError,
    CollectionError,
    ConfigurationError,
    CorruptFileError,
    DatasetError,
    DependencyError,
    LsstCutoutsError,
    ReadError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryUnavailableError,
)
from ..errors.error_classes import ErrorKind, error_kind, error_text
from ..errors.secrets import hide_secrets, without_query
from ..source.access import CADC_ADVICE, is_safe, origin_of, trust_origin
from ..source.remote import download

__all__ = [
    "open_butler",
    "server_of",
    "shown_server",
    "suggest",
    "translate_butler_errors",
    "translate_file_errors",
    "trust_repository",
]

type _Meaning = tuple[type[LsstCutoutsError], str]
"""Exception class of this package, and what the user can do (the end of the message)."""

_ACCESS_ADVICE = (
    "; set BUTLER_RUBIN_ACCESS_TOKEN to a token of this server with the scope read:image or, for your own S3 storage, set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_WEB_PAGE = "the server answers with a web page, probably a login page"
_DATABASE_ADVICE = "; check that the registry database named in the repository's butler.yaml exists and can be read"
_TRANSIENT = ("locked", "connection", "connect to server", "timeout expired", "starting up", "too many clients")
"""Parts of messages of SQLite and PostgreSQL that mean that a retry can succeed."""

_REFUSED = ("authentication failed", "no pg_hba.conf entry", "no password supplied", "permission denied")

_BUTLER_ERRORS: tuple[tuple[type[Exception], _Meaning], ...] = (
    (MissingCollectionError, (CollectionError, "; give another name with collections=")),
    (ButlerCollectionError, (CollectionError, "; give collections=")),
    (MissingDatasetTypeError, (DatasetError, "; give another name with dataset_type=")),
    (DatasetNotFoundError, (DatasetError, "")),
    (EmptyQueryResultError, (DatasetError, "")),
    (ButlerUserError, (ConfigurationError, "")),
    (
        pydantic.ValidationError,
        (RepositoryError, "; this is not the answer of a Butler server: check the URL of the repository"),
    ),
    (yaml.YAMLError, (RepositoryError, "; correct its butler.yaml")),
)

_OTHER_ERRORS: dict[ErrorKind, _Meaning] = {
    ErrorKind.MISSING: (RepositoryNotFoundError, "; check the path or URL of the repository"),
    ErrorKind.DENIED: (AuthenticationError, "; ask for read permission for its files and folders"),
    ErrorKind.CREDENTIALS: (AuthenticationError, _ACCESS_ADVICE),
    ErrorKind.TRUNCATED: (RepositoryError, ""),
    ErrorKind.TIMEOUT: (
        RepositoryUnavailableError,
        "; the server did not answer within the time limit: try again later",
    ),
    ErrorKind.UNAVAILABLE: (
        RepositoryUnavailableError,
        "; check the URL (repository name, host, port) and that the server is running, or try again later",
    ),
    ErrorKind.DEPENDENCY: (
        DependencyError,
        "; install the package; for a Butler server: pip install 'lsstcutouts[remote]'",
    ),
    ErrorKind.OTHER: (RepositoryError, ""),
}


class translate_butler_errors:  # noqa: N801 - used like a function in `with`
    """Translate exceptions of a Butler query in a ``with`` block to this package's errors, with the cause chained.

    Parameters
    ----------
    problem
        Start of the message: which repository, and what failed.
    others
        Further built-in exceptions that become `RepositoryError`; without this they would count as bugs of this package.
    """

    def __init__(self, problem: str, others: tuple[type[Exception], ...] = ()) -> None:
        self._problem = problem
        self._others = others

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        hide_secrets(error)
        if isinstance(error, LsstCutoutsError | RecursionError):
            return
        if isinstance(error, pydantic.ValidationError) and _is_web_page(error):
            raise AuthenticationError(f"{self._problem}: {_WEB_PAGE}{_ACCESS_ADVICE}") from error
        meaning = _meaning(error)
        if meaning is None and isinstance(error, (RuntimeError, *self._others)):
            meaning = (RepositoryError, "")
        if meaning is not None:
            raise meaning[0](f"{self._problem}: {_error_text(error)}{meaning[1]}") from error


class translate_file_errors:  # noqa: N801 - used like a function in `with`
    """Translate exceptions of a Butler that reads a file in a ``with`` block to this package's errors.

    Parameters
    ----------
    uri
        The file, for the message.
    what
        The part of the file that is read, for the message.
    """

    def __init__(self, uri: str, what: str) -> None:
        self._uri, self._what = uri, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, ImportError | OSError | RuntimeError | ValueError | LookupError):
            return
        hide_secrets(error)
        if isinstance(error, LsstCutoutsError):
            return
        message = f"{self._uri}: the Butler cannot read {self._what}: {error_text(error)}"
        if error_kind(error) is ErrorKind.CREDENTIALS:
            raise AuthenticationError(f"{message}{_ACCESS_ADVICE}") from error
        if isinstance(error, ImportError):
            raise DependencyError(
                f"{message}; the Butler needs the LSST stack to read this file, lsstcutouts does not"
            ) from error
        if type(error).__name__ == "FileIntegrityError":
            raise CorruptFileError(f"{message}; transfer the file again") from error
        raise ReadError(message) from error


def trust_repository(repo: object) -> None:
    """Let the server of a repository that the user named have the user's token: a URL, a label, or an open Butler."""
    if isinstance(repo, Butler):
        trust_origin(server_of(repo))
    elif isinstance(repo, str):
        known = "://" in repo or Path(repo).exists()
        trust_origin(repo if known else str(Butler.get_repo_uri(repo, return_label=True)))


def server_of(butler: Butler) -> str:
    """Return the URL of the server that a Butler asks; an empty string if it asks none."""
    connection = getattr(butler, "_connection", None)  # of a RemoteButler; there is no public attribute
    return str(getattr(connection, "server_url", ""))


def shown_server(repo: str | os.PathLike[str]) -> str:
    """Return the server that opening a repository asks, as messages name it: its address, or a label; empty for a path."""
    name = os.fspath(repo)
    if name.startswith(("http://", "https://")):
        return origin_of(name)
    return "" if "://" in name or Path(name).exists() else f"the repository {name!r}"


def open_butler(repo: str | os.PathLike[str]) -> Butler:
    """Open a repository for reading.

    Raises
    ------
    RepositoryNotFoundError
        If there is no repository at this path, URL or label.
    AuthenticationError
        If the repository needs credentials, or refuses those that are set.
    RepositoryUnavailableError
        If the repository does not answer now.
    DependencyError
        If a package for this kind of repository is not installed.
    RepositoryError
        If it cannot be opened for another reason.
    """
    name = os.fspath(repo)
    shown = without_query(name)  # a signature in the query grants access
    # A butler.yaml that is valid YAML but not a valid configuration raises one of these.
    others = (TypeError, ValueError, LookupError, AttributeError)
    with translate_butler_errors(f"the Butler repository {shown!r} cannot be opened", others):
        try:
            config = _configuration(name)
            _check_server(name, config)
            _check_token_of_cadc(shown, config)
            trust_repository(name)
            return Butler.from_config(config, writeable=False)
        except FileNotFoundError as error:
            if error_kind(error) is not ErrorKind.MISSING:  # over HTTP, another error status for butler.yaml
                raise
            hint, more = "", ""
            if Path(name).is_dir():
                hint = ": the folder contains no butler.yaml"
            elif "/" in name and "://" not in name and not Path(name).exists():
                hint = ": there is no such folder"
            else:
                more = f" ({error_text(error)})"
            raise RepositoryNotFoundError(
                f"no Butler repository {shown!r}{hint}; give a path, a URL, or a label of DAF_BUTLER_REPOSITORY_INDEX{more}"
            ) from error


def _configuration(name: str) -> ButlerConfig:
    """Return the configuration of a repository; over HTTP, without sending the token of the file servers."""
    uri = Butler.get_repo_uri(name, return_label=True)
    if uri.scheme not in {"http", "https"}:
        return ButlerConfig(name)
    if not uri.getExtension():
        uri = ResourcePath(uri, forceDirectory=True).join("butler.yaml", forceDirectory=False)
    config = Config.fromString(download(str(uri)).decode())
    config.configFile = uri
    return ButlerConfig(config)


def _check_server(name: str, config: ButlerConfig) -> None:
    """Raise `AuthenticationError` if a remote configuration names a server on another host, which would get the token."""
    origin = config.configDir
    url = str(config["remote_butler", "url"]) if ("remote_butler", "url") in config else ""
    url = url.replace("<butlerRoot>", str(origin))
    server = urlsplit(url).netloc
    if server and not is_safe(url):
        raise AuthenticationError(
            f"the Butler server {origin_of(url)} of {name!r} is not encrypted, so that everyone on the way could read your token; use "
            f"its https address, or allow it with LSSTCUTOUTS_TOKEN_HOSTS={origin_of(url)}"
        )
    if server and origin is not None and not origin.isLocal and server != urlsplit(str(origin)).netloc:
        raise AuthenticationError(
            f"the butler.yaml of {name!r} names a server on another host, {server}, which would receive your token; if you "
            "trust that server, give its URL as the repository"
        )


def _check_token_of_cadc(shown: str, config: ButlerConfig) -> None:
    """Raise `AuthenticationError` if there is no token for the file servers of CADC, without which a Butler does not open."""
    key = ("remote_butler", "authentication")
    if key in config and config[key] == "cadc" and not os.environ.get("CADC_TOKEN"):
        raise AuthenticationError(f"the files of {shown!r} need a token, and none is set; {CADC_ADVICE}")


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: similar names, otherwise the known names."""
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    listed = f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    return f"; there are: {listed}" if known else "; there are none"


def _meaning(error: Exception) -> _Meaning | None:
    for kind, meaning in _BUTLER_ERRORS:
        if isinstance(error, kind):
            return meaning
    if isinstance(error, SQLAlchemyError):
        return _database_error(error)
    if isinstance(error, RuntimeError) and "access credentials" in str(error):
        return AuthenticationError, _ACCESS_ADVICE
    trouble = error_kind(error)
    return None if trouble is None else _OTHER_ERRORS[trouble]


def _is_web_page(error: pydantic.ValidationError) -> bool:
    """Whether the invalid input of a model was a web page."""
    return any(re.search(r"<(?:!doctype\s+)?html\b", str(one["input"])[:400], re.IGNORECASE) for one in error.errors())


def _database_error(error: SQLAlchemyError) -> _Meaning:
    """Return the meaning of an error of the registry database, which only its message shows."""
    message = str(error).lower()
    if any(part in message for part in _REFUSED):
        return AuthenticationError, "; check the credentials for the registry database (~/.lsst/db-auth.yaml)"
    if any(part in message for part in _TRANSIENT):
        return RepositoryUnavailableError, "; check that the registry database is running, or try again later"
    return RepositoryError, _DATABASE_ADVICE


def _error_text(error: Exception) -> str:
    text, cause = error_text(error), error.__cause__
    # The message of a ButlerServerError does not say what went wrong; its cause does.
    if isinstance(cause, Exception) and type(error).__name__ == "ButlerServerError":
        return f"{text} ({error_text(cause)})"
    return text
