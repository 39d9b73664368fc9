"""What a check says, what it is asked, and what it looks at."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self
from zlib import error as ZlibError

from ...errors import ConfigurationError, LsstCutoutsError

if TYPE_CHECKING:
    from .compute import InstalledTorch
    from .packages import InstalledPackages
    from .resources import ThisMachine

__all__ = ["CHECKS", "TROUBLE", "Check", "Finding", "Machine", "Settings", "Visit"]

type Status = Literal["pass", "warn", "fail"]

CHECKS = ("packages", "torch", "gpu", "lsst", "repository", "cutout", "resources")
"""Names of the checks, in their order."""

_ORDER: tuple[Status, ...] = ("pass", "warn", "fail")
_LONGEST = 400

TROUBLE = (
    LsstCutoutsError,
    ImportError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    EOFError,
    ZlibError,
)
"""What a broken environment raises: the package's own exceptions and those of the packages that it is made of.

Seen on import: a compiled module built for another numpy (ValueError), half of an upgraded package (AttributeError,
TypeError), a shared library that is not there (OSError, ImportError); in use: CUDA's and codecs' own errors
(RuntimeError), servers and files (OSError, EOFError, zlib's error), a Butler's answers (LookupError, RuntimeError).
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check saw."""

    status: Status
    detail: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name
        One of `CHECKS`.
    status
        ``"pass"``, ``"warn"`` (works, but not as well as it could) or ``"fail"``.
    detail
        What was found, one line.
    todo
        What to do about it, one line; empty for a pass.
    """

    name: str
    status: Status
    detail: str
    todo: str = ""

    @classmethod
    def of(cls, name: str, findings: Iterable[Finding]) -> Self:
        """Return the worst of several findings; where nothing is wrong, all of them."""
        found = list(findings)
        worst: Status = max((f.status for f in found), key=_ORDER.index, default="pass")
        told = [f for f in found if f.status == worst]
        todo = "; ".join(dict.fromkeys(f.todo for f in told if f.todo))
        return cls(name, worst, one_line("; ".join(f.detail for f in told)), one_line(todo))

    @classmethod
    def failed(cls, name: str, error: BaseException, todo: str) -> Self:
        """Return the failure that an exception means."""
        text = one_line(str(error)) or "no message"
        return cls(name, "fail", one_line(f"{type(error).__name__}: {text}"), todo)


def one_line(text: str) -> str:
    """Return a text without line breaks, cut where it gets long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 4] + " ..."


@dataclass(frozen=True)
class Settings:
    """What is going to be used, and so is tested.

    Attributes
    ----------
    repo
        Path, label or URL of the repository; None for a simulated one, written for the occasion and removed.
    collections
        Collection names, searched in order; only with ``repo``.
    dataset_type, skymap
        As in `~lsstcutouts.LsstDataFetcher`.
    bands
        One-letter bands as one string, or names; None for those that have coadds.
    size
        Pixels: one number, or ``(height, width)``.
    cache_bytes
        Budget of the tile cache, as `~lsstcutouts.TileCache` takes it.
    batch_size
        Targets a batch.
    num_workers
        Worker processes of the loader.
    output
        Folder that a training writes to.

    Raises
    ------
    ConfigurationError
        If a value cannot work.
    """

    repo: str | None = None
    collections: str | Sequence[str] | None = None
    dataset_type: str = "deep_coadd"
    skymap: str | None = None
    bands: str | Sequence[str] | None = None
    size: int | Sequence[int] = 64
    cache_bytes: float | str = "auto"
    batch_size: int = 128
    num_workers: int = 0
    output: str = "."

    def __post_init__(self) -> None:
        if self.repo is not None and not self.collections:
            raise ConfigurationError(f"repo={self.repo!r} needs collections=, such as collections=dp2")
        if self.repo is None and self.collections:
            raise ConfigurationError(f"collections={self.collections!r} without repo=: name the repository, too")
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")
        _ = self.shape

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a cutout."""
        pair = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(pair) != 2 or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in pair):
            raise ConfigurationError(f"size must be whole pixels or (height, width), at least 1, got {self.size!r}")
        return pair[0], pair[1]

    @property
    def batch_bytes(self) -> int:
        """Bytes of the image plane of one batch; six bands unless ``bands`` says otherwise."""
        rows, columns = self.shape
        return 4 * self.batch_size * (len(self.bands) if self.bands else 6) * rows * columns


@dataclass(frozen=True)
class Machine:
    """What the checks look at; an object with the same methods can replace each part, None stands for this machine's.

    Attributes
    ----------
    load
        Imports a module by name.
    packages
        The installed packages.
    torch
        What torch can do.
    resources
        Memory, disk and limits.
    """

    load: Callable[[str], Any] = import_module
    packages: "InstalledPackages | None" = None
    torch: "InstalledTorch | None" = None
    resources: "ThisMachine | None" = None


@dataclass
class Visit:
    """What the checks of one diagnosis share."""

    settings: Settings
    machine: Machine
    stack: ExitStack

    @cached_property
    def scratch(self) -> Path:
        """A folder that is removed when the diagnosis is over; made on first use."""
        return Path(self.stack.enter_context(TemporaryDirectory(prefix="lsstcutouts-doctor-")))
