"""The verb ``plan``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...catalog.targets import Catalog
from ...errors import ConfigurationError
from ...plan.coverage import Coverage
from ...plan.coverage_figure import picture_format, write_coverage
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...plan.splits.assignment import SplitAssignment, assign_splits, find_leaks
from ...plan.splits.split_options import SplitOptions
from ...plan.tables import PlanSummary
from ...read.download import Download, Link, estimate_download, measure_link
from ...read.options import ReaderOptions
from ...source.amounts import shown_bytes, shown_seconds
from ...source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE
from ...source.disk.disk_cache import DiskCache
from .caching import reader_options
from .plain import plain_settings

__all__ = ["PlanResult", "RemoteReading", "run"]


@dataclass(frozen=True)
class RemoteReading:
    """What reading a remote plan once takes, and what the disk cache can do for it.

    Attributes
    ----------
    download, link
        Estimate, and rate and latency measured for it.
    folder, budget
        Folder of the disk cache, and its budget in bytes; None and 0 if it is off.
    """

    download: Download
    link: Link
    folder: str | None
    budget: int

    @property
    def seconds(self) -> float:
        """How long the download takes."""
        return self.download.seconds(self.link)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        cache = {"cache_folder": self.folder, "cache_budget": self.budget}
        return {**self.download.as_dict(), **asdict(self.link), "seconds": self.seconds, **cache}

    def __str__(self) -> str:
        one, link = self.download, self.link
        needed = shown_bytes(one.needed_bytes)
        lines = [
            f"  {one.files} remote files with targets ({shown_bytes(one.file_bytes)}); an epoch reads about {needed} of them",
            f"  about {shown_bytes(one.bytes)} to download, in at least {one.requests} requests; {one.signatures} URLs to be signed",
        ]
        if one.bytes and link.rate:
            measured = f"{link.rate / 1e6:.1f} MB/s and {1000 * link.latency:.0f} ms for an answer, measured just now"
            lines.append(f"  about {shown_seconds(self.seconds)} at {measured}")
        if self.folder is None:
            lines.append(
                f"  the disk cache is off: every epoch downloads this again; set {FOLDER_VARIABLE} to a folder"
            )
        else:
            held = f"{shown_bytes(one.cached_bytes)} of it are in the disk cache"
            lines.append(f"  {held}, {self.folder} (at most {shown_bytes(self.budget)})")
        if self.folder is not None and one.needed_bytes > self.budget:
            lines.append(
                f"  the disk cache is too small: every epoch downloads again; set {BUDGET_VARIABLE} to '{needed}' or more"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class PlanResult:
    """Summary of a plan, what a remote one takes, and the number of targets of each split if splits were asked for."""

    summary: PlanSummary
    remote: RemoteReading | None
    splits: Mapping[str, Mapping[str, Any]] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; ``remote`` only for remote files."""
        remote = {} if self.remote is None else {"remote": self.remote.as_dict()}
        return {**self.summary.as_dict(), **remote, "splits": self.splits}

    def table(self) -> Table:
        """Return the splits for people."""
        table = Table(title="Splits", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("split", "targets", "share", "patches", "left out, sharing pixels"):
            table.add_column(heading, justify="left" if heading == "split" else "right")
        for name, row in (self.splits or {}).items():
            table.add_row(name, str(row["targets"]), f"{row['share']:.1%}", str(row["patches"]), str(row["dropped"]))
        return table


def run(cfg: DictConfig) -> PlanResult:
    """Build, and perhaps save, the plan that a configuration (``configs/plan.yaml``) describes.

    Raises
    ------
    ConfigurationError
        If ``read`` or ``splits`` is not a dictionary.
    LeakError
        If a column or ids assign the splits, these share pixels, and ``splits.leaks`` is not set.
    """
    settings = plain_settings(cfg)
    for name, example in (("read", "tract"), ("splits", "shares")):
        if not isinstance(settings[name], Mapping):
            raise ConfigurationError(
                f"{name}={settings[name]} must be a dictionary; did you mean {name}.{example}={settings[name]}?"
            )
    if settings["picture"] is not None:
        picture_format(str(settings["picture"]))
    options, read = _split_options(settings["splits"]), reader_options(settings["planes"])
    needed = [*(settings["columns"] or ()), *([] if options is None else options.columns)]
    columns = tuple(dict.fromkeys(needed))
    catalog = Catalog.from_any(
        settings["catalog"],
        columns=columns,
        **{name: settings[name] for name in ("ra", "dec", "object_id", "unit", "allow_overflow", "select", "cone")},
    )
    plan = build_plan(
        str(settings["repo"]),
        catalog,
        columns=columns,
        read=ReadOptions(**settings["read"]),
        **{name: settings[name] for name in ("collections", "bands", "size", "dataset_type")},
    )
    if settings["output"] is not None:
        plan.save(str(settings["output"]))
    summary = plan.summary(ranks=settings["ranks"])
    console = Console(soft_wrap=True, highlight=False, quiet=bool(settings["json"]))
    console.print(str(summary), markup=False)
    remote = _remote_reading(plan, read) if plan.files.remote else None
    if remote is not None:
        console.print(str(remote), markup=False)
    assignment = None if options is None else assign_splits(plan, options, seed=settings["seed"])
    if settings["picture"] is not None:
        write_coverage(str(settings["picture"]), Coverage.of(plan, assignment))
    if assignment is None:
        return PlanResult(summary, remote, None)
    result = PlanResult(summary, remote, _counted(plan, assignment))
    console.print(result.table())
    leaks = assignment.leaks or find_leaks(assignment.splits)
    console.print("\n".join(str(leak) for leak in leaks) or "No pixel is in two splits.", markup=False)
    return result


def _split_options(given: Mapping[str, Any]) -> SplitOptions | None:
    """Return how targets are assigned to splits; None if ``shares`` and ``select`` are both null."""
    if given["shares"] is None and given["select"] is None:
        return None
    options = SplitOptions(**given)
    return replace(options, leaks="raise") if given["leaks"] is None and not options.fractions else options


def _remote_reading(plan: CutoutPlan, read: ReaderOptions) -> RemoteReading:
    """Estimate and measure what reading a remote plan once takes."""
    download, samples = estimate_download(plan, read)
    link, disk = measure_link(plan, samples), DiskCache.of_process()
    budget = 0 if disk is None else disk.figures().budget
    return RemoteReading(download, link, None if disk is None else str(disk.folder.parent), budget)


def _counted(plan: CutoutPlan, assignment: SplitAssignment) -> dict[str, dict[str, Any]]:
    whole = max(1, sum(len(rows) for name, (_, rows) in assignment.splits.items() if name != "predict"))
    return {
        name: {
            "targets": len(rows),
            "share": len(rows) / whole,
            "patches": plan.patches_under(rows),
            "dropped": len(assignment.dropped.get(name, ())),
        }
        for name, (_, rows) in assignment.splits.items()
        if name != "predict"
    }
