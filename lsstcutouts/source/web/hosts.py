"""What is known of servers, and what has been asked of them."""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["Host", "WebFigures"]


@dataclass(frozen=True, slots=True)
class WebFigures:
    """What the requests of a process have done.

    Attributes
    ----------
    requests, data_bytes
        Requests for bytes of files, and the bytes that came.
    signatures
        Requests for signed URLs.
    active
        Requests under way.
    held
        Bytes that are under way, or wait to be read.
    rate, latency
        Bytes per second while bytes arrive, and seconds from a request to its answer; 0 if not known.
    waiting_for
        What is waited for while a server does not answer, and since how many seconds; an empty string if they answer.
    """

    requests: int
    data_bytes: int
    signatures: int
    active: int
    held: int
    rate: float
    latency: float
    waiting_for: str


class Host:
    """What is known of a server.

    Attributes
    ----------
    proxy
        URL of the proxy for it that the environment names, or None.
    origin
        Its address.
    last_good
        When it gave its latest good answer (monotonic clock); -1 if never.
    paused_until
        Before this time it wants no request.
    served
        URI of a file that it gave bytes of.
    takes_ranges
        Whether its latest answer was the range of bytes that was asked for, not the whole file.
    silent_since, failed, warned
        Since when it gives no good answer, 0.0 if it does; when it failed last; whether that was logged.
    given_up, silent_for
        When it was waited for in vain, and for how long: whatever was asked of it before fails as well.
    """

    __slots__ = (
        "failed",
        "given_up",
        "last_good",
        "origin",
        "paused_until",
        "proxy",
        "served",
        "silent_for",
        "silent_since",
        "takes_ranges",
        "warned",
    )

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.last_good, self.paused_until, self.served = -1.0, 0.0, ""
        self.takes_ranges = False
        self.silent_since, self.failed, self.warned = 0.0, 0.0, False
        self.given_up, self.silent_for = -math.inf, 0.0
        parts = urlsplit(origin)
        # Found out once: aiohttp's own `trust_env` reads ~/.netrc for every request.
        self.proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
