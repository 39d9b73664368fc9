"""The verb ``simulate``."""

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate
from .plain import plain_settings

__all__ = ["SimulateResult", "run"]


@dataclass(frozen=True)
class SimulateResult:
    """Result of ``simulate``: the written repository."""

    repository: SimulatedRepository

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        about = {field.name: getattr(self.repository, field.name) for field in fields(self.repository)}
        return about | {"root": str(self.repository.root), "catalog": str(self.repository.truth)}

    def __str__(self) -> str:
        made = self.repository
        absent = ", ".join(f"{band} in patch {patch}" for patch, band in made.missing) or "none"
        return (
            f"{made.root}: a {made.release} repository, collection {made.collections}, skymap {made.skymap},"
            f" tract {made.tract}, patches {', '.join(map(str, made.patches))}, bands {''.join(made.bands)}"
            f" (missing on purpose: {absent})\n"
            f"{made.truth}: catalog of the targets with labels"
        )


def run(cfg: DictConfig) -> SimulateResult:
    """Write the repository that a configuration (``configs/simulate.yaml``) describes."""
    settings = plain_settings(cfg)
    config = SimulationConfig(**{field.name: settings[field.name] for field in fields(SimulationConfig)})
    root, overwrite = str(settings["root"]), bool(settings["overwrite"])
    made = SimulateResult(simulate(root, config, progress=not settings["json"], overwrite=overwrite))
    if not settings["json"]:
        Console(soft_wrap=True, highlight=False).print(str(made), markup=False)
    return made
