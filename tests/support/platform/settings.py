"""What the platform imitates, and what it records: the values that the test process and the front exchange as JSON."""

from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = ["TOKEN", "Counters", "Request", "Settings"]

TOKEN = "gt-good.token"
"""The only bearer token that the platform accepts."""

FAULTS = {"", "close", "hang", "login", "short"}
Refusal = Literal["aws", "gcs", "401"]


@dataclass(frozen=True)
class Settings:
    """How the platform answers. The default is a fast network without faults.

    A fault is ``"close"`` (connection closed without an answer), ``"hang"`` (no answer before the next `reset`, or for two
    minutes), ``"login"`` (200 with a login page), ``"short"`` (the answer breaks off halfway), or a status such as
    ``"503"`` or ``"429"``. For objects also ``"expired"``: refused in the way that ``expired`` names.
    """

    rate: float = 0.0
    """Bytes per second of all connections together; 0 for no limit."""
    rtt: float = 0.0
    """Round trip in seconds: once before each answer, twice for a new connection (TCP and TLS)."""
    slow_start: bool = True
    """Whether a connection begins with 10 segments of 1448 bytes and doubles that each round trip."""
    away: float = 0.0
    """For so many seconds from now the network is lost: open connections are reset, new ones too."""

    check_signatures: bool = True
    expire_after: float = 0.0
    """Seconds after which a signed URL is refused; 0 for the hour that it is signed for. S3 signs whole seconds."""
    expired: Refusal = "aws"
    """Refusal of an expired URL: 403 AccessDenied, 400 ExpiredToken, or 401."""
    deleted: str = ""
    """Part of the path of objects that are gone: 403 AccessDenied, as S3 answers without permission to list."""
    no_ranges: bool = False
    """Whether range requests are answered with 200 and the whole file."""

    fault: str = ""
    fault_n: int = 0
    """How many times per object; 0 for every time. Setting ``fault`` or ``fault_n`` starts the count again."""
    drop: float = 0.0
    """Share of the answers with data that break off halfway, chosen at random; the same ones after each `reset`."""

    api_fault: str = ""
    api_n: int = 0
    """How many times, over all requests to the Butler server; 0 for every time."""
    retry_after: int = 0
    """Seconds in the Retry-After header of faults with a status; 0 for none."""
    token_revoked: bool = False
    """Whether the ingress answers 401 to every token."""
    token_scope: bool = False
    """Whether the ingress answers 403, as to a token without the scope ``read:image``."""
    query_limit: int = 2
    """Queries at a time; others get 429. The Butler server has this limit per user and replica; 0 for none."""
    query_retry_after: int = 5
    """Seconds in the Retry-After header of refused queries."""
    query_hold: float = 0.0
    """Seconds that each query takes longer, to make queries meet."""

    def __post_init__(self) -> None:
        for name, known in (("fault", FAULTS | {"expired"}), ("api_fault", FAULTS)):
            fault = getattr(self, name)
            if fault not in known and not (fault.isdigit() and len(fault) == 3):
                raise ValueError(f"{name}={fault!r} must be a status or one of {sorted(known)}")
        if self.expired not in get_args(Refusal):
            raise ValueError(f"expired={self.expired!r} must be one of {get_args(Refusal)}")


@dataclass
class Request:
    """A request that the front received."""

    time: float
    """Seconds since 1970."""
    port: str
    """``"data"`` (objects) or ``"api"`` (Butler server)."""
    connection: int
    """Number of the connection; a connection that is used again keeps it."""
    method: str
    path: str
    query: str
    headers: dict[str, str]
    """All headers; names in lower case."""
    status: int = 0
    """Status of the answer; 0 where none was sent."""
    bytes: int = 0
    """Bytes of the answer's body that were sent."""
    seconds: float = 0.0
    """From the request until the end of the answer; 0 while it is sent, or where it broke off."""
    fault: str = ""
    """The fault that was imitated."""

    @property
    def range(self) -> str:
        """The Range header."""
        return self.headers.get("range", "")


@dataclass
class Counters:
    """Sums over the log, and peaks since the last `reset`."""

    data_requests: int = 0
    data_bytes: int = 0
    data_connections: int = 0
    """Connections with at least one request for an object."""
    api_requests: int = 0
    signatures: int = 0
    """Requests for a signed URL through the permanent URL of a dataset (``.../download``)."""
    peak_connections: int = 0
    """Most connections for objects that were open at once."""
    peak_in_flight: int = 0
    """Most requests for objects that were being answered at once."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Number of answers by status, over both ports."""
