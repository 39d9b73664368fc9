"""What constructors take, by their own signatures."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from lsstcutouts.app.signatures import fits, importing_from_here, located, nearest, parameters, shown_type
from lsstcutouts.errors import ConfigurationError

type Choice = bool | Literal["block", "full"]


class Made:
    """Stands for an object that a configuration describes as a dictionary."""


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, True),
        (3.0, int, True),  # hydra reads 1e1 as a float
        (3.5, int, False),
        (True, int, False),
        ("3", int, False),
        (3, float, True),
        ("fast", float | Made, False),
        ({"_target_": "x.Y"}, float | Made, True),
        (None, int | None, True),
        (None, int, False),
        ("block", Choice, True),
        ("blocks", Choice, False),
        (True, Choice, True),
        (1, Literal["a", 1], True),
        (True, Literal["a", 1], False),
        ("a/b", str | os.PathLike[str], True),
        (["g", "r"], Sequence[str], True),
        ("gr", Sequence[str], True),  # a text is a sequence of texts
        ("gr", list[str], False),
        ("gr", Sequence[int], False),
        ([1, "x"], Sequence[int], False),
        ({"g": 1.0}, Mapping[str, float] | float, True),
        ({"_target_": "x.Y"}, Made | None, True),
        ("text", Made, False),
        ({"_target_": "x.y", "_partial_": True}, Callable[[int], str], True),
        (object, Any, True),
        ("x", Any, True),
    ],
)
def test_plain_values_against_types(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "an integer or null"),
        (None | float, "a number or null"),
        (Choice, "one of block, full or true or false"),
        (Literal["zero", "nan"], "one of zero, nan"),
        (Literal["g", "r"] | None, "one of g, r or null"),
        (Sequence[int], "a list of integers"),
        (list[str] | str, "a list of strings or a string"),
        (float | Made, "a number"),
        (Made, "{_target_: ...} that creates a Made"),
        (str | os.PathLike[str], "a string or a path"),
        (Mapping[str, float], "a dictionary"),
    ],
)
def test_types_in_words(hint: object, words: str) -> None:
    assert shown_type(hint) == words


def test_parameters_of_anything() -> None:
    def function(a: int, *rest: int, b: str = "", **more: int) -> None: ...

    assert parameters(function) == ({"a": int, "b": str}, True)
    assert parameters(Made)[0] == {}
    assert parameters(located("lsstcutouts.models.LensFinder"))[0]["dropout"] is float
    assert parameters(dict)[1]


def test_import_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_classes.py").write_text("class Net: ...\nclass Other: ...\n")
    (tmp_path / "own_broken.py").write_text("import not_there_at_all\n")
    before = list(sys.path)
    with importing_from_here():
        assert located("own_classes.Net").__name__ == "Net"
        with pytest.raises(ConfigurationError, match=r"own_classes has no 'Nett'; did you mean Net\?"):
            located("own_classes.Nett")
        with pytest.raises(ConfigurationError, match=r"own_classes has no 'Xyz'; it has Net, Other"):
            located("own_classes.Xyz")
        with pytest.raises(
            ConfigurationError, match=r"module 'own_clases' is not installed.*own_clases\.py.*did you mean own_classes"
        ):
            located("own_clases.Net")
        with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
            located("own_broken.Net")
    assert sys.path == before
    with pytest.raises(ConfigurationError, match="is not an import path"):
        located("Net")
    with pytest.raises(ConfigurationError, match="is not a class or function"):
        located("sys.path")
    assert located("os.path.join") is os.path.join
    assert located("concurrent.futures.ThreadPoolExecutor").__name__ == "ThreadPoolExecutor"


def test_near_names() -> None:
    names = ["trainer.max_epochs", "model.optimizer.lr", "data.batch_size", "seed"]
    assert nearest("lr", names)[0] == "model.optimizer.lr"
    assert nearest("max_epoch", names) == ["trainer.max_epochs"]
    assert nearest("trainer.max_epoch", names) == ["trainer.max_epochs"]
    assert nearest("xyz", names) == []
