"""Every configuration is composed and instantiated, from the checkout and from the wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import hydra
import lightning as L
import lsstcutouts.configs
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from lsstcutouts.datamodule import CutoutDataModule
from lsstcutouts.models import LensClassifier
from lsstcutouts.simulate import SimulationConfig

FOLDER = Path(lsstcutouts.configs.__file__).parent
GROUPS = {p.name: sorted(f.stem for f in p.glob("*.yaml")) for p in FOLDER.iterdir() if list(p.glob("*.yaml"))}
REQUIRED = {"dp1": ["data.catalog=my.parquet"], "dp2": ["data.catalog=my.parquet"]}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        return compose("train", overrides=list(overrides))


def check(cfg: DictConfig) -> None:
    """Make everything that a configuration names; no constructor may touch a repository."""
    assert not OmegaConf.missing_keys(cfg)
    data = hydra.utils.instantiate(cfg.data)
    assert isinstance(data, CutoutDataModule)
    assert isinstance(data.fractions, dict)
    model = hydra.utils.instantiate(cfg.model)
    assert isinstance(model, LensClassifier)
    trainer = hydra.utils.instantiate(cfg.trainer, accelerator="cpu", devices=1, logger=False)
    assert isinstance(trainer, L.Trainer)
    if cfg.simulation is not None:
        assert isinstance(hydra.utils.instantiate(cfg.simulation.config), SimulationConfig)


def test_there_are_the_documented_groups() -> None:
    assert {"data", "model", "trainer", "experiment"} <= set(GROUPS)
    assert {"demo", "dp1", "dp2"} <= set(GROUPS["data"])
    assert {"cpu", "gpu", "slurm"} <= set(GROUPS["trainer"])


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_each_choice_is_composed_and_instantiated(group: str, name: str, tmp_path: Path) -> None:
    check(composed(f"{group}={name}", f"output={tmp_path}", *REQUIRED.get(name, [])))


def test_the_hyperparameters_are_plain(tmp_path: Path) -> None:
    data = hydra.utils.instantiate(composed(f"output={tmp_path}").data)
    for value in (data.fractions, data.columns, data.repo, data.catalog, data.collections):
        assert type(value) in {dict, list, tuple, str}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda p: str(p.relative_to(FOLDER)))
def test_each_configuration_says_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that holds the built wheel; only its dependencies come from here."""
    root = FOLDER.parent
    if not (root / "pyproject.toml").exists():
        pytest.skip("not a checkout: there is nothing to build")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("lsstcutouts", "configs"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=250)
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=120)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return environment / "bin" / "python"


def test_the_wheel_brings_the_configurations_and_every_room(wheel_python: Path, tmp_path: Path) -> None:
    code = (
        "import lsstcutouts, lsstcutouts.configs, pathlib, pkgutil, importlib\n"
        "folder = pathlib.Path(lsstcutouts.configs.__file__).parent\n"
        "print(folder)\n"
        "print(sorted(str(p.relative_to(folder)) for p in folder.rglob('*.yaml')))\n"
        "for m in pkgutil.walk_packages(lsstcutouts.__path__, 'lsstcutouts.'): importlib.import_module(m.name)\n"
        "from hydra import compose, initialize_config_module\n"
        "with initialize_config_module('lsstcutouts.configs', version_base='1.3'):\n"
        "    print(compose('train').data.bands)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(wheel_python), "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    folder, names, bands = done.stdout.splitlines()[-3:]
    assert str(wheel_python.parent.parent) in folder
    assert names == str(sorted(str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*.yaml")))
    assert bands == "ugrizy"
    assert list(tmp_path.iterdir()) == []
