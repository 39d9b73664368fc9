"""What to measure: settings, and the regimes that they span."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ...errors import ConfigurationError

__all__ = ["CACHES", "MASK_PLANES", "SHUFFLE", "WHAT", "Regime", "Scene", "Settings", "regimes_of", "scenes_of"]

PLANES: Mapping[str, tuple[str, ...]] = {"image": ("image",), "all": ("image", "variance", "mask")}
"""What the words of the setting ``planes`` stand for."""

MASK_PLANES = ("NO_DATA", "SATURATED", "DETECTED")
"""Mask planes that the benchmark asks for."""

CACHES = ("cold", "cleared", "warm")
"""States of the cache before a pass, files in the page cache always.

cold: a new dataset and an empty cache, as the first epoch finds it; memory comes fresh from the kernel, which takes 0.04 to
0.45 s for the 240 MB of a DP2 patch, whatever the program does. cleared: no tile decoded either, but the memory of the pass
before is used again, as in every later moment of an epoch over more sky than the cache holds. warm: every tile decoded.
"""

WHAT = ("throughput", "hits", "planning", "start", "scaling", "waiting")
"""Groups of measurements that are made unless others are asked for."""

OWN = ("own", "catalog")
"""What stands for release and density where the user's own repository and catalog are measured."""

SHUFFLE = "shuffle"
"""Quality and cost of shuffling by width, a group of its own: on a repository of many patches, a minute to write."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "release": ("dp2", "dp1"),
    "density": ("dense", "sparse"),
    "planes": tuple(PLANES),
    "cache": CACHES,
    "order": ("shuffled", "ordered"),
    "what": (*WHAT, SHUFFLE),
    "device": ("cpu", "cuda"),
}

_EVERYTHING: Mapping[str, tuple[Any, ...]] = {
    "release": ("dp2", "dp1"),
    "density": ("dense", "sparse"),
    "size": (64, 32, 128, 256),
    "planes": ("image", "all"),
    "cache": CACHES,
    "order": ("shuffled", "ordered"),
    "threads": (1, 2),
    "workers": (0, 1, 2),
}
"""What ``full`` measures."""

_LEAST = {
    "size": 1,
    "threads": 1,
    "workers": 0,
    "targets": 1,
    "targets_per_patch": 1,
    "sparse_patches": 1,
    "batch_size": 1,
    "repeats": 1,
    "butler_targets": 1,
    "peer_targets": 1,
    "planning_targets": 1,
    "planning_patches": 1,
    "scaling_targets": 1,
    "wide_patches": 1,
    "wide_targets": 1,
    "widths": 1,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What is read: which files, which boxes, which planes."""

    release: str
    density: str
    size: int
    planes: str

    @property
    def names(self) -> tuple[str, ...]:
        """Planes of the files."""
        return PLANES[self.planes]

    def __str__(self) -> str:
        return f"{self.release} {self.density}, {self.size} px, {'+'.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Regime:
    """How it is read."""

    cache: str
    order: str
    threads: int
    workers: int

    @property
    def cores(self) -> int:
        """Threads that decode at the same time, in all processes."""
        return self.threads * max(1, self.workers)


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark; ``configs/benchmark.yaml`` says what each is.

    Raises
    ------
    ConfigurationError
        A value that cannot work.
    """

    repo: str | None = None
    collections: str | tuple[str, ...] | None = None
    catalog: str | None = None
    bands: str | tuple[str, ...] | None = None
    dataset_type: str = "deep_coadd"
    skymap: str | None = None
    root: str = "bench"
    dense: str | None = None
    sparse: str | None = None
    output: str = "outputs/benchmark"
    what: tuple[str, ...] = WHAT
    full: bool = False
    release: tuple[str, ...] = ("dp2",)
    density: tuple[str, ...] = ("dense", "sparse")
    size: tuple[int, ...] = (64,)
    planes: tuple[str, ...] = ("image",)
    cache: tuple[str, ...] = CACHES
    order: tuple[str, ...] = ("shuffled", "ordered")
    threads: tuple[int, ...] = (1, 2)
    workers: tuple[int, ...] = (0, 2)
    device: str = "cpu"
    targets: int = 500
    sparse_patches: int = 2
    targets_per_patch: int = 5
    batch_size: int = 128
    cache_bytes: float | str = "auto"
    repeats: int = 5
    least_seconds: float = 0.3
    butler_targets: int = 30
    peer_targets: int = 200
    planning_targets: int = 1_000_000
    planning_patches: int = 1000
    scaling_targets: int = 100_000
    wide: str | None = None
    wide_patches: int = 6
    wide_targets: int = 200
    wide_cache: float = 0.25
    widths: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            _check_whole(name, getattr(self, name), least)
        for name, choices in _CHOICES.items():
            _check_choices(name, getattr(self, name), choices)
        own = {name: getattr(self, name) for name in ("repo", "collections", "catalog")}
        lacking = [f"{name}=" for name, value in own.items() if value is None]
        if 0 < len(lacking) < len(own):
            raise ConfigurationError(
                f"repo=, collections= and catalog= belong together: {' and '.join(lacking)} must be given, too; without "
                "any of them, simulated repositories are measured"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Return settings from plain values; what may be a list may also be one value."""
        lists = {f.name for f in fields(cls) if isinstance(f.default, tuple)}
        given = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if given.get("full"):
            given |= _EVERYTHING
        for name in {"collections", "bands"} & given.keys():
            given[name] = tuple(given[name]) if isinstance(given[name], list) else given[name]
        for name in lists & given.keys():
            value = given[name]
            given[name] = tuple(value) if isinstance(value, list | tuple) else (value,)
        return cls(**given)

    @property
    def cpus(self) -> int:
        """Most threads that any regime decodes with."""
        return max(self.threads)


def scenes_of(settings: Settings) -> list[Scene]:
    """Return what is read, in the order of the settings.

    With ``full``, sizes and planes vary one at a time around the first of each.
    """
    pairs = list(product(settings.size, settings.planes))
    if settings.full:
        pairs = [(size, planes) for size, planes in pairs if size == settings.size[0] or planes == settings.planes[0]]
    kinds = product(settings.release, settings.density) if settings.repo is None else [OWN]
    return [Scene(r, d, size, planes) for r, d in kinds for size, planes in pairs]


def regimes_of(settings: Settings, scene: Scene) -> list[Regime]:
    """Return how a scene is read.

    Worker processes have one thread each, and caches that cannot be cleared from here. Without ``full``, they read in the
    first order alone, since each pass starts them anew, and sparse scenes are not read warm, nor by worker processes:
    nothing there is a question of its own.
    """
    brief = scene.density == "sparse" and not settings.full and set(settings.cache) != {"warm"}
    caches = [cache for cache in settings.cache if not (brief and cache == "warm")]
    processes = [] if brief else [w for w in settings.workers if w > 0]
    found = []
    for cache, order in product(caches, settings.order):
        found += [Regime(cache, order, t, 0) for t in settings.threads if 0 in settings.workers]
        if cache != "cleared" and (settings.full or order == settings.order[0]):
            found += [Regime(cache, order, 1, w) for w in processes]
    return found


def _check_whole(name: str, value: Any, least: int) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if not values or any(not isinstance(v, int) or isinstance(v, bool) or v < least for v in values):
        raise ConfigurationError(f"{name}={value!r} must be whole numbers of at least {least}")


def _check_choices(name: str, given: str | tuple[str, ...], choices: tuple[str, ...]) -> None:
    values = (given,) if isinstance(given, str) else given
    if not values or any(value not in choices for value in values):
        raise ConfigurationError(f"{name}={given!r} must be out of {', '.join(choices)}")
