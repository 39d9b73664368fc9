"""Summary table of the jobs of a sweep, best first."""

import csv
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from ...source.writing import atomic_file
from .failures import FAILURE

__all__ = ["SweepSummary", "ranked", "settings_of"]


class SweepSummary(Callback):
    """Write ``sweep.csv`` to the folder of the sweep after each job, and print the table after the last one.

    Failed jobs are included with the reason.

    Parameters
    ----------
    metric
        Metric of ``metrics.json`` by which jobs are ranked.
    mode
        Whether larger (``max``) or smaller (``min``) values are better.
    """

    def __init__(self, metric: str, mode: Literal["max", "min"] = "max") -> None:
        self.metric, self.mode = metric, mode
        self._start = time.time()
        self._sweeps = False

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Store the start time: the folder may contain jobs of earlier sweeps."""
        self._start, self._sweeps = time.time(), True

    def on_job_end(self, config: DictConfig, job_return: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write the jobs so far, as a sweep may be interrupted."""
        if self._sweeps:
            self._write_summary(Path(OmegaConf.select(config, "hydra.sweep.dir")))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print all jobs."""
        folder = Path(OmegaConf.select(config, "hydra.sweep.dir"))
        rows = self._write_summary(folder)
        if rows:
            console = Console()
            console.print(_table(rows, self.metric, f"Sweep: {folder / 'sweep.csv'}"))
            for row in rows:
                if "reason" in row:
                    console.print(f"job {row['job']} failed: {row['reason']}", markup=False, highlight=False)

    def _write_summary(self, folder: Path) -> list[dict[str, Any]]:
        """Collect the jobs from their folders, write ``sweep.csv`` and return the rows."""
        jobs = [_job(path, self._start) for path in folder.glob("*/.hydra/overrides.yaml")]
        rows = ranked([job for job in jobs if job is not None], self.metric, self.mode)
        if rows:
            _write(folder / "sweep.csv", rows)
        return rows


def settings_of(overrides: list[str]) -> dict[str, str]:
    """Return the overrides of a job as a mapping from name to value."""
    parts = (one.lstrip("+~").partition("=") for one in overrides)
    return {name: value for name, _, value in parts}


def ranked(jobs: list[dict[str, Any]], metric: str, mode: Literal["max", "min"]) -> list[dict[str, Any]]:
    """Return the jobs, best first; jobs without the metric or with NaN come last, by number."""
    sign = -1.0 if mode == "max" else 1.0

    def place(job: dict[str, Any]) -> tuple[bool, float, bool, Any]:
        value = job.get(metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return True, 0.0, isinstance(job["job"], str), job["job"]
        return False, sign * value, isinstance(job["job"], str), job["job"]

    return sorted(jobs, key=place)


def _job(overrides: Path, start: float) -> dict[str, Any] | None:
    """Return number, settings and metrics of a job that started after ``start``; None for earlier jobs."""
    folder = overrides.parents[1]
    # The time resolution of file systems can be 2 seconds.
    if overrides.stat().st_mtime < start - 2:
        return None
    job: dict[str, Any] = {"job": int(folder.name) if folder.name.isdigit() else folder.name, "folder": str(folder)}
    job |= settings_of([str(one) for one in OmegaConf.load(overrides)])
    failure, metrics = folder / FAILURE, folder / "metrics.json"
    if failure.is_file() and failure.stat().st_mtime >= start - 2:
        about = json.loads(failure.read_text(encoding="utf-8"))
        return {**job, "state": "failed", "reason": f"{about['error']}: {about['message']}"}
    if not metrics.is_file() or metrics.stat().st_mtime < start - 2:
        return {**job, "state": "failed", "reason": "the job ended without metrics.json"}
    found = json.loads(metrics.read_text())
    rest = {name: found[name] for name in ("cutouts_per_second", "waiting", "checkpoint")}
    return {**job, "state": "done", **found["metrics"], **rest}


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, _names(rows))
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, Any]], metric: str, title: str) -> Table:
    """Return a table of the settings and metrics that differ between the jobs."""
    names = _names(rows)
    given = names[: names.index("state")]  # settings come before, metrics behind
    found = [name for name in names[len(given) :] if name.startswith(("state", "val_", "cutouts_"))]
    differing = [n for n in [*given, *found] if len({str(row.get(n)) for row in rows}) > 1]
    shown = [name for name in dict.fromkeys(["job", *differing, metric]) if name != "folder"]
    table = Table(title=title, title_justify="left")
    for name in shown:
        table.add_column(_heading(name, shown), overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in shown))
    return table


def _heading(name: str, among: list[str]) -> str:
    """Return the last part of a dotted name if it is unique, otherwise the full name."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else name


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
