"""hydra's parser on Python 3.14, whose argparse looks into each help text when it is added."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import utils

from lsstcutouts.app.cli import VERBS, main
from lsstcutouts.app.cli.parser import texts_as_help

add_argument = argparse._ActionsContainer.add_argument


def checking(container: argparse._ActionsContainer, *names: Any, **options: Any) -> argparse.Action:
    """Add an argument as Python 3.14 does (cpython issue 124899)."""
    action = add_argument(container, *names, **options)
    if action.help:
        try:
            _ = "%" in action.help
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError("badly formed help string") from error
    return action


@pytest.fixture(autouse=True)
def python_314(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where a sweep leaves its folder
    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", checking)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_configured(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--cfg", "job"]) == 0
    assert capfd.readouterr().out


def test_a_verb_runs_and_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    for sweep in ((), ("-m",)):
        assert main(["plan", "repo=/nowhere", "collections=x", "catalog=none.csv", *sweep]) == 1
        assert "CatalogError" in capfd.readouterr().err  # said by the verb: it was reached


def test_hydras_own_help_is_whole(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--hydra-help"]) == 0
    assert "Install or Uninstall shell completion" in capfd.readouterr().out


def test_argparse_is_left_alone() -> None:
    with texts_as_help():
        parser = utils.get_args_parser()
        assert all(isinstance(action.help, str) for action in parser._actions)
        assert argparse.ArgumentParser is not type(parser)
    assert vars(utils)["argparse"] is argparse
    try:
        utils.get_args_parser()
    except ValueError as error:
        assert "badly formed" in str(error)  # noqa: PT017 - a later hydra may do without
