"""Of what kind a test is: what its function, its fixtures and the helpers they call use, by name."""

from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

__all__ = ["kind_of"]

SYSTEM = frozenset(
    {
        # Processes.
        *("subprocess", "multiprocessing", "ProcessPoolExecutor", "Popen", "spawn", "num_workers"),
        # Trainings and the verbs of the command.
        *("Trainer", "LightningCLI", "fit_statistics_parallel", "main"),
        # Servers.
        *("FileServer", "HTTPServer", "ThreadingHTTPServer", "serving", "Platform", "shared_platform"),
    }
)
REPO = frozenset({"simulate", "simulated_once", "simulated_copy", "dp1_repo", "dp2_repo"})


def kind_of(item: pytest.Function) -> str:
    """Return ``"unit"``, ``"repo"`` or ``"system"``: what the test's file says, else by the names that it uses."""
    if item.get_closest_marker("system"):
        return "system"
    definitions = item._fixtureinfo.name2fixturedefs
    functions: list[Callable[..., Any]] = [item.function]
    functions += [d.func for name in item.fixturenames for d in definitions.get(name, ())[-1:]]
    parameters = getattr(item, "callspec", None)
    values = {} if parameters is None else parameters.params
    used = set(item.fixturenames).union(*map(_names, functions), map(str, values.values()))
    if used & SYSTEM or any(values.get(name) for name in ("workers", "num_workers")):
        return "system"
    return "repo" if used & REPO else "unit"


@cache
def _names(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names that a function and the functions of the tests that it calls use."""
    found: set[str] = set()
    seen: set[object] = set()
    todo: list[Any] = [function]
    while todo:
        one = todo.pop()
        one = getattr(one, "__wrapped__", one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type):
            todo += [v.fget if isinstance(v, property) else v for v in vars(one).values()]
        if not isinstance(one, FunctionType):
            continue
        names = set(_names_in(one.__code__))
        found |= names
        todo += [value for name in names for value in _own(one.__globals__, name, names)]
    return frozenset(found)


def _own(scope: dict[str, Any], name: str, names: set[str]) -> Iterator[Any]:
    """Yield what the tests define under a name, and of a module of the tests what the function uses."""
    value = scope.get(name)
    if isinstance(value, ModuleType) and value.__name__.startswith("tests."):
        yield from (v for n, v in vars(value).items() if n in names)
    elif str(getattr(value, "__module__", "")).startswith("tests."):
        yield value


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
        elif isinstance(constant, tuple):  # the names of keyword arguments
            yield from (c for c in constant if isinstance(c, str))
