"""The verb ``export``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from ...bulk.estimate import ExportEstimate
from ...bulk.exporting import Export
from ...bulk.partition_job import JobResult, check_run
from ...bulk.partition_progress import partition_progress
from ...bulk.verifying import VerifyResult, verify_export
from ...errors import ConfigurationError
from ...plan.quality import QualityPolicy
from ...plan.read_options import ReadOptions
from ...source.amounts import shown_bytes, shown_seconds
from .job_results import shown_result, write_report
from .plain import plain_settings

__all__ = ["Exported", "Verified", "parse_part", "run"]

_OF_EXPORT = (
    *("collections", "bands", "size", "dataset_type", "planes", "dtype", "columns", "ra", "dec", "object_id", "unit"),
    *("select", "cone", "threads", "cache_bytes"),
)


@dataclass(frozen=True)
class Exported:
    """What an export has written, and what it expected."""

    result: JobResult
    estimate: ExportEstimate

    @property
    def exit_status(self) -> int:
        """2 if partitions failed."""
        return 2 if self.result.failed else 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**self.result.as_dict(), "estimate": self.estimate.as_dict()}

    def __str__(self) -> str:
        return shown_result(self.result, "and data.repo= of lsstcutouts train")


@dataclass(frozen=True)
class Verified:
    """What a comparison with the repository found."""

    result: VerifyResult

    @property
    def exit_status(self) -> int:
        """1 if something differs."""
        return 1 if self.result.differences else 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return self.result.as_dict()

    def __str__(self) -> str:
        one = self.result
        found = "\n".join(f"  {line}" for line in one.differences) or "  equal to the repository, bit for bit"
        return f"{one.folder}: {one.rows:,} rows of {one.partitions} partitions compared\n{found}"


def run(cfg: DictConfig) -> Exported | Verified:
    """Export, or verify an export, as a configuration (``configs/export.yaml``) describes.

    Raises
    ------
    ConfigurationError
        If a setting is missing or invalid, or the disk is too small.
    """
    settings = plain_settings(cfg)
    if settings["action"] not in {"run", "verify"}:
        raise ConfigurationError(f"action={settings['action']} must be one of run, verify")
    result = _verify(settings) if settings["action"] == "verify" else _export(settings)
    if not settings["json"]:
        Console(soft_wrap=True, highlight=False).print(str(result), markup=False)
    return result


def parse_part(text: Any) -> tuple[int, int]:
    """Return ``(i, n)`` of ``i/n``.

    Raises
    ------
    ConfigurationError
        If it is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if match is None:
        raise ConfigurationError(f"part={text} must be i/n, such as part=1/20")
    number, parts = int(match[1]), int(match[2])
    if not 1 <= number <= parts:
        raise ConfigurationError(f"part={text} must be i/n with i from 1 to n")
    return number, parts


def _verify(settings: Mapping[str, Any]) -> Verified:
    rows = settings["rows"]
    if rows != "all" and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
        raise ConfigurationError(f"rows={rows} must be a number of rows, or all")
    return Verified(verify_export(str(settings["output"]), rows=None if rows == "all" else rows))


def _export(settings: Mapping[str, Any]) -> Exported:
    missing = [name for name in ("catalog", "repo", "collections") if settings[name] is None]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} must be given: add {' '.join(f'{name}=...' for name in missing)}"
        )
    if not isinstance(settings["read"], Mapping):
        raise ConfigurationError(
            f"read={settings['read']} must be a dictionary; did you mean read.tract={settings['read']}?"
        )
    part, start = parse_part(settings["part"]), perf_counter()
    check_run(settings["engine"], part)
    console = Console(soft_wrap=True, highlight=False, quiet=bool(settings["json"]))
    with Export(
        settings["catalog"],
        str(settings["repo"]),
        str(settings["output"]),
        read=_read_options(settings["read"]),
        partition_bytes=int(settings["partition_bytes"]),
        **{name: settings[name] for name in _OF_EXPORT},
    ) as one:
        done = one.begin()
        estimate = one.estimate(done)
        console.print(_announced(one, estimate, len(done)), markup=False)
        estimate.check_disk(one.folder)
        results = list(done)
        # What another process of a Slurm array finishes meanwhile is not counted here.
        with partition_progress("exporting", -(-estimate.partitions // part[1]), shown=not settings["json"]) as update:
            for result in one.run(
                done,
                engine=settings["engine"],
                scheduler=settings["scheduler"],
                workers=settings["workers"],
                part=part,
            ):
                results.append(result)
                update(result)
    exported = Exported(one.result(results, perf_counter() - start), estimate)
    write_report(one.folder, exported.as_dict())
    return exported


def _read_options(given: Mapping[str, Any]) -> ReadOptions:
    quality = given["quality"]
    try:
        if isinstance(quality, Mapping):
            quality = QualityPolicy(**{name: value for name, value in quality.items() if name != "_target_"})
        return ReadOptions(**{**given, "quality": quality})
    except TypeError as error:  # an unknown name
        raise ConfigurationError(f"read={dict(given)}: {error}") from error


def _announced(one: Export, estimate: ExportEstimate, done: int) -> str:
    """Return what an export will take, for people."""
    count = len(one.catalog)
    lines = [f"{one.catalog.label}: {count} partition{'s' * (count != 1)}{f', {done} finished before' * bool(done)}"]
    if estimate.partitions:
        share = estimate.covered / max(1, estimate.rows)
        lines.append(
            f"  about {estimate.rows:,} rows, {share:.0%} of them covered by images ({estimate.sampled} partitions were looked at)"
        )
        lines.append(
            f"  about {shown_bytes(estimate.bytes)} to write into {one.folder}; {shown_bytes(estimate.free)} are free"
        )
    if estimate.rate:
        lines.append(
            f"  about {shown_seconds(estimate.seconds())} with one process ({estimate.rate:,.0f} cutouts/s, measured just now)"
        )
    return "\n".join(lines)
