"""Runs the checks one after the other, and shows their results."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zlib import error as ZlibError

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...errors import ConfigurationError, LsstCutoutsError

__all__ = ["CHECKS", "TROUBLE", "Diagnosis", "Result", "Settings", "diagnose", "run"]


class _Check(NamedTuple):
    title: str
    module: str
    needs: tuple[str, ...]  # names of checks; if one of them failed, this one is not tried
    todo: str  # advice if the check raises an error
    remote: bool = False  # whether it is only for repositories, or files, that are not on the disk


_FORCE = "pip install --upgrade --force-reinstall"
_CUTOUTS, _RESTORE = "cutouts equal a second reader", "restore the file, or report this line"
_WHERE = "check repo=, collections=, dataset_type=, skymap= and bands="
_URL = "check repo= (https://HOST/api/butler/repo/NAME, or a label) and DAF_BUTLER_REPOSITORY_INDEX"
_NETWORK, _CACHE = (
    "check the network, or try again later",
    "set LSSTCUTOUTS_CACHE to another folder, or LSSTCUTOUTS_CACHE_BYTES",
)

CHECKS = {
    "packages": _Check("Python and packages", "packages", (), "pip install --upgrade lsstcutouts packaging"),
    "torch": _Check("torch computes", "compute", (), f"{_FORCE} torch"),
    "gpu": _Check("GPU", "compute", ("torch",), "see the NVIDIA driver (nvidia-smi) and torch's release notes"),
    "origins": _Check("origin of LSST packages", "origins", (), f"{_FORCE} lsst-daf-butler lsst-images"),
    "lsst": _Check("LSST packages", "packages", (), f"{_FORCE} lsst-daf-butler lsst-images"),
    "server": _Check("Butler server", "server_checks", ("lsst",), _URL, remote=True),
    "clock": _Check("clock", "server_checks", ("lsst", "server"), _NETWORK, remote=True),
    "token": _Check("token", "server_checks", ("lsst", "server"), _URL, remote=True),
    "repository": _Check("Butler repository", "repository_checks", ("lsst", "server", "token"), _WHERE),
    "access": _Check("signed URLs", "store_checks", ("repository",), _NETWORK, remote=True),
    "store": _Check("file store", "store_checks", ("repository", "access"), _NETWORK, remote=True),
    "disk": _Check("disk cache", "store_checks", ("repository",), _CACHE, remote=True),
    "cutout": _Check(_CUTOUTS, "repository_checks", ("repository", "access", "store"), _RESTORE),
    "resources": _Check("memory, disk, limits", "resources", (), "change the setting that is named"),
}
"""The checks in their order: ``check_<name>(settings, stack)`` of the module yields results, none if it does not apply to this
repository; ``stack`` is closed at the end. A module is imported just before its check, because it imports what it checks."""

type Status = Literal["pass", "warn", "fail"]

_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}  # from the best to the worst

_OTHERS = (ImportError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError, EOFError, ZlibError)
TROUBLE = (LsstCutoutsError, *_OTHERS)
"""What a broken environment raises. On import: a compiled module built for another numpy (ValueError), an incomplete upgrade
(AttributeError, TypeError), a missing shared library (OSError); in use: CUDA and codecs (RuntimeError), files (EOFError,
zlib's error), a Butler (LookupError)."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found, and what to do about it, one line each; a warning works, but not as well as it could."""

    status: Status
    detail: str
    todo: str = ""


@dataclass(frozen=True)
class Settings:
    """What is going to be used, as ``configs/doctor.yaml`` says; raises `ConfigurationError` for an invalid value."""

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
            if not _is_whole(value := getattr(self, name), least):
                raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if len(self.shape) != 2 or not all(_is_whole(n, 1) for n in self.shape):
            raise ConfigurationError(f"size must be whole pixels or (height, width), at least 1, got {self.size!r}")

    @property
    def may_be_remote(self) -> bool:
        """Whether the repository is named by a URL or a label, not by an existing folder or file."""
        return self.repo is not None and not Path(self.repo).exists()

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of a cutout, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def batch_bytes(self) -> int:
        """Bytes of the image plane of one batch; six bands if ``bands`` is None."""
        height, width = self.shape
        return 4 * self.batch_size * len(self.bands or "ugrizy") * height * width


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True)
class Diagnosis:
    """The results of the checks, by name."""

    results: dict[str, Result]

    @property
    def status(self) -> Status:
        """The worst status."""
        return _worst(self.results.values())

    @property
    def exit_status(self) -> int:
        """1 if a check failed, else 0."""
        return int(self.status == "fail")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: ``status``, and ``checks`` with ``name``, ``status``, ``detail`` and ``todo`` each."""
        return {"status": self.status, "checks": [{"name": n, **asdict(r)} for n, r in self.results.items()]}

    def table(self) -> Table:
        """Return the results for people: what was found, and below it what to do."""
        table = Table("", title=f"lsstcutouts doctor: {self.status}", title_justify="left")
        table.add_column("check", no_wrap=True)
        table.add_column("what was found, and what to do", overflow="fold")
        for name, (style, result) in ((n, (_STYLES[r.status], r)) for n, r in self.results.items()):
            found = Text(result.detail).append(f"\n-> {result.todo}" if result.todo else "", style)
            table.add_row(Text(result.status, style), CHECKS[name].title, found)
        return table


def run(cfg: DictConfig) -> Diagnosis:
    """Run all checks with a configuration (``configs/doctor.yaml``), and print the results unless ``json`` is set."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    with Console(stderr=True).status("") as spinner:
        diagnosis = diagnose(settings, before=lambda title: spinner.update(f"Testing: {title}"))
    if not values["json"]:
        Console(highlight=False).print(diagnosis.table())
    return diagnosis


def diagnose(
    settings: Settings | None = None,
    *,
    names: Iterable[str] = CHECKS,
    before: Callable[[str], object] = lambda _: None,
) -> Diagnosis:
    """Run checks in this order, by default all with default settings; ``before`` gets the title of each first.

    A check that does not apply to the repository has no result.
    """
    results: dict[str, Result] = {}
    wanted = settings or Settings()
    with ExitStack() as stack:
        for name in names:
            title, module, needs, todo, remote = CHECKS[name]
            before(title)
            if failed := [one for one in needs if one in results and results[one].status == "fail"]:
                first = repr(CHECKS[failed[0]].title)
                if wanted.may_be_remote or not remote:
                    results[name] = Result("fail", f"not tried, because {first} failed", f"see {first}")
                continue
            try:
                check = getattr(import_module(f"{__package__}.{module}"), f"check_{name}")
                found = list(check(wanted, stack))
            except TROUBLE as error:
                found = [Result("fail", f"{type(error).__name__}: {str(error) or 'no message'}", todo)]
            if found:
                results[name] = _combined(found)
    return Diagnosis(results)


def _combined(results: Sequence[Result]) -> Result:
    """Return one result, in lines of at most 400 characters, from those with the worst status."""
    worst = [result for result in results if result.status == _worst(results)]
    details, todos = "; ".join(r.detail for r in worst), "; ".join(dict.fromkeys(r.todo for r in worst if r.todo))
    lines = [" ".join(text.split()) for text in (details, todos)]
    return Result(_worst(results), *(line if len(line) <= 400 else f"{line[:396]} ..." for line in lines))


def _worst(results: Iterable[Result]) -> Status:
    return max((result.status for result in results), key=list(_STYLES).index, default="pass")
