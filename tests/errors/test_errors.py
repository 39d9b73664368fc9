"""The tree of errors: one base, a built-in kind each, drawn as it is."""

import builtins
import re

import pytest

from lsstcutouts import errors


def classes() -> list[type[errors.LsstCutoutsError]]:
    return [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", classes())
def test_each_error_is_one_of_ours_and_a_built_in_kind(kind: type[errors.LsstCutoutsError]) -> None:
    assert issubclass(kind, errors.LsstCutoutsError)
    if kind is not errors.LsstCutoutsError:
        assert any(base.__module__ == builtins.__name__ and base is not Exception for base in kind.__mro__[1:-3])
    assert isinstance(kind.transient, bool)


def test_the_drawing_shows_every_class_below_its_parent() -> None:
    drawn = re.findall(r"^[ │├└─]*?(\w+Error)(?:\((\w+)\))?", errors.__doc__, flags=re.MULTILINE)
    assert {name for name, _ in drawn} == set(errors.__all__)
    for name, builtin in drawn:
        assert not builtin or issubclass(getattr(errors, name), getattr(builtins, builtin))


def test_only_passing_failures_are_worth_another_try() -> None:
    assert [k.__name__ for k in classes() if k.transient] == [
        "ReadTimeoutError",
        "RepositoryUnavailableError",
        "TransientReadError",
    ]
