"""The doctor: healthy on real repositories, and each check broken on purpose."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from lsstcutouts.app.cli import main
from lsstcutouts.app.doctor import CHECKS, Check, Machine, Settings, diagnose
from lsstcutouts.app.doctor.check import Finding, one_line
from lsstcutouts.app.doctor.compute import EXPECTED, gpu_bytes, runs_on
from lsstcutouts.app.doctor.packages import weeks
from lsstcutouts.app.doctor.probe import Build, Gpu
from lsstcutouts.app.doctor.repository_checks import compare
from lsstcutouts.errors import ConfigurationError, LsstCutoutsError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.cache.limits import MemoryLimits, memory_limits
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
        extras = ['sphinx>=8.0; extra == "docs"', 'numba>=0.61; extra == "fast"', 'numba>=0.61; extra == "dev"']
        return ">=3.12", ["torch>=2.5", "lsst-resources[https,s3]>=30.2026.2500", *extras]


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


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[SimulatedRepository], Path]:
    """A copy of a repository that may be broken."""

    def copy(repo: SimulatedRepository) -> Path:
        return Path(shutil.copytree(repo.root, tmp_path / "copy"))

    return copy


def coadds(root: Path, repo: SimulatedRepository) -> dict[tuple[int, str], Path]:
    with Repository(root, repo.collections) as repository:
        return {
            (one.patch, one.band): Path(one.uri)
            for one in repository.locate([(repo.tract, p) for p in repo.patches], repo.bands)
        }


# Healthy.


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_a_healthy_environment_passes(release: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    repo = request.getfixturevalue(f"{release}_repo")
    checks = diagnose(settings_of(repo, output=str(tmp_path / "new" / "folder"), size=(30, 41)))
    assert tuple(check.name for check in checks) == CHECKS
    statuses = {check.name: check.status for check in checks}
    assert statuses.pop("gpu") in {"pass", "warn"}
    assert set(statuses.values()) == {"pass"}, checks
    details = {check.name: check.detail for check in checks}
    assert "10 deep_coadd" in details["repository"]
    assert "(g 3, i 3, r 4)" in details["repository"]
    assert f"tract {repo.tract}: 10, skymap {repo.skymap}" in details["repository"]
    oracle = "lsst.images" if release == "dp2" else "astropy"
    assert f"5 cutouts of 30 x 41 px equal {oracle} bit for bit" in details["cutout"]


def test_without_a_repository_one_is_written_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[str] = []
    checks = diagnose(names=("repository", "cutout"), before=seen.append)
    assert [check.status for check in checks] == ["pass", "pass"], checks
    assert seen == ["Butler repository", "cutouts equal a second reader"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json_and_its_exit_status_tells(
    dp2_repo: SimulatedRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", f"repo={dp2_repo.root}", f"collections={dp2_repo.collections}", "json=true"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] in {"pass", "warn"}
    assert [check["name"] for check in report["checks"]] == list(CHECKS)
    assert set(report["checks"][0]) == {"name", "status", "detail", "todo"}
    assert main(["doctor", "repo=nowhere", "collections=dp2", "json=true"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "fail"
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_table(
    dp2_repo: SimulatedRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", f"repo={dp2_repo.root}", "collections=[none]", "cache_bytes=100 TB"]) == 1
    shown = capsys.readouterr().out
    assert "lsstcutouts doctor: fail" in shown
    assert "no collection 'none'" in shown
    assert "not tried, because 'Butler repository' failed" in shown
    assert "-> give a smaller cache_bytes" in shown


def test_importing_the_doctor_loads_nothing_that_it_tests() -> None:
    code = "import lsstcutouts.app.doctor, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lsstcutouts.app.doctor.diagnosis" in loaded
    assert not {"torch", "numpy", "astropy", "imagecodecs", "lsst.daf.butler", "lsst.resources"} & set(loaded)


# 1: Python and packages.


def test_too_old_and_missing_packages_fail() -> None:
    check = one("packages", packages=FakePackages({"torch": "2.4.1", "lsst-resources": None}))
    assert check.status == "fail"
    assert "torch is 2.4.1, >=2.5 is needed" in check.detail
    assert "lsst-resources is missing" in check.detail
    assert "pip install --upgrade 'torch>=2.5'" in check.todo
    assert "pip install --upgrade 'lsst-resources[https,s3]>=30.2026.2500'" in check.todo
    assert "sphinx" not in check.detail


def test_a_too_old_python_fails() -> None:
    check = one("packages", packages=FakePackages(python_version="3.11.9"))
    assert (check.status, check.detail) == ("fail", "Python 3.11.9, but >=3.12 is needed")


def test_enough_packages_pass() -> None:
    assert "2 packages as required" in one("packages", packages=FakePackages({"torch": "2.5.0"})).detail


@pytest.mark.parametrize("version", [None, "0.59.1"])
def test_without_numba_it_works_and_is_slower(version: str | None) -> None:
    check = one("packages", packages=FakePackages({"numba": version}))
    assert check.status == "warn"
    assert "decoding takes twice as long" in check.detail
    assert "numba" in check.detail
    assert check.todo == "pip install --upgrade 'lsstcutouts[fast]'"
    worse = one("packages", packages=FakePackages({"numba": version, "torch": None}))
    assert (worse.status, "numba" in worse.detail) == ("fail", False)


# 2: torch computes.


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torch'"), OSError("libcudart.so.13: cannot open\nshared object")]
)
def test_a_torch_that_does_not_import_fails_and_the_gpu_is_not_tried(error: Exception) -> None:
    torch, gpu = diagnose(machine=Machine(torch=FakeTorch(error=error)), names=("torch", "gpu"))
    assert torch.status == "fail"
    assert type(error).__name__ in torch.detail
    assert "pip install" in torch.todo
    assert gpu == Check("gpu", "fail", "not tried, because 'torch computes' failed", "see 'torch computes'")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_a_torch_that_computes_wrongly_fails(wrong: float) -> None:
    check = one("torch", torch=FakeTorch(results={"cpu": [*EXPECTED[:7], wrong, *EXPECTED[8:]]}))
    assert check.status == "fail"
    assert f"wrong result ({wrong} for 708)" in check.detail


def test_a_result_of_another_length_fails() -> None:
    assert "(3 values)" in one("torch", torch=FakeTorch(results={"cpu": list(EXPECTED[:3])})).detail


# 3: the GPU.


def test_a_pascal_card_without_code_for_it_gets_the_fix() -> None:
    check = one("gpu", torch=FakeTorch(targets=DEFAULT_WHEEL, cards=(P600,)))
    assert check.status == "fail"
    assert "GPU 0 (Quadro P600, sm_61): torch 2.9.0 has no code for it" in check.detail
    assert "pip install 'torch<2.8'" in check.todo
    assert "cu126" in check.todo


def test_a_pascal_card_with_code_for_it_passes() -> None:
    check = one("gpu", torch=FakeTorch(cards=(P600,)))
    assert check.status == "pass"
    assert "Quadro P600" in check.detail
    assert "2.0 of 2.0 GB free" in check.detail
    for words in ("no torch.compile", "no bfloat16", "wire=float16", "precision 32-true"):
        assert words in check.detail


def test_the_page_on_small_gpus_quotes_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "small-gpus.md").read_text()
    quoted = " ".join(re.sub(r"│ (fail|pass)? +│ (GPU)? +│", " ", page).replace("│", " ").split())
    volta = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    for version, targets, settings in (
        ("2.8.0", volta, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings(size=256, batch_size=128)),
    ):
        check = one("gpu", settings, torch=SmallTorch(version, targets=targets, cards=(P600,)))
        assert f"{check.detail} {check.todo and '-> ' + check.todo}".strip() in quoted
    for size, batch, figure in re.findall(r"\| (\d+) \| (\d+) \| ([\d.]+) GB \|", page):
        assert f"{gpu_bytes(Settings(size=int(size), batch_size=int(batch)).batch_bytes) / GB:.2f}" == figure


def test_a_card_of_today_has_no_limits_to_speak_of() -> None:
    check = one("gpu", torch=FakeTorch(cards=(Gpu("A100", (8, 0)),)))
    assert check.status == "pass"
    assert check.detail.endswith("convolution and gradients are right")


def test_a_card_that_is_newer_than_torch_wants_a_newer_torch() -> None:
    check = one("gpu", torch=FakeTorch(cards=(Gpu("B200", (10, 0)),)))
    assert (check.status, check.todo) == ("fail", "pip install --upgrade torch")


def test_too_little_gpu_memory_fails() -> None:
    settings = Settings(bands="ugrizy", size=256, batch_size=512)
    check = one("gpu", settings, torch=FakeTorch(cards=(P600,)))
    assert check.status == "fail"
    assert f"takes about {gpu_bytes(512 * 6 * 256 * 256 * 4) / GB:.1f} GB" in check.detail
    assert "batch_size" in check.todo


def test_a_gpu_that_computes_wrongly_fails_whatever_another_does() -> None:
    check = one("gpu", torch=FakeTorch(cards=(P600, P600), results={"cuda:1": [0.0] * len(EXPECTED)}))
    assert check.status == "fail"
    assert check.detail.startswith("GPU 1")


@pytest.mark.parametrize(
    ("platform", "driver", "words"),
    [
        ("CUDA 12.6", False, "sees no GPU"),
        ("CPU only", True, "a build without CUDA"),
        ("CUDA 12.6", True, "there is an NVIDIA driver"),
    ],
)
def test_no_gpu_is_a_warning(platform: str, driver: bool, words: str) -> None:
    check = one("gpu", torch=FakeTorch(platform=platform, has_driver=driver))
    assert check.status == "warn"
    assert words in check.detail


@pytest.mark.parametrize(
    ("capability", "targets", "runs"),
    [
        ((6, 1), ("sm_60",), True),
        ((6, 0), ("sm_61",), False),
        ((6, 1), DEFAULT_WHEEL, False),
        ((8, 9), ("sm_80", "sm_86"), True),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 0), ("sm_90",), False),
        ((10, 0), ("sm_90", "compute_90"), True),
        ((12, 0), ("sm_100", "sm_120"), True),
        ((6, 1), ("compute_70",), False),
        ((6, 1), (), False),
    ],
)
def test_code_runs_on_its_own_major_version_and_intermediate_code_on_later_ones(
    capability: tuple[int, int], targets: tuple[str, ...], runs: bool
) -> None:
    assert runs_on(capability, targets) is runs


# 4: LSST packages.


@pytest.mark.parametrize("module", ["lsst.daf.butler", "lsst.images", "lsst.resources", "lsst.sphgeom"])
def test_a_missing_lsst_package_fails(module: str) -> None:
    check = one("lsst", load=without(module))
    assert check.status == "fail"
    assert f"{module} does not import" in check.detail
    assert "lsst-daf-butler" in check.todo


def test_checks_that_need_the_lsst_packages_are_not_tried_without_them() -> None:
    machine = Machine(load=without("lsst.images"))
    _, repository, cutout = diagnose(machine=machine, names=("lsst", "repository", "cutout"))
    assert repository.detail == "not tried, because 'LSST packages' failed"
    assert cutout.detail == "not tried, because 'Butler repository' failed"


def test_weekly_versions_far_apart_warn() -> None:
    check = one("lsst", packages=FakePackages({"lsst-images": "30.2025.4300"}))
    assert check.status == "warn"
    assert "52 weeks apart" in check.detail
    assert one("lsst", packages=FakePackages({"lsst-images": "30.2026.4000"})).status == "pass"


def test_weeks_of_versions() -> None:
    assert weeks("30.2026.4300") == 2026 * 52 + 43
    assert weeks("30.2026.4300.dev1") == weeks("30.2026.4300")
    assert weeks("29.2.0") is None


def decoders(**replaced: Any) -> Callable[[str], Any]:
    codecs = import_module("imagecodecs")
    fake = SimpleNamespace(**({"rcomp_decode": codecs.rcomp_decode, "gzip_decode": codecs.gzip_decode} | replaced))
    return lambda name: fake if name == "imagecodecs" else import_module(name)


def not_built(*_: Any, **__: Any) -> None:
    raise ImportError("could not import 'imagecodecs._rcomp'")


def test_codecs_that_are_missing_or_wrong_fail() -> None:
    assert one("lsst", load=decoders()).status == "pass"
    for broken, words in [
        ({"rcomp_decode": not_built}, "cannot decode"),
        ({"rcomp_decode": lambda *_, **__: np.zeros(64, int)}, "decodes wrongly"),
        ({"gzip_decode": lambda _: b"abcdeg"}, "decodes wrongly"),
    ]:
        check = one("lsst", load=decoders(**broken))
        assert check.status == "fail"
        assert words in check.detail


def test_missing_remote_packages_warn() -> None:
    check = one("lsst", load=without("boto3"))
    assert check.status == "warn"
    assert "no boto3, reading from S3 will not work" in check.detail
    assert "lsst-resources[https,s3]" in check.todo


# 5: the repository.


def test_a_repository_that_is_not_there_fails(tmp_path: Path) -> None:
    check = one("repository", Settings(repo=str(tmp_path / "none"), collections="dp2"))
    assert check.status == "fail"
    assert "RepositoryNotFoundError" in check.detail
    assert "repo=" in check.todo


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"collections": "dp3"}, "no collection 'dp3'"),
        ({"dataset_type": "deepCoadd"}, "no dataset type 'deepCoadd'"),
        ({"skymap": "rings"}, "no skymap 'rings'"),
        ({"bands": "gq"}, "no band 'q'"),
    ],
)
def test_a_wrong_name_fails(dp2_repo: SimulatedRepository, setting: dict[str, str], words: str) -> None:
    settings = Settings(**({"repo": str(dp2_repo.root), "collections": dp2_repo.collections} | setting))
    check = one("repository", settings)
    assert check.status == "fail"
    assert words in check.detail


def test_a_band_without_coadds_warns(dp2_repo: SimulatedRepository) -> None:
    check = one("repository", settings_of(dp2_repo, bands="gz"))
    assert (check.status, check.detail) == ("warn", "no coadd in band z; there are g 3, i 3, r 4")


def test_a_repository_without_its_files_fails(
    dp2_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]
) -> None:
    root = copied(dp2_repo)
    for path in coadds(root, dp2_repo).values():
        path.unlink()
    repository, cutout = diagnose(settings_of(dp2_repo, root), names=("repository", "cutout"))
    assert repository.status == "fail"
    assert "10 of 10 coadds looked at have no file" in repository.detail
    assert cutout.detail == "not tried, because 'Butler repository' failed"


# 6: cutouts.


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_a_file_of_another_patch_fails(
    release: str, request: pytest.FixtureRequest, copied: Callable[[SimulatedRepository], Path]
) -> None:
    repo: SimulatedRepository = request.getfixturevalue(f"{release}_repo")
    root = copied(repo)
    files = coadds(root, repo)
    for patch in repo.patches:
        other = repo.patches[0] if patch != repo.patches[0] else repo.patches[1]
        shutil.copy(coadds(repo.root, repo)[other, "r"], files[patch, "r"])
    check = one("cutout", settings_of(repo, root))
    assert check.status == "fail"
    assert files[8, "r"].name in check.detail


def test_damaged_bytes_fail(dp1_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]) -> None:
    root = copied(dp1_repo)
    for path in coadds(root, dp1_repo).values():
        with open_coadd(path) as coadd:
            layout = coadd.layout("image")
            middle = layout.shape.y // 2
            place = int(layout.offsets[middle] + layout.sizes[middle] // 2)
        damaged = bytearray(path.read_bytes())
        damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
        path.write_bytes(damaged)
    check = one("cutout", settings_of(dp1_repo, root))
    assert check.status == "fail"
    assert "CorruptFileError" in check.detail


def test_pixels_that_are_not_the_oracles_fail(
    dp1_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]
) -> None:
    """Here the planes go by each other's names; the oracle goes by their order."""
    root = copied(dp1_repo)
    for path in coadds(root, dp1_repo).values():
        with fits.open(path, mode="update", disable_image_compression=True) as hdus:
            for hdu, name in ((hdus[1], "VARIANCE"), (hdus[3], "IMAGE")):
                hdu.header["EXTNAME"] = hdu.header["EXTTYPE"] = name
    check = one("cutout", settings_of(dp1_repo, root))
    assert check.status == "fail"
    assert re.match(r"(\d+) of \1 cutouts differ from those of a second reader: \d+ pixels, the first at", check.detail)
    assert "do not use these pixels" in check.todo


def test_a_cut_off_file_fails(dp2_repo: SimulatedRepository, copied: Callable[[SimulatedRepository], Path]) -> None:
    root = copied(dp2_repo)
    for path in coadds(root, dp2_repo).values():
        path.write_bytes(path.read_bytes()[:40_000])
    check = one("cutout", settings_of(dp2_repo, root))
    assert check.status == "fail"
    assert ".fits" in check.detail


def test_pixels_are_compared_bit_for_bit() -> None:
    expected = np.array([[1.5, np.nan, np.inf], [-2.0, 0.0, 3.0]], np.float32)
    found = np.array([[1.5, 0.0, 0.0], [-2.0, 0.0, 3.0]], np.float32)
    assert compare(found, expected) == ""
    assert compare(found, expected.astype(">f4")) == ""
    found[1, 2] = np.nextafter(np.float32(3), np.float32(4))
    assert compare(found, expected).startswith("1 pixels, the first at (1, 2)")
    assert compare(found[:, :2], expected) == "(2, 2) pixels, expected (2, 3)"


# 7: memory, disk, limits.


def test_a_cache_beyond_the_memory_fails() -> None:
    check = one("resources", Settings(cache_bytes="100 TB"), resources=FakeResources())
    assert check.status == "fail"
    assert "100000.0 GB" in check.detail
    assert "cache_bytes" in check.todo


def test_a_budget_that_cannot_be_understood_fails() -> None:
    check = one("resources", Settings(cache_bytes="a lot"), resources=FakeResources())
    assert check.status == "fail"
    assert "'a lot' is no amount of memory" in check.detail


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "job"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/job\n")
    (group / "memory.max").write_text("600000000\n")
    (group / "memory.current").write_text("450000000\n")
    limits = memory_limits(proc=tmp_path, cgroup=tmp_path / "cgroup", environ={})
    check = one("resources", Settings(cache_bytes="500 MB"), resources=FakeResources(limits))
    assert check.status == "fail"
    assert "limited by the cgroup" in check.detail
    assert "150 MB" not in one("resources", Settings(cache_bytes="500 MB"), resources=FakeResources()).detail


def test_batches_and_workers_count_as_memory() -> None:
    limits = MemoryLimits(2 * GB, 16 * GB, "slurm")
    small = Settings(cache_bytes="500 MB", batch_size=16)
    assert one("resources", small, resources=FakeResources(limits)).status == "pass"
    for more in ({"batch_size": 4096}, {"num_workers": 8}):
        settings = Settings(**{"cache_bytes": "500 MB", "batch_size": 16} | more)
        check = one("resources", settings, resources=FakeResources(limits))
        assert check.status == "fail"
        assert "of memory are needed" in check.detail


@pytest.mark.parametrize(
    ("free", "status", "words"),
    [
        ({"output": None}, "fail", "cannot be written to"),
        ({"output": 50_000_000}, "fail", "50 MB free in the output folder"),
        ({"output": GB}, "warn", "checkpoints may fill it"),
        ({"temporary": 1_000_000}, "fail", "1 MB free in the temporary folder"),
        ({"temporary": None}, "fail", "the temporary folder /scratch/temporary cannot be written to"),
    ],
)
def test_a_full_disk_is_seen(free: dict[str, int | None], status: str, words: str) -> None:
    check = one("resources", Settings(output="/data/output"), resources=FakeResources(free=free))
    assert check.status == status
    assert words in check.detail


def test_shared_memory_counts_only_with_workers() -> None:
    docker = FakeResources(shared_free=64 << 20)
    assert one("resources", Settings(), resources=docker).status == "pass"
    check = one("resources", Settings(num_workers=4), resources=docker)
    assert check.status == "fail"
    assert "67 MB are free in /dev/shm" in check.detail
    assert "--shm-size" in check.todo


def test_a_low_limit_on_open_files_fails() -> None:
    check = one("resources", resources=FakeResources(files=64))
    assert check.status == "fail"
    assert "a process may open 64 files" in check.detail
    assert "ulimit -n" in check.todo


# Settings and the pieces.


@pytest.mark.parametrize(
    "wrong",
    [
        {"repo": "dp2"},
        {"collections": "dp2"},
        {"batch_size": 0},
        {"batch_size": True},
        {"num_workers": -1},
        {"size": 0},
        {"size": (3, 4, 5)},
    ],
)
def test_settings_that_cannot_work_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Settings(**wrong)


def test_the_worst_finding_counts_and_says_what_to_do() -> None:
    good, poor, bad = Finding("pass", "a"), Finding("warn", "b", "do b"), Finding("fail", "c", "do c")
    assert Check.of("gpu", [good, poor, bad]) == Check("gpu", "fail", "c", "do c")
    assert Check.of("gpu", [good, poor, poor]) == Check("gpu", "warn", "b; b", "do b")
    assert Check.of("gpu", [good, good]) == Check("gpu", "pass", "a; a")


def test_any_error_of_this_package_becomes_one_line() -> None:
    check = one("torch", torch=FakeTorch(error=LsstCutoutsError("two\nlines")))
    assert check.detail == "LsstCutoutsError: two lines"
    assert len(one_line("x " * 1000)) <= 400
