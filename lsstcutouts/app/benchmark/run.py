"""The verb ``benchmark``: from a configuration to figures, a picture and words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...loader.dataset import CutoutDataset
from ...loader.device.transfer import resolved
from ...loader.loader import CutoutLoader
from ...read.cache.tile_cache import TileCache
from ...read.reader import default_threads
from ...source.writing import atomic_file
from ...testing.simulation import SimulatedRepository
from .entries import Entry, Profile
from .fields import Field, ensure_repository, field_of, own_field
from .figure import Figure
from .figures import hit_rate, measure_scaling, measure_start, measure_waiting
from .gpu import device_words, measure_device
from .machine import about_machine
from .picture import write_pictures
from .planning import measure_planning
from .result import BenchmarkResult
from .settings import SHUFFLE, Scene, Settings, scenes_of
from .shuffle import ShuffleEntry, measure_shuffles, wide_repository, write_shuffle_picture
from .throughput import Scenery, measure_scene, profile_cost
from .words import advice

__all__ = ["benchmark", "run"]


def run(cfg: DictConfig) -> BenchmarkResult:
    """Measure what a configuration (``configs/benchmark.yaml``) describes; show it unless ``json`` is set."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        values["output"] = HydraConfig.get().runtime.output_dir  # each job of a sweep has its own
    result = benchmark(Settings.of(values), progress=not values["json"])
    if not values["json"]:
        Console(highlight=False).print(result.shown())
    return result


def benchmark(settings: Settings, *, progress: bool = False) -> BenchmarkResult:
    """Measure, and write ``benchmark.json`` and pictures into the folder ``settings.output``.

    Parameters
    ----------
    settings
        What to measure.
    progress
        Whether to show how far it is, on standard error.

    Raises
    ------
    PixelMismatchError
        Two ways give different pixels.
    ConfigurationError
        There is no such device.
    """
    resolved(settings.device)  # a GPU that is not there is said before anything is measured
    alone = set(settings.what) == {SHUFFLE} and settings.device == "cpu"
    made = [] if alone else [_field(settings, scene, progress) for scene in scenes_of(settings)]
    fields = [field for field, _ in made]
    run = _Run(settings, fields, Console(stderr=True, quiet=not progress))
    if "planning" in settings.what:
        run.planned([figure for _, figure in made[:1] if figure is not None])
    if "throughput" in settings.what:
        run.throughput()
    if fields:
        run.figures()
    if SHUFFLE in settings.what:
        run.shuffles(wide_repository(settings, progress=progress))
    return run.written()


def _field(settings: Settings, scene: Scene, progress: bool) -> tuple[Field, Figure | None]:
    """Return what is read, and what planning all of the user's own catalog took."""
    if settings.repo is not None:
        return own_field(settings, scene)
    repository = ensure_repository(settings, scene.release, scene.density, progress=progress)
    return field_of(settings, scene, repository), None


def _loader(field: Field, batch_size: int, cache: TileCache, device: torch.device | None) -> CutoutLoader:
    dataset = CutoutDataset(field.plan, rows=field.rows, batch_size=batch_size, cache=cache)
    return CutoutLoader(dataset, device=device)


class _Run:
    """What has been measured so far."""

    def __init__(self, settings: Settings, fields: list[Field], console: Console) -> None:
        self._settings, self._fields, self._console = settings, fields, console
        self._entries: list[Entry] = []
        self._profiles: list[Profile] = []
        self._figures: list[Figure] = []
        self._left_out: list[str] = []
        self._further: dict[str, Any] = {}
        self._waiting: float | None = None
        self._of_device: list[str] = []
        self._shuffles: list[ShuffleEntry] = []

    def throughput(self) -> None:
        """Measure every way in every regime of every scene."""
        for field in self._fields:
            scenery = Scenery(field, self._settings)
            self._left_out += [text for text in scenery.left_out if text not in self._left_out]
            with self._progress(str(field.scene), len(scenery.ways()) * self._settings.repeats) as after:
                entries, profiles = measure_scene(scenery, after)
            self._entries += entries
            self._profiles += profiles
            if field is self._fields[0]:
                self._further["profile_cost"] = profile_cost(scenery)

    def planned(self, figures: list[Figure]) -> None:
        """Note what planning the user's own catalog took."""
        self._figures += figures

    def figures(self) -> None:
        """Measure what belongs to no regime, on the first scene."""
        field, settings = self._fields[0], self._settings
        for name in settings.what:
            if name in {"throughput", SHUFFLE}:
                continue
            with self._console.status(f"Measuring: {name}"):
                if name == "hits":
                    self._figures.append(hit_rate(field, settings))
                elif name == "planning":
                    self._planning(field)
                elif name == "start":
                    self._figures += measure_start(field, settings)
                elif name == "scaling":
                    self._figures.append(measure_scaling(field, settings))
                elif name == "waiting":
                    self._wait(field)
        if settings.device != "cpu":
            with self._console.status("Measuring: device"):
                self._device(field)

    def shuffles(self, repository: SimulatedRepository) -> None:
        """Measure what each width of the shuffle costs and gives."""
        with self._console.status("Measuring: shuffle"):
            self._shuffles = measure_shuffles(repository, self._settings)
        self._further["shuffle"] = [entry.as_dict() for entry in self._shuffles]

    def _planning(self, field: Field) -> None:
        if field.repository is None:
            return  # the user's own catalog was planned before
        if field.repository.release != "dp2":
            self._left_out.append("planning is measured with files of DP2: release=dp2")
            return
        settings = self._settings
        self._figures += measure_planning(
            field, Path(settings.root), settings.planning_targets, settings.planning_patches
        )

    def _wait(self, field: Field) -> None:
        waiting = measure_waiting(field, self._settings)
        self._figures.append(waiting.figure)
        self._further["waiting"] = waiting.detail
        self._waiting = waiting.figure.value

    def _device(self, field: Field) -> None:
        device = torch.device(self._settings.device)
        cache = TileCache(self._settings.cache_bytes)
        found = measure_device(partial(_loader, field, self._settings.batch_size, cache), device)
        self._further["device"] = found
        self._of_device = device_words(found)

    def written(self) -> BenchmarkResult:
        """Write JSON and pictures, and return the result."""
        settings, machine = self._settings, about_machine()
        output = Path(settings.output)
        files = []
        subtitle = f"{machine['cpu']}, {machine['usable_cores']} cores; {machine['date']}"
        if self._entries:
            files = write_pictures(output, self._entries, self._profiles, "lsstcutouts", subtitle)
        if self._shuffles:
            files.append(write_shuffle_picture(output / "shuffle.png", self._shuffles, subtitle, settings.wide_cache))
        told = [*advice(self._entries, self._profiles, default_threads(), self._waiting), *self._of_device]
        path = output / "benchmark.json"
        result = BenchmarkResult(
            settings,
            machine,
            self._entries,
            self._profiles,
            self._figures,
            told,
            self._further,
            self._left_out,
            [str(file) for file in (*files, path)],
            self._shuffles,
        )
        with atomic_file(path) as part:
            part.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
        return result

    @contextmanager
    def _progress(self, text: str, total: int) -> Iterator[Any]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(text, total=total)
            yield lambda _: bar.advance(task)
