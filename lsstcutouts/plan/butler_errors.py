"""The seam between a Butler and this package's errors, and the words that help with a wrong name."""

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
from ..source.remote import download

__all__ = ["open_butler", "suggest", "translate_butler_errors", "translate_file_errors"]

type _Meaning = tuple[type[LsstCutoutsError], str]
"""Our class, and what to do."""

_ACCESS_ADVICE = (
    "; set BUTLER_RUBIN_ACCESS_TOKEN to a token of the server that may read images (read:image), or for storage of "
    "your own AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_WEB_PAGE = "the server answers with a web page, most likely for logging in"
_DATABASE_ADVICE = (
    "; see that the registry database which the repository's butler.yaml names is there, whole and readable"
)
_TRANSIENT = ("locked", "connection", "connect to server", "timeout expired", "starting up", "too many clients")
"""What SQLite and PostgreSQL say when the same question can be answered later."""

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
        (RepositoryError, "; this is no Butler server's answer: see that the URL is the repository's"),
    ),
    (yaml.YAMLError, (RepositoryError, "; see its butler.yaml")),
)

_OTHER_ERRORS: dict[ErrorKind, _Meaning] = {
    ErrorKind.MISSING: (RepositoryNotFoundError, "; see that the path or URL is the repository's"),
    ErrorKind.DENIED: (AuthenticationError, "; ask for the right to read its files and folders"),
    ErrorKind.CREDENTIALS: (AuthenticationError, _ACCESS_ADVICE),
    ErrorKind.TRUNCATED: (RepositoryError, ""),
    ErrorKind.TIMEOUT: (RepositoryUnavailableError, "; the server does not answer in time: try again later"),
    ErrorKind.UNAVAILABLE: (
        RepositoryUnavailableError,
        "; see that the URL (repository name, host, port) is right and the server is up, or try again later",
    ),
    ErrorKind.DEPENDENCY: (
        DependencyError,
        "; install the package, for a Butler server with: pip install 'lsstcutouts[remote]'",
    ),
    ErrorKind.OTHER: (RepositoryError, ""),
}


class translate_butler_errors:  # noqa: N801 - reads as a clause of `with`
    """Turn what a Butler raises in the block into this package's errors, with the cause chained.

    Parameters
    ----------
    question
        Beginning of the message: which repository is asked for what.
    others
        Built-in kinds that mean trouble of the repository as well; elsewhere they would be mistakes of this package.
    """

    def __init__(self, question: str, others: tuple[type[Exception], ...] = ()) -> None:
        self._question = question
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
            raise AuthenticationError(f"{self._question}: {_WEB_PAGE}{_ACCESS_ADVICE}") from error
        meaning = _meaning(error)
        if meaning is None and isinstance(error, (RuntimeError, *self._others)):
            meaning = (RepositoryError, "")
        if meaning is not None:
            raise meaning[0](f"{self._question}: {_error_text(error)}{meaning[1]}") from error


class translate_file_errors:  # noqa: N801 - reads as a clause of `with`
    """Turn what a Butler raises in the block, where it reads a file, into this package's errors.

    Parameters
    ----------
    uri
        The file.
    what
        What is read of it.
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
        says = f"{self._uri}: the Butler cannot read {self._what}: {error_text(error)}"
        if error_kind(error) is ErrorKind.CREDENTIALS:
            raise AuthenticationError(f"{says}{_ACCESS_ADVICE}") from error
        if isinstance(error, ImportError):
            raise DependencyError(f"{says}; it needs the LSST stack for this, lsstcutouts does not") from error
        if type(error).__name__ == "FileIntegrityError":
            raise CorruptFileError(f"{says}; transfer the file again") from error
        raise ReadError(says) from error


def open_butler(repo: str | os.PathLike[str]) -> Butler:
    """Open a repository for reading.

    Raises
    ------
    RepositoryNotFoundError
        There is none of that path, URL or label.
    AuthenticationError
        It wants (other) credentials.
    RepositoryUnavailableError
        It gives no answer now.
    DependencyError
        A package is missing for this kind of repository.
    RepositoryError
        It cannot be opened for another reason.
    """
    name = os.fspath(repo)
    shown = without_query(name)  # a signature in it gives access
    # A butler.yaml that is YAML and yet no configuration ends in one of these.
    others = (TypeError, ValueError, LookupError, AttributeError)
    with translate_butler_errors(f"the Butler repository {shown!r} cannot be opened", others):
        try:
            config = _configuration(name)
            _check_server(name, config)
            return Butler.from_config(config, writeable=False)
        except FileNotFoundError as error:
            if error_kind(error) is not ErrorKind.MISSING:  # any status but 200, when butler.yaml is read over HTTP
                raise
            hint = "; the folder exists but holds no butler.yaml" if Path(name).is_dir() else ""
            raise RepositoryNotFoundError(
                f"no Butler repository {shown!r}{hint}; give a path, a URL, or a label of DAF_BUTLER_REPOSITORY_INDEX"
                f" ({error_text(error)})"
            ) from error


def _configuration(name: str) -> ButlerConfig:
    """Return a repository's configuration, one from the web without sending a token that is for file servers."""
    uri = Butler.get_repo_uri(name, return_label=True)
    if uri.scheme not in {"http", "https"}:
        return ButlerConfig(name)
    if not uri.getExtension():
        uri = ResourcePath(uri, forceDirectory=True).join("butler.yaml", forceDirectory=False)
    config = Config.fromString(download(uri).decode())
    config.configFile = uri
    return ButlerConfig(config)


def _check_server(name: str, config: ButlerConfig) -> None:
    """Refuse a configuration from the web that names a server on another host: it would be sent the user's token."""
    server = urlsplit(str(config["remote_butler", "url"]) if ("remote_butler", "url") in config else "").netloc
    origin = config.configDir
    if server and origin is not None and not origin.isLocal and server != urlsplit(str(origin)).netloc:
        raise AuthenticationError(
            f"the butler.yaml of {name!r} names a server on another host, {server}, which would be sent your token; give "
            "that server's URL as the repository if you trust it"
        )


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about a name that is not known: close ones, else what there is."""
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; there is: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}" if known else "; there is none"


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
    """Whether a model was to be made of a web page."""
    return any(re.search(r"<(?:!doctype\s+)?html\b", str(one["input"])[:400], re.IGNORECASE) for one in error.errors())


def _database_error(error: SQLAlchemyError) -> _Meaning:
    """Return what an error of the registry's database means: its driver tells only in words."""
    says = str(error).lower()
    if any(words in says for words in _REFUSED):
        return AuthenticationError, "; see the credentials for the registry database (~/.lsst/db-auth.yaml)"
    if any(words in says for words in _TRANSIENT):
        return RepositoryUnavailableError, "; see that the registry database is up, or try again later"
    return RepositoryError, _DATABASE_ADVICE


def _error_text(error: Exception) -> str:
    words, cause = error_text(error), error.__cause__
    # A server error of the client says only that there was one.
    told = isinstance(cause, Exception) and type(error).__name__ == "ButlerServerError"
    return f"{words} ({error_text(cause)})" if told and cause is not None else words
