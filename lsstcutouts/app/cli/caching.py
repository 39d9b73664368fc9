"""The verb ``cache``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from ...errors import ConfigurationError, LsstCutoutsError, ReadError
from ...plan.cutout_plan import CutoutPlan
from ...read.fill_cache import FillResult, fill_cache
from ...read.options import ReaderOptions
from ...source.access import trust_origin
from ...source.amounts import shown_bytes
from ...source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE, cache_budget, cache_folder
from ...source.disk.figures import DiskCacheFigures
from ...source.disk.upkeep import CheckResult, check, clear, summary
from ...source.progress import progress_bar
from .plain import plain_settings

__all__ = ["CacheChecked", "CacheCleared", "CacheFilled", "CacheShown", "reader_options", "run"]


@dataclass(frozen=True)
class CacheShown:
    """What the disk cache holds, and how it was used."""

    folder: Path
    figures: DiskCacheFigures

    @property
    def hit_rate(self) -> float | None:
        """Part of the bytes that came from the cache, not over the network; None if none were read."""
        used = self.figures.hit_bytes + self.figures.written
        return self.figures.hit_bytes / used if used else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"folder": str(self.folder), **asdict(self.figures), "hit_rate": self.hit_rate}

    def __str__(self) -> str:
        one = self.figures
        rate = "" if self.hit_rate is None else f"; hit rate {self.hit_rate:.1%} of the bytes"
        return "\n".join(
            [
                f"{self.folder}: {shown_bytes(one.bytes)} of at most {shown_bytes(one.budget)} ({BUDGET_VARIABLE})",
                f"  {one.files} remote files in {one.segments} segments",
                f"  {one.hits} hits ({shown_bytes(one.hit_bytes)}), {one.misses} misses, {shown_bytes(one.written)} added{rate}",
                f"  {one.damaged} damaged records were found while reading",
            ]
        )


@dataclass(frozen=True)
class CacheCleared:
    """Bytes that were removed."""

    folder: Path
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"folder": str(self.folder), "bytes": self.bytes}

    def __str__(self) -> str:
        return f"{self.folder}: {shown_bytes(self.bytes)} removed"


@dataclass(frozen=True)
class CacheChecked:
    """What a check of all records found."""

    folder: Path
    result: CheckResult

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"folder": str(self.folder), **asdict(self.result)}

    def __str__(self) -> str:
        one = self.result
        found = "all records are intact"
        if one.damaged:
            found = (
                f"{one.damaged} records are damaged; {one.removed} segments that hold them were removed, and what they held is "
                "fetched again when it is needed. If this happens again, check the disk"
            )
        return f"{self.folder}: {one.records} records in {one.segments} segments checked; {found}"


@dataclass(frozen=True)
class CacheFilled:
    """What was fetched."""

    folder: Path
    result: FillResult

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"folder": str(self.folder), **self.result.as_dict()}

    def __str__(self) -> str:
        one = self.result
        rate = one.bytes / max(one.seconds, 1e-3)
        took = f"{shown_bytes(one.bytes)} fetched in {one.seconds:.0f} s ({rate / 1e6:.1f} MB/s)"
        fetched = f"{took}, {one.requests} requests, {one.signatures} signed URLs"
        lines = [
            f"{self.folder}: all that an epoch of {one.targets} targets reads of {one.files} files",
            f"  {fetched if one.requests else 'nothing had to be fetched'}",
        ]
        return "\n".join([*lines, f"  {one.unread} ranges cannot be read"] if one.unread else lines)


type _Result = CacheShown | CacheCleared | CacheChecked | CacheFilled


def run(cfg: DictConfig) -> _Result:
    """Do what a configuration (``configs/cache.yaml``) asks for.

    Raises
    ------
    ConfigurationError
        If there is no such action, the cache is off, or ``plan`` is missing.
    ReadError
        If the folder of the cache cannot be read or changed.
    """
    settings = plain_settings(cfg)
    actions: Mapping[str, Callable[[Path, Mapping[str, Any]], _Result]]
    actions = {"show": _show, "clear": _clear, "check": _check, "fill": _fill}
    if settings["action"] not in actions:
        raise ConfigurationError(f"action={settings['action']} must be one of {', '.join(actions)}")
    folder = cache_folder()
    if folder is None or cache_budget() == 0:
        variable = FOLDER_VARIABLE if folder is None else BUDGET_VARIABLE
        raise ConfigurationError(
            f"the disk cache is off ({variable}); set {FOLDER_VARIABLE} to a folder on a local disk"
        )
    try:
        result = actions[settings["action"]](folder, settings)
    except OSError as error:
        if isinstance(error, LsstCutoutsError):
            raise
        raise ReadError(
            f"the disk cache in {folder} cannot be used: {error.strerror}: {error.filename}; set {FOLDER_VARIABLE} to a folder of yours"
        ) from error
    if not settings["json"]:
        Console(soft_wrap=True, highlight=False).print(str(result), markup=False)
    return result


def reader_options(planes: Sequence[str] | str, mask_planes: Sequence[str] = (), **read: Any) -> ReaderOptions:
    """Return options that read planes; where no bits of the mask are named, one that every file has."""
    names = tuple(mask_planes) or (("NO_DATA",) if "mask" in planes else ())
    return ReaderOptions(planes=planes, mask_planes=names, **read)


def _show(folder: Path, _: Mapping[str, Any]) -> CacheShown:
    return CacheShown(folder, summary(folder))


def _clear(folder: Path, _: Mapping[str, Any]) -> CacheCleared:
    return CacheCleared(folder, clear(folder))


def _check(folder: Path, settings: Mapping[str, Any]) -> CacheChecked:
    with progress_bar("checking", shown=not settings["json"], of_bytes=True) as update:
        return CacheChecked(folder, check(folder, update))


def _fill(folder: Path, settings: Mapping[str, Any]) -> CacheFilled:
    if settings["plan"] is None:
        raise ConfigurationError("plan= must be given: lsstcutouts cache fill plan=plan.parquet")
    plan = CutoutPlan.load(str(settings["plan"]))
    if settings["repo"] is not None:
        trust_origin(str(settings["repo"]))
    options = reader_options(settings["planes"], settings["mask_planes"], on_read_error=settings["on_read_error"])
    return CacheFilled(folder, fill_cache(plan, options, settings["threads"], not settings["json"]))
