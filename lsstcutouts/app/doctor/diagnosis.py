"""Running the checks one after the other, and telling people or programs about them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .check import CHECKS, TROUBLE, Check, Machine, Settings, Status, Visit

__all__ = ["Diagnosis", "diagnose", "run"]


class _Step(NamedTuple):
    """Where a check is, what it is called for people, which other it builds on, and what to do when it breaks off."""

    title: str
    module: str
    needs: str | None
    todo: str


_AGAIN = "pip install --upgrade --force-reinstall"

# The modules load when their turn comes: each imports what it tests.
_STEPS = {
    "packages": _Step("Python and packages", "packages", None, "pip install --upgrade lsstcutouts packaging"),
    "torch": _Step("torch computes", "compute", None, f"{_AGAIN} torch"),
    "gpu": _Step("GPU", "compute", "torch", "see the NVIDIA driver (nvidia-smi) and torch's release notes"),
    "lsst": _Step("LSST packages", "packages", None, f"{_AGAIN} lsst-daf-butler lsst-images"),
    "repository": _Step(
        "Butler repository",
        "repository_checks",
        "lsst",
        "give other repo=, collections= or dataset_type=",
    ),
    "cutout": _Step(
        "cutouts equal a second reader",
        "repository_checks",
        "repository",
        "restore the file, or report this line",
    ),
    "resources": _Step("memory, disk, limits", "resources", None, "change the setting that is named"),
}
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def diagnose(
    settings: Settings | None = None,
    *,
    machine: Machine | None = None,
    names: Sequence[str] = CHECKS,
    before: Callable[[str], object] = lambda _: None,
) -> list[Check]:
    """Run the checks one after the other.

    Parameters
    ----------
    settings
        What is going to be used; by default a simulated repository and the default batch.
    machine
        What the checks look at; by default this machine.
    names
        Which of `CHECKS`, in their order.
    before
        Told the title of each check before it runs.

    Returns
    -------
    list of Check
        One for each name. A check that builds on a failed one is not tried and fails.
    """
    done: dict[str, Check] = {}
    with ExitStack() as stack:
        visit = Visit(settings or Settings(), machine or Machine(), stack)
        for name in names:
            before(_STEPS[name].title)
            done[name] = _tried(name, _STEPS[name], visit, done)
    return list(done.values())


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst of all."""
        found = {check.status for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def exit_status(self) -> int:
        """1 if a check failed, else 0."""
        return int(self.status == "fail")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: ``status``, and ``checks`` with ``name``, ``status``, ``detail`` and ``todo`` each."""
        return {"status": self.status, "checks": [asdict(check) for check in self.checks]}

    def table(self) -> Table:
        """Return the results for people: what was found, and below it what to do."""
        result = Table(title=f"lsstcutouts doctor: {self.status}", title_justify="left")
        result.add_column("")
        result.add_column("check", no_wrap=True)
        result.add_column("what was found, and what to do", overflow="fold")
        for check in self.checks:
            colour = _COLOURS[check.status]
            found = Text(check.detail)
            if check.todo:
                found.append(f"\n-> {check.todo}", style=colour)
            result.add_row(Text(check.status, style=colour), Text(_STEPS[check.name].title), found)
        return result


def run(cfg: DictConfig) -> Diagnosis:
    """Run all checks with the settings of a configuration (``configs/doctor.yaml``), and show them unless ``json`` is set."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    with Console(stderr=True).status("") as spinner:
        checks = diagnose(settings, before=lambda title: spinner.update(f"Testing: {title}"))
    diagnosis = Diagnosis(tuple(checks))
    if not values["json"]:
        Console(highlight=False).print(diagnosis.table())
    return diagnosis


def _tried(name: str, step: _Step, visit: Visit, done: dict[str, Check]) -> Check:
    needed = done.get(step.needs or "")
    if needed is not None and needed.status == "fail":
        title = _STEPS[needed.name].title
        return Check(name, "fail", f"not tried, because {title!r} failed", f"see {title!r}")
    try:
        module = visit.machine.load(f"{__package__}.{step.module}")
        result: Check = getattr(module, f"check_{name}")(visit)
    except TROUBLE as error:
        return Check.failed(name, error, step.todo)
    return result
