"""Blocks of code in pages: what runs them, and what checks those that need a GPU, a cluster or a server."""

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lsstcutouts.app.cli import VERBS, main

__all__ = ["ROOT", "Block", "blocks", "check_block", "commands", "pages"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^([ \t]*)```([^\n`]*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# ([\w/]+\.(?:py|yaml))$", re.MULTILINE)
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_VARIABLES = set(re.findall(r"`([A-Z][A-Z_0-9]+)[`=]", (ROOT / "docs" / "environment.md").read_text()))
_SHELL = {".", "cat", "read", "sed", "unset"}
"""Words of the shell itself."""


@dataclass(frozen=True)
class Block:
    """A block of code: page and line, language, text, and the name of the file that its first line says it is."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        found = _FILE.search(self.text)
        return found[1] if found and self.language in {"python", "yaml"} else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the names of all pages, from the root of the project."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if "_build" not in path.parts)


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of code of a page; directives of Sphinx are none."""
    text = (ROOT / page).read_text()
    for found in _FENCE.finditer(text):
        if not found[2].startswith("{"):
            body = "".join(line.removeprefix(found[1]) for line in found[3].splitlines(keepends=True))
            yield Block(page, text.count("\n", 0, found.start()) + 1, found[2].strip(), body)


def check_block(block: Block) -> None:
    """Check a block without running it: names, arguments and settings exist.

    Raises
    ------
    AssertionError
        If one does not, or the block is of no known kind.
    """
    if block.language == "python":
        check_python(block)
    elif block.language in {"", "sh"}:
        for words in commands(block):
            _check_command(block, words)
    else:
        assert block.language == "yaml", f"{block}: no test knows blocks of {block.language!r}"
        assert block.file, f"{block}: the first line says which file it is"


def commands(block: Block) -> list[list[str]]:
    """Return the commands of a block of the shell; not what it shows of their output."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    if all(line.startswith(("│", "┌", "└")) for line in lines) or "━━" in lines[0]:
        return []
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _check_command(block: Block, words: list[str]) -> None:
    name, *rest = words
    if name in {"srun", "torchrun"}:
        rest = rest[rest.index("lsstcutouts") :]
        name, *rest = rest
    if name == "lsstcutouts":
        check_settings(block, rest)
    elif name == "sbatch":
        (script,) = (word for word in rest if word.endswith(".sbatch"))
        verb = re.search(r"^exec (?:srun .* )?lsstcutouts (\w+)", (ROOT / script).read_text(), re.MULTILINE)
        check_settings(block, [verb[1], *rest[rest.index(script) + 1 :]])
    elif name == "make":
        assert {word for word in rest if "=" not in word} <= _TARGETS, f"{block}: make has no target {rest}"
    elif name in {"pip", "python", "python3"}:
        _check_python_command(block, rest[2:] if rest[:2] == ["-m", "pip"] else rest)
    elif name == "export":
        ours = {word.partition("=")[0] for word in rest if word.startswith(("LSSTCUTOUTS_", "BUTLER_", "DAF_"))}
        assert ours <= _VARIABLES, f"{block}: {ours - _VARIABLES} is not in docs/environment.md"
    else:
        assert name in _SHELL or name.startswith("("), f"{block}: no test knows what {name!r} is"


def _check_python_command(block: Block, words: list[str]) -> None:
    """Check ``pip install ...``, ``python -m ...`` and ``python FILE``."""
    if words[0] == "install":
        for extra in re.findall(r"lsstcutouts\[(\w+)\]", " ".join(words)):
            assert extra in _PROJECT["optional-dependencies"], f"{block}: there is no extra {extra!r}"
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"{block}: there is no module {words[1]!r}"
    else:
        named = {other.file for other in blocks(block.page)}
        assert words[0] in named or (ROOT / words[0]).is_file(), f"{block}: there is no file {words[0]!r}"


def check_settings(block: Block, arguments: list[str]) -> None:
    """Compose the configuration of a command, as ``--cfg job`` does, without running it."""
    if not {"--help", "--version", "--cfg"}.isdisjoint(arguments):
        assert arguments[0] in {*VERBS, "--help", "--version"}, f"{block}: there is no verb {arguments[0]!r}"
        return
    verb, *rest = arguments
    if "-m" in rest:  # of a sweep, the first job
        rest = [re.sub(r"^([\w.]+=[^\[{,]+),.*", r"\1", word) for word in rest if word != "-m"]
    errors = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(errors):
        status = main([verb, *rest, "--cfg", "job"])
    assert status == 0, f"{block}: lsstcutouts {shlex.join(arguments)}\n{errors.getvalue()}"


def check_python(block: Block) -> None:
    """Check that a program compiles, and that what it takes of this package exists: names, and arguments of calls."""
    tree = ast.parse(block.text, str(block))
    names: dict[str, Any] = {"lsstcutouts": importlib.import_module("lsstcutouts")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lsstcutouts":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: {node.module} has no {alias.name}"
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolved(block, node, names)
        if isinstance(node, ast.Call) and (called := _resolved(block, node.func, names)) is not None:
            _check_call(block, node, called)


def _resolved(block: Block, node: ast.expr, names: dict[str, Any]) -> Any:
    """Return what an expression of dotted names of this package is; None for any other."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute) or (owner := _resolved(block, node.value, names)) is None:
        return None
    if hasattr(owner, "__path__") and importlib.util.find_spec(name := f"{owner.__name__}.{node.attr}"):
        return importlib.import_module(name)
    assert hasattr(owner, node.attr), f"{block}: {owner} has no {node.attr}"
    return getattr(owner, node.attr)


def _check_call(block: Block, node: ast.Call, called: Any) -> None:
    named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
    starred = any(isinstance(one, ast.Starred) for one in node.args)
    given = [one for one in node.args if not isinstance(one, ast.Constant) or one.value is not ...]
    try:
        inspect.signature(called).bind_partial(*([] if starred else given), **named)
    except TypeError as error:
        raise AssertionError(f"{block}, line {node.lineno}: {ast.unparse(node)}: {error}") from None
