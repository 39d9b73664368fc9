"""What a newcomer gets wrong on the command line: one sentence each, exit status 2, without hydra's words."""

import json
import os
from pathlib import Path

import pytest
from hydra.errors import HydraException

from lsstcutouts.app.cli import main
from lsstcutouts.app.cli.override_errors import complete_arguments, corrected_arguments
from lsstcutouts.errors import ConfigurationError

OWN = ["data.repo=sky", "data.collections=dp2", "data.catalog=my.csv"]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one line, and return it."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith(f"lsstcutouts {arguments[0]}: ConfigurationError: ")
    for words in ("HYDRA", "+", "struct", "Traceback", "object_type"):
        assert words not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo"], "did you mean data=demo?"),
        (["data", "dp1"], "did you mean data=dp1?"),
        (["data"], "did you mean data=VALUE?"),
        (["trainer.max_epochs", "=", "3"], "did you mean trainer.max_epochs=3?"),
        (["trainer.max_epochs:3"], "did you mean trainer.max_epochs=3?"),
        (["max_epochs"], "did you mean trainer.max_epochs=VALUE?"),
        (["--trainer.max_epochs=3"], "without dashes: trainer.max_epochs=3"),
        (["--max-epochs", "3"], "without dashes: trainer.max_epochs=3"),
        (["--resume"], "without dashes: resume=VALUE"),
        (["--confgi-dir", "conf"], "Did you mean --config-dir"),
        (["--xyz"], "--xyz is not an option"),
        (["trianer=cpu"], "unknown setting 'trianer'. Did you mean trainer?"),
        (["data=dp3"], "no data=dp3. Did you mean dp2 or dp1? There are custom, demo, dp1, dp2"),
        (["trainer=gpus"], "Did you mean gpu or cpu? There are cpu, ddp, gpu, slurm"),
        (["callbacks=[default,worse]"], "no callbacks=worse. Did you mean worst?"),
        (["task=multiclass"], "There are binary, classes, regression"),
        (["model=custom"], "model=my_model.Net"),
        (["trainer.max_epoch=3"], "Did you mean trainer.max_epochs"),
        (["max_epochs=3"], "Did you mean trainer.max_epochs?"),
        (["lr=0.1"], "Did you mean model.optimizer.lr?"),
        (["batch_size=4"], "Did you mean data.batch_size"),
        (["data.catalogue=x.csv"], "Did you mean data.catalog?"),
        (["data.splits.shares={train: 0.7, vall: 0.3}"], "Did you mean data.splits.shares.val"),
        (["data.splits={train: 0.7, val: 0.3}"], "'data.splits.train'. Did you mean data.splits.shares.train?"),
        (["data.missing_band=nan"], "'data.missing_band'. Did you mean data.read.missing_band?"),
        (["data.shuffle=full"], "'data.shuffle'. Did you mean data.sampling.shuffle?"),
        (["data.wire=float16"], "'data.wire'. Did you mean data.transfer.wire?"),
        (["data.statistics=x.yaml"], "'data.statistics'. Did you mean data.normalisation.statistics?"),
        (["data.normalisation_sample=20"], "Did you mean data.normalisation.sample"),
        (["data.split_by=patch"], "Did you mean data.splits.by"),
        (["data.columns=[label"], "data.columns=[label: the value is invalid"),
        (["seed=1,2"], "several values need -m"),
        (["seed=abc"], "seed=abc must be an integer"),
        (["picture=maybe"], "picture=maybe must be true or false"),
        (["json=perhaps"], "json=perhaps must be true or false"),
        (["data.repo=sky"], "data.catalog, data.collections must be given"),
        (["--config-dir", "nowhere"], "nowhere"),
        (["data.size=${nowhere}", *OWN], "data.size: Interpolation key 'nowhere' not found"),
        (["data.size=${nowhere}", "data.bnds=g", *OWN], "Did you mean data.bands"),
    ],
)
def test_mistakes_of_train(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in said(["train", *arguments], capsys)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc must be an integer or null"),
        ("trainer.max_epochs=1.5", "must be an integer or null"),
        ("trainer.precision=17-mixed", "must be one of 64, 32, 16"),
        ("trainer.accelerator=tpuu", "Available names are: auto"),
        ("data.batch_size=many", "data.batch_size=many must be an integer"),
        ("data.batch_size=true", "data.batch_size=True must be an integer"),
        ("data.read.missing_band=drop", "data.read.missing_band=drop must be one of zero, nan, skip, raise"),
        ("model.optimizer.lr=fast", "model.optimizer.lr=fast must be a number"),
        ("model.network.widths=abc", "model.network.widths=abc must be a list of integers"),
        ("callbacks.monitor.every_n_steps=often", "callbacks.monitor.every_n_steps=often must be an integer"),
        ("model=mistaken_module.Net", "module 'mistaken_module' is not installed"),
        ("model._target_=lsstcutouts.models.Nope", "lsstcutouts.models has no 'Nope'"),
        ("model=builtins.dict", "model must be a LightningModule, but model._target_ creates a dict"),
        ("output=a_file", "the output folder cannot be written: File exists: a_file"),
        ("output=a_file/below", "the output folder cannot be written"),
        ("trainer.default_root=x", "Did you mean trainer.default_root_dir"),
    ],
)
def test_wrong_values_and_classes(
    setting: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    assert words in said(["train", *OWN, setting], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "repo=sky", "collections=dp2", "catalog=my.csv", "bnads=gri"], "Did you mean bands?"),
        (["simulate", "root=sky", "target=3"], "Did you mean targets?"),
        (["simulate", "sky"], "is not a setting"),
        (["normalise", "sampel=10"], "Did you mean sample? There are data, normalisation, augmentation"),
        (["predict", "chekpoint=x.ckpt"], "Did you mean checkpoint?"),
        (["doctor", "--repo", "sky"], "without dashes: repo=sky"),
        (["benchmark", "json=yes_please"], "json=yes_please must be true or false"),
    ],
)
def test_mistakes_of_other_verbs(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in said(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_path_alone_is_taken_for_a_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.csv").write_text("ra,dec\n")
    assert "did you mean data.catalog=my.csv?" in said(["train", "my.csv"], capsys)


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "trainer.max_epoch=3", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["train", "trainer.max_epoch=3", "json=true"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == "ConfigurationError"
    assert "Did you mean" in shown.err


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["train", "data=dp3"]) == 2
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


def test_what_goes_without_saying() -> None:
    assert complete_arguments("train", ["data.repo=x"]) == ["data=custom", "data.repo=x"]
    assert complete_arguments("normalise", ["data.catalog=x"]) == ["data=custom", "data.catalog=x"]
    for verb, given in (
        ("train", ["data=demo", "data.catalog=x"]),
        ("train", ["data.size=32"]),
        ("train", ["resume=last.ckpt", "data.repo=x", "data.catalog=y"]),  # the checkpoint says the rest
        ("train", ["resume=auto", "data.repo=x"]),
        ("predict", ["checkpoint=x.ckpt", "data.catalog=x"]),
        ("train", ["model._target_=lsstcutouts.models.Regressor"]),
    ):
        assert complete_arguments(verb, given) == given
    whole = ["resume=auto", "data.repo=x", "data.catalog=y"]  # there may be no checkpoint yet
    assert complete_arguments("train", whole) == ["data=custom", *whole]
    own = ["model=custom", "optimizer=none", "scheduler=none", "model._target_=my.Net"]
    assert complete_arguments("train", ["model=my.Net"]) == own
    assert complete_arguments("train", ["model._target_=my.Net"]) == own
    assert complete_arguments("train", ["model=my.Net", "optimizer=sgd"]) == [
        "model=custom",
        "scheduler=none",
        "optimizer=sgd",
        own[-1],
    ]


def test_shares_replace_those_of_the_configuration() -> None:
    """Hydra merges dictionaries; splits that are not named would keep their shares."""
    given = "data.splits.shares={train: 0.9, test: 0.1}"
    assert complete_arguments("train", [given]) == [given[:-1] + ", val: 0.0}"]
    files = "data.splits.shares={train: a.csv, val: b.csv}"
    assert complete_arguments("train", [files]) == [files[:-1] + ", test: []}"]
    for same in (
        "data.splits.shares=kind",
        "data.splits.shares={train: 0.7, vall: 0.3}",
        "data.splits.shares.train=0.75",
    ):
        assert complete_arguments("train", [same]) == [same]


@pytest.mark.parametrize("setting", ["splits=kind", "read=best"])
def test_options_of_a_plan_are_dictionaries(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, value = setting.partition("=")
    text = said(["plan", "repo=x", "collections=c", "catalog=x.csv", setting], capsys)
    assert (
        f"{setting} must be a dictionary; did you mean {name}.{'shares' if name == 'splits' else 'tract'}={value}?"
        in text
    )


def test_arguments_of_constructors_that_no_file_lists() -> None:
    error = HydraException("could not override")
    assert corrected_arguments("train", ["trainer.limit_train_batches=2"], error) == ["++trainer.limit_train_batches=2"]
    assert corrected_arguments("train", ["model.scheduler_interval=epoch", "seed=1"], error) == [
        "++model.scheduler_interval=epoch",
        "seed=1",
    ]
    own = ["model.network._target_=my.Net", "model.network.depth=3"]
    assert corrected_arguments("train", own, error) == [own[0], f"++{own[1]}"]
    with pytest.raises(ConfigurationError, match="could not override"):
        corrected_arguments("train", ["seed=1"], error)


def test_settings_of_the_data_may_be_short() -> None:
    given = ["repo=sky", "collections=dp2", "catalog=my table.csv", "bands=gri", "size=32", "label=kind"]
    want = ["data=custom", "data.repo=sky", "data.collections=dp2", "data.catalog=my table.csv", "data.bands=gri"]
    assert complete_arguments("train", given) == [*want, "data.size=32", "label=kind"]
    named = complete_arguments("train", [*given, "object_id=NAME", "data.ra=my ra", "select=mag > 3"])
    assert named[-1] == "data.catalog={path: 'my table.csv', object_id: 'NAME', ra: 'my ra', select: 'mag > 3'}"
    with_plan = complete_arguments("train", ["data.repo=sky", "data.plan=plan.parquet"])
    assert with_plan == ["data=custom", "data.repo=sky", "data.plan=plan.parquet", "data.catalog=null"]
