"""How long a server that does not answer is waited for, and what is said of it."""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from ..errors import LsstCutoutsError, RepositoryUnavailableError
from ..errors.error_classes import error_text, http_status
from .retry import Retry
from .web.answers import Answer
from .web.request_limits import TimeLimits

__all__ = ["UNNOTICED", "Patience", "log_return", "log_waiting", "patience_for", "unavailable_error"]

_log = logging.getLogger(__name__)

UNNOTICED = 1.0
"""Seconds without a good answer that are not worth a word."""

_FIRST_PATIENCE = 60.0
"""Seconds for which a server that has never answered is tried, at most: its name or the network may be wrong."""

_AWAY = {None, 408, 425, 429, 502, 503, 504}
"""HTTP statuses of a server, or of a proxy in front of it, that is away or too busy; None for no answer."""


def patience_for(*, answered: bool) -> float:
    """Return the seconds that a server is waited for, which has answered before or not."""
    patience = TimeLimits.from_environment().patience
    return patience if answered else min(patience, _FIRST_PATIENCE)


def unavailable_error(
    server: str, error: BaseException, *, silent_for: float = 0.0, wanted: float = 0.0
) -> RepositoryUnavailableError:
    """Return the error for a server that was waited for in vain, or that wants no request for longer than the patience."""
    done = f"wants no request for {wanted:.0f} s" if wanted else f"has given no good answer for {silent_for:.0f} s"
    return RepositoryUnavailableError(
        f"{server} {done}: {error}; check the network and the server, then run the same command again: training resumes from its last "
        "checkpoint. How long is waited for it is set with LSSTCUTOUTS_PATIENCE (seconds)"
    )


def log_waiting(server: str, patience: float, error: BaseException) -> None:
    """Log that a server is waited for."""
    _log.warning("waiting for %s, for at most %.0f s: %s", server, patience, error_text(error))


def log_return(server: str, seconds: float) -> None:
    """Log that a server that was waited for answers."""
    _log.warning("%s answers again, after %.0f s", server, seconds)


class _AwayError(LsstCutoutsError):
    """Hides from `Retry` that a server is away: it would give up within a minute."""


class Patience:
    """Repeats queries to a Butler server as long as reading waits for a server of files.

    Parameters
    ----------
    retry
        Repeats queries that fail for other transient reasons. Its clock and the length of its waits are used.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._answered = False

    def call[T](self, function: Callable[[], T], name: str, server: str) -> T:
        """Return the result of a query.

        Parameters
        ----------
        function
            The query.
        name
            What is asked, for the log.
        server
            The Butler server, an empty string if none is asked.

        Raises
        ------
        RepositoryUnavailableError
            If the server is away for longer than the patience.
        """
        if not server:
            return self._retry.call(function, name)
        clock, warned, tries = self._retry.clock, False, 0
        start = clock.now()
        while True:
            try:
                result = self._retry.call(partial(_without_retry, function), name)
            except _AwayError as away:
                error = away.__cause__
                assert isinstance(error, LsstCutoutsError)
                tries += 1
                spent, patience = clock.now() - start, patience_for(answered=self._answered)
                wanted = _retry_after(error)
                if wanted > patience or spent + wanted >= patience:
                    longer = wanted if wanted > patience else 0.0
                    raise unavailable_error(server, error, silent_for=spent, wanted=longer) from error.__cause__
                wait = clock.draw() * min(self._retry.longest, self._retry.first * 2.0 ** min(tries - 1, 10))
                wait = wanted or min(wait, patience - spent)
                if spent + wait > UNNOTICED and not warned:
                    warned = True
                    log_waiting(server, patience, error)
                clock.sleep(wait)
                continue
            self._answered = True
            if warned:
                log_return(server, clock.now() - start)
            return result


def _without_retry[T](function: Callable[[], T]) -> T:
    """Return what a function returns; raise `_AwayError` if its server is away."""
    try:
        return function()
    except RepositoryUnavailableError as error:
        if next((status for one in _causes(error) if (status := http_status(one))), None) in _AWAY:
            raise _AwayError from error
        raise


def _retry_after(error: BaseException) -> float:
    """Return the seconds after which a server wants to be asked again; 0 if it did not say."""
    for one in _causes(error):
        headers = getattr(getattr(one, "response", None), "headers", {})
        if seconds := Answer("", 0, "", headers).retry_after:
            return seconds
    return 0.0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
