"""Every configuration is composed and instantiated, from the checkout and from the wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import hydra
import lightning as L
import lsstcutouts.configs
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from lsstcutouts import ReadOptions, Sampling, TransferOptions
from lsstcutouts.app.callbacks import KeepLast
from lsstcutouts.app.training.prepare import callbacks_of
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import Supervised
from lsstcutouts.testing import SimulationConfig
from lsstcutouts.transforms import AsinhStretch, NoiseAsinh, RandomD4

FOLDER = Path(lsstcutouts.configs.__file__).parent
GROUPS = {p.name: sorted(f.stem for f in p.glob("*.yaml")) for p in FOLDER.iterdir() if list(p.glob("*.yaml"))}
REQUIRED = {
    "dp1": ["data.catalog=my.parquet"],
    "dp2": ["data.catalog=my.parquet"],
    "custom": ["data.repo=x", "data.collections=c", "data.catalog=my.parquet"],
    "classes": ["model.classes=[star,galaxy]", "model.network.outputs=2"],
    "regression": ["model.center=20.0", "model.spread=1.0"],  # train measures them
}


def composed(*overrides: str, verb: str = "train") -> DictConfig:
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        return compose(verb, overrides=list(overrides))


def check(cfg: DictConfig) -> None:
    """Make everything that a configuration names; no constructor may touch a repository."""
    assert not OmegaConf.missing_keys(cfg)
    data = hydra.utils.instantiate(cfg.data)
    assert isinstance(data, CutoutDataModule)
    assert isinstance(data.split_options.fractions, dict)
    for module in (data.normalisation, data.transforms, data.augmentations):
        assert isinstance(module, torch.nn.Module)
    model = hydra.utils.instantiate(cfg.model)
    assert isinstance(model, Supervised)
    optimizer = torch.optim.SGD(model.parameters()) if model.optimizer is None else model.optimizer(model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    schedule = None if model.scheduler is None else model.scheduler(optimizer)
    assert schedule is None or isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
    trainer = hydra.utils.instantiate(cfg.trainer, accelerator="cpu", devices=1, logger=False)
    assert isinstance(trainer, L.Trainer)
    assert all(isinstance(callback, L.Callback) for callback in callbacks_of(cfg))
    if cfg.get("simulation") is not None:
        assert isinstance(hydra.utils.instantiate(cfg.simulation.config), SimulationConfig)


def test_there_are_the_documented_groups() -> None:
    assert {"data", "model", "trainer", "experiment", "callbacks", "hparams_search"} <= set(GROUPS)
    assert {"normalisation", "augmentation", "optimizer", "scheduler"} <= set(GROUPS)
    assert {"demo", "dp1", "dp2"} <= set(GROUPS["data"])
    assert {"cpu", "ddp", "gpu", "slurm"} <= set(GROUPS["trainer"])


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_each_choice_is_composed_and_instantiated(group: str, name: str, tmp_path: Path) -> None:
    if (group, name) in {
        ("model", "custom"),
        ("data", "export"),
    }:  # test_training_own.py, tests/loader/test_module_exports.py
        return
    check(composed(f"{group}={name}", f"output={tmp_path}", *REQUIRED.get(name, [])))
    if group != "hparams_search":
        where = [f"output={tmp_path}", "checkpoint=x.ckpt"]
        check(composed(f"{group}={name}", *where, *REQUIRED.get(name, []), verb="predict"))


@pytest.mark.parametrize("name", GROUPS["hparams_search"])
def test_a_sweep_names_settings_that_there_are(name: str) -> None:
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        cfg = compose("train", overrides=[f"hparams_search={name}"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params
    assert len(params) > 1
    for setting, values in params.items():
        check(composed(f"{setting}={str(values).split(',', maxsplit=1)[0]}"))


def test_several_callbacks_are_put_together(tmp_path: Path) -> None:
    found = callbacks_of(composed("callbacks=[default,worst,early_stopping]", f"output={tmp_path}"))
    kinds = {type(callback).__name__ for callback in found}
    assert kinds == {"CacheMonitor", "KeepLast", "WorstPredictions", "EarlyStopping"}
    one_off = callbacks_of(composed("callbacks.monitor=null", f"output={tmp_path}"))
    assert [type(callback) for callback in one_off] == [KeepLast]
    with pytest.raises(ConfigurationError, match=r"callbacks\.odd is not a callback"):
        callbacks_of(composed("+callbacks.odd._target_=builtins.dict", f"output={tmp_path}"))


@pytest.mark.parametrize("name", GROUPS["augmentation"])
def test_normalise_takes_every_augmentation_of_train(name: str) -> None:
    cfg = composed(f"augmentation={name}", verb="normalise")
    assert isinstance(hydra.utils.instantiate(cfg.data.augmentations), torch.nn.Module)


@pytest.mark.parametrize("verb", ["train", "predict", "normalise"])
def test_every_verb_has_the_same_normalisation(verb: str) -> None:
    data = hydra.utils.instantiate(composed("checkpoint=x.ckpt" if verb == "predict" else "seed=0", verb=verb).data)
    assert type(data.normalisation) is NoiseAsinh
    assert data.normalisation.softening == 1.0


def test_the_demo_turns_and_there_is_a_stretch_of_fixed_scales() -> None:
    data = hydra.utils.instantiate(composed("normalisation=fixed_asinh").data)
    assert isinstance(data.normalisation, AsinhStretch)
    assert data.normalisation.scale.flatten().tolist() == [20.0, 10.0, 12.0, 18.0, 30.0, 60.0]
    assert isinstance(data.augmentations, RandomD4)


@pytest.mark.parametrize(
    ("group", "options"),
    [("read", ReadOptions), ("sampling", Sampling), ("transfer", TransferOptions)],
)
def test_each_word_can_be_given_as_it_is_written(group: str, options: type) -> None:
    """Also where hydra reads it as another kind of value, such as nan."""
    words = {name: literals(kind) for name, kind in get_type_hints(options).items()}
    assert any(words.values())
    for name, choices in words.items():
        for word in choices:
            cfg = composed("data=custom", *REQUIRED["custom"], f"++data.{group}.{name}={word}")
            assert getattr(getattr(hydra.utils.instantiate(cfg.data), group), name) == word


def literals(kind: object) -> list[str]:
    """Return the words of a type such as ``float | Literal["noise"]``."""
    kind = getattr(kind, "__value__", kind)  # of a type alias
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for part in get_args(kind) for word in literals(part)]


def test_the_hyperparameters_are_plain(tmp_path: Path) -> None:
    data = hydra.utils.instantiate(composed(f"output={tmp_path}").data)
    for value in (data.split_options.fractions, data.columns, data.repo, data.catalog, data.collections):
        assert type(value) in {dict, list, tuple, str}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda p: str(p.relative_to(FOLDER)))
def test_each_configuration_says_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda p: str(p.relative_to(FOLDER)))
def test_each_setting_has_a_comment(path: Path) -> None:
    """But hydra's own part of a verb, and keys that only hold commented ones."""
    text = path.read_text().split("\nhydra:\n")[0] if path.parent == FOLDER else path.read_text()
    lines = [line for line in text.splitlines() if line.strip() and line != "{}"]
    bare = [line.strip() for line in lines if "#" not in line]
    allowed = {"defaults:", "- shell", "- _self_", "dec: null", "data:"} | {"- override hydra/job_logging: none"}
    assert set(bare) <= allowed | {"- override hydra/hydra_logging: none"}


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
