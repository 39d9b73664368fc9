"""Packages, a torch and a machine for the doctor, good or bad."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lsstcutouts.app.doctor import Check, Machine, Settings, diagnose
from lsstcutouts.app.doctor.compute import EXPECTED, Build, Gpu
from lsstcutouts.read.cache.limits import MemoryLimits
from lsstcutouts.testing import SimulatedRepository

GB = 10**9
DEFAULT_WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
PASCAL_WHEEL = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
P600 = Gpu("Quadro P600", (6, 1))


@dataclass
class FakePackages:
    """An environment that has just what is needed; ``versions`` replaces some of it, None takes a package away."""

    versions: dict[str, str | None] = field(default_factory=dict)
    python_version: str = "3.12.4"

    def python(self) -> str:
        return self.python_version

    def version(self, name: str) -> str | None:
        known = {"torch": "2.7.1", "numba": "0.61.0", "lsst-resources": "30.2026.4200"} | dict.fromkeys(
            ("lsst-daf-butler", "lsst-images", "lsst-sphgeom"), "30.2026.4300"
        )
        return (known | self.versions).get(name)

    def requires(self) -> tuple[str | None, list[str]]:
        extras = ['sphinx>=8.0; extra == "docs"', 'pyvo>=1.6; extra == "dev"']
        return ">=3.12", ["numba>=0.61", "torch>=2.5", "lsst-resources[https,s3]>=30.2026.2500", *extras]


@dataclass
class FakeTorch:
    """A torch with GPUs, good or bad."""

    targets: tuple[str, ...] = PASCAL_WHEEL
    cards: tuple[Gpu, ...] = ()
    free: int = 2 * GB
    results: dict[str, list[float]] = field(default_factory=dict)
    error: Exception | None = None
    platform: str = "CUDA 12.6"
    has_driver: bool = False

    def build(self) -> Build:
        if self.error is not None:
            raise self.error
        return Build("2.9.0", self.platform, self.targets)

    def driver(self) -> bool:
        return self.has_driver

    def gpus(self) -> list[Gpu]:
        return list(self.cards)

    def memory(self, _: int) -> tuple[int, int]:
        return self.free, 2 * GB

    def convolve(self, device: str) -> list[float]:
        return self.results.get(device, [float(value) for value in EXPECTED])


class SmallTorch(FakeTorch):
    """A torch of some version beside a card of 2.1 GB."""

    def __init__(self, version: str, **settings) -> None:
        super().__init__(**settings)
        self.version = version

    def build(self) -> Build:
        return Build(self.version, "CUDA 12.6", self.targets)

    def memory(self, _: int) -> tuple[int, int]:
        return 1_950_000_000, 2_100_000_000


@dataclass
class FakeResources:
    """A machine with room for everything, but for what is given."""

    limits: MemoryLimits = field(default_factory=lambda: MemoryLimits(16 * GB, 16 * GB, "machine"))
    free: dict[str, int | None] = field(default_factory=dict)
    shared_free: int | None = 8 * GB
    files: int = 1024

    def memory(self) -> MemoryLimits:
        return self.limits

    def disk(self, folder: Path) -> int | None:
        return self.free.get(folder.name, 100 * GB)

    def temporary(self) -> Path:
        return Path("/scratch/temporary")

    def shared(self) -> int | None:
        return self.shared_free

    def open_files(self) -> int:
        return self.files


def without(*modules: str, error: Exception | None = None) -> Callable[[str], Any]:
    """Return an importer of a Python in which some modules are broken."""

    def load(name: str) -> Any:
        if name in modules:
            raise error or ModuleNotFoundError(f"No module named {name!r}")
        return import_module(name)

    return load


def one(name: str, settings: Settings | None = None, **machine: Any) -> Check:
    (check,) = diagnose(settings, machine=Machine(**machine), names=[name])
    assert check.name == name
    assert bool(check.todo) == (check.status != "pass")
    assert "\n" not in check.detail + check.todo
    return check


def settings_of(repo: SimulatedRepository, root: Path | None = None, **others: Any) -> Settings:
    return Settings(repo=str(root or repo.root), collections=repo.collections, **others)
