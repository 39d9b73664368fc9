import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lsstcutouts.app.cli import VERBS, main
from lsstcutouts.app.cli.override_errors import complete_arguments
from lsstcutouts.app.cli.quoting import hydra_arguments
from lsstcutouts.app.cli.verbs import verb_help
from lsstcutouts.app.doctor import Settings
from lsstcutouts.errors import CatalogError, ConfigurationError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.testing import SimulationConfig

NASTY = "a b, (c) = [d] {e}'f\" ö"
SCRIPT = Path(sys.executable).parent / "lsstcutouts"


def parsed(argument: str) -> Any:
    return OverridesParser.create().parse_override(argument).value()


def quoted(argument: str, *options: str) -> str:
    *before, last = hydra_arguments([argument, *options])
    assert before == [*options, "--"]
    return last


def settings_of(verb: str) -> dict[str, Any]:
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        plain = OmegaConf.to_container(compose(verb), resolve=False)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


# A verb that tells what it was called with, or fails as it is told.


@dataclass
class Echo:
    told: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return self.told

    @property
    def exit_status(self) -> int:
        return 1 if self.told["dataset_type"] == "failing" else 0


def echo(cfg: Any) -> Echo:
    sys.stdout.write("noise of the verb\n")
    if cfg.catalog == "missing":
        raise CatalogError("missing: no such file")
    if cfg.catalog == "wrong":
        raise ConfigurationError("size=-1 must be positive")
    if cfg.catalog == "constructor":
        raise InstantiationException("Error in call to target") from CatalogError("said by a constructor")
    if cfg.catalog == "bug":
        raise ZeroDivisionError("a bug")
    if cfg.catalog == "ctrl-c":
        raise KeyboardInterrupt
    return Echo({"catalog": cfg.catalog, "dataset_type": cfg.dataset_type, "number": np.int64(3), "argv": sys.argv[1:]})


@pytest.fixture
def plan_echoes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Put `echo` in the place of the verb plan, in an empty folder; return arguments that it needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setitem(VERBS, "plan", replace(VERBS["plan"], target=f"{__name__}:echo"))
    return ["plan", "repo=r", "collections=c"]


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_shows_every_verb_with_an_example(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{verb.summary}$", shown, re.MULTILINE)
        assert verb.examples[0] in shown


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_examples_and_every_setting(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert VERBS[verb].summary in shown
    assert all(example in shown for example in VERBS[verb].examples)
    source = files("lsstcutouts.configs").joinpath(f"{verb}.yaml").read_text()
    own = set(OmegaConf.create(source)) - {"defaults", "hydra"}
    assert own
    for name in own:
        assert re.search(rf"^  {name}: ", shown, re.MULTILINE)
    assert "json=true" in shown
    assert "hydra:" not in shown


def test_the_help_lists_the_groups() -> None:
    assert "data=demo (or custom, dp1, dp2, export)" in verb_help("train")
    assert "Groups" not in verb_help("plan")


@pytest.mark.parametrize("example", [example for verb in VERBS.values() for example in verb.examples])
def test_the_examples_compose(example: str) -> None:
    script, verb, *rest = shlex.split(example)
    assert (script, verb in VERBS) == ("lsstcutouts", True)
    overrides = hydra_arguments(complete_arguments(verb, rest))
    overrides = overrides[overrides.index("--") + 1 :]
    swept = [re.sub(r"=(\d),.*", r"=\1", override) for override in overrides]
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        assert not OmegaConf.missing_keys(compose(verb, overrides=swept))


@pytest.mark.parametrize(
    ("argument", "words"),
    [("plna", "did you mean 'plan'"), ("xyz", "no verb 'xyz'"), ("repo=x", "'repo=x' needs a verb before it")],
)
def test_unknown_verbs(argument: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert all(verb in shown.err for verb in VERBS)
    assert shown.out == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"lsstcutouts \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys, time; from lsstcutouts.app.cli import main; main(['--help']); main(['train', '--help']);"
        "sys.stderr.write(' '.join(m for m in ('torch', 'numpy', 'hydra', 'lsst') if m in sys.modules));"
        "sys.exit(time.process_time() > 1.0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Quoting


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a/b.parquet",
        "/data/a b/c.parquet",
        "/data/a=b/c",
        "/data/(x)/y",
        "run(1)",
        "/data/[x]/y",
        "[x]/y",
        "{x}/y",
        "/data/a,b/c",
        "it's/here",
        'say "x"/y',
        "https://host:443/a?b=c&d=e#f",
        "ö/ü",
        "back\\slash=/x",
        "back\\",
        "a=b=c",
        "tab\there=x",
        "two\nlines",
        "x;y",
        "<x>",
        "10%/!",
    ],
)
def test_values_that_are_taken_as_they_stand(value: str) -> None:
    assert parsed(quoted(f"repo={value}")) == value
    assert parsed(quoted(f"++data.repo={value}")) == value


@pytest.mark.parametrize(
    "argument",
    [
        "size=64",
        "size=[64,32]",
        "columns=[label,name]",
        "splits={train: 0.8, val: 0.2}",
        "json=true",
        "skymap=null",
        "trainer.max_epochs=1e1",
        "bands='g,r'",
        'repo="/data/a=b"',
        "seed=1,2,3",
        "seed=range(1,4)",
        "data=choice(dp1,dp2)",
        "repo=${oc.env:HOME}/data",
        "repo=a\\,b",
        "output=",
        "~trainer",
        "+data=dp2",
        "columns=[label",
        "not an override",
    ],
)
def test_hydras_own_grammar_is_left_alone(argument: str) -> None:
    assert quoted(argument) == argument


def test_options_go_before_overrides_with_their_values() -> None:
    arguments = ["a=1", "--config-dir", "a=b (c)", "repo=a b=c", "-cd", "x=[", "--multirun", "b=2", "--info", "c=3"]
    options = ["--config-dir", "a=b (c)", "-cd", "x=[", "--multirun", "--info"]
    assert hydra_arguments(arguments) == [*options, "--", "a=1", "repo='a b=c'", "b=2", "c=3"]
    assert hydra_arguments(["-i", "config", "c=3"]) == ["-i", "config", "--", "c=3"]


def test_sweeps_over_paths() -> None:
    assert quoted("repo=a/b,c/d", "-m") == "repo=a/b,c/d"
    assert quoted("repo=a/b,c/d") == "repo='a/b,c/d'"


@pytest.mark.parametrize("name", [NASTY, "a,b", "[a]", "{a: 1}", "'x'", "range(1,3)", " lead", "back\\,slash", "a: b"])
def test_existing_paths_are_taken_as_they_stand(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for value in (name, str(tmp_path / name)):
        assert parsed(quoted(f"repo={value}")) == value
        assert parsed(quoted(f"repo={value}", "-m")) == value


def test_numbers_stay_numbers_although_a_file_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "64").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parsed(quoted("size=64")) == 64


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/some one")
    assert parsed(quoted("repo=~/a=b")) == "/people/some one/a=b"
    assert parsed(quoted("repo=~")) == "/people/some one"
    assert parsed(quoted("repo=~other")) == "~other"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_that_hydra_cannot_parse_survives(text: str) -> None:
    value = f"={text}"  # no value of hydra's grammar starts like this
    assert parsed(quoted(f"repo={value}")) == value


# Running


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]], str]:
    status = main([*arguments, "json=true"])
    shown = capsys.readouterr()
    return status, [json.loads(line) for line in shown.out.splitlines()], shown.err


def test_a_verb_gets_its_settings(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, results, noise = run_json([*plan_echoes, f"catalog={NASTY}/x.csv"], capsys)
    assert status == 0
    assert [result["catalog"] for result in results] == [f"{NASTY}/x.csv"]
    assert results[0]["number"] == 3
    assert noise == "noise of the verb\n"
    assert list(Path().iterdir()) == []


def test_without_json_only_the_verb_speaks(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_echoes, "catalog=x"]) == 0
    assert capsys.readouterr() == ("noise of the verb\n", "")


def test_the_exit_status_of_a_verb(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, results, _ = run_json([*plan_echoes, "catalog=x", "dataset_type=failing"], capsys)
    assert status == 1
    assert results[0]["dataset_type"] == "failing"


def test_a_sweep_runs_every_job(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, results, _ = run_json([*plan_echoes, "-m", "catalog=x,missing,y"], capsys)
    assert status == 1
    assert [result.get("catalog", result.get("error")) for result in results] == ["x", "CatalogError", "y"]


def test_the_command_line_is_whole_while_a_verb_runs(
    plan_echoes: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning starts the other ranks of a training with what it finds there."""
    given_line = ["/bin/lsstcutouts", *plan_echoes, "catalog=x", "json=true"]
    monkeypatch.setattr(sys, "argv", given_line)
    assert main() == 0
    assert json.loads(capsys.readouterr().out)["argv"] == given_line[1:]
    assert sys.argv is given_line


@pytest.mark.parametrize(
    ("catalog", "status", "line"),
    [
        ("missing", 1, "lsstcutouts plan: CatalogError: missing: no such file"),
        ("wrong", 2, "lsstcutouts plan: ConfigurationError: size=-1 must be positive"),
        ("constructor", 1, "lsstcutouts plan: CatalogError: said by a constructor"),
        ("ctrl-c", 130, "lsstcutouts plan: interrupted"),
    ],
)
def test_foreseen_errors_are_one_line(
    catalog: str, status: int, line: str, plan_echoes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*plan_echoes, f"catalog={catalog}"]) == status
    assert capsys.readouterr().err == line + "\n"


def test_errors_as_json(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, results, _ = run_json([*plan_echoes, "catalog=missing"], capsys)
    assert (status, results) == (1, [{"error": "CatalogError", "message": "missing: no such file"}])


@pytest.mark.parametrize("how", ["debug=true", "HYDRA_FULL_ERROR"])
def test_where_an_error_came_from(
    how: str, plan_echoes: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ["debug=true"] if "=" in how else []
    if not extra:
        monkeypatch.setenv(how, "1")
    assert main([*plan_echoes, "catalog=missing", *extra]) == 1
    assert "in echo\n" in capsys.readouterr().err


def test_bugs_show_a_traceback(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*plan_echoes, "catalog=bug"]) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in shown
    assert "in echo" in shown


def test_settings_that_are_missing_or_unknown(plan_echoes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "repo=x"]) == 2
    assert "catalog, collections must be given: add catalog=... collections=..." in capsys.readouterr().err
    assert main([*plan_echoes, "catalog=x", "catalogue=y"]) == 2
    assert "unknown setting 'catalogue'. Did you mean catalog?" in capsys.readouterr().err
    assert main([*plan_echoes, "--no-such-option"]) == 2


def test_the_configuration_can_be_shown_without_running(
    plan_echoes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*plan_echoes, "catalog=a=b", "--cfg", "job"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).catalog == "a=b"
    assert not HydraConfig.initialized()


# The verbs themselves


@pytest.mark.parametrize(("verb", "settings"), [("simulate", SimulationConfig), ("doctor", Settings)])
def test_a_configuration_has_the_settings_and_defaults_of_its_class(verb: str, settings: type) -> None:
    found = {name: value for name, value in settings_of(verb).items() if name not in {"json", "debug"}}
    assert {field.name for field in fields(settings)} == set(found) - {"root", "overwrite"}
    defaults = settings()
    for field in fields(settings):
        assert found[field.name] == getattr(defaults, field.name)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_json_and_debug(verb: str) -> None:
    settings = settings_of(verb)
    assert (settings["json"], settings["debug"]) == (False, False)


@pytest.mark.parametrize("verb", ["simulate", "doctor", "plan", "cache"])
def test_every_setting_has_a_comment(verb: str) -> None:
    lines = files("lsstcutouts.configs").joinpath(f"{verb}.yaml").read_text().splitlines()
    first = lines.index("  - _self_") + 1
    bare = [line for line in lines[first:] if line and "#" not in line]
    assert bare in ([], ["dec: null"])


def test_simulate_and_plan_in_a_folder_with_a_difficult_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / NASTY
    folder.mkdir()
    monkeypatch.chdir(folder)
    small = ["cells=2", "patches=1", "grid=3", "cell=64", "targets=12", "bands=gr"]
    status, (made,), _ = run_json(["simulate", "root=the repo=1", *small], capsys)
    assert status == 0
    assert (made["root"], made["catalog"]) == ("the repo=1", "the repo=1/truth.parquet")
    for base in ("", f"{folder}/"):
        where = [f"repo={base}the repo=1", "collections=dp2", f"catalog={base}the repo=1/truth.parquet"]
        status, (summary,), _ = run_json(
            ["plan", *where, "bands=gr", "size=[16,24]", "columns=[label]", f"output={base}p=1.parquet"], capsys
        )
        assert status == 0
        plan = CutoutPlan.load(folder / "p=1.parquet")
        assert (summary["targets"], len(plan), tuple(summary["size"])) == (12, 12, (16, 24))
        assert "label" in plan.columns
    assert main(["simulate", "root=the repo=1", *small]) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["p=1.parquet", "the repo=1"]


def test_the_script_from_a_shell(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    plan = [str(SCRIPT), "plan", "repo=x", "collections=c", "catalog=my file=1.csv"]
    done = subprocess.run(plan, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    line = f"lsstcutouts plan: CatalogError: my file=1.csv: this file does not exist in {tmp_path}.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_told_quickly(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    assert main(["train", "data=dp2"]) == 2
    assert time.process_time() - start < 2.0
