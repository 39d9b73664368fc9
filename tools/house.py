"""Print the figures of the house: rooms, files, parameters, doubled names, tests that mirror a module, lengths of functions.

``python tools/house.py [CHECKOUT] [--list]`` reads the sources only, with the standard library, so that it also runs on
an old checkout (``git worktree add ../before COMMIT``). ``--list`` names what is counted.
"""

import argparse
import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

PACKAGE = "lsstcutouts"
CONSTRUCTORS = ("CutoutDataModule", "CutoutDataset", "LsstDataFetcher", "CutoutLoader")

type Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """One import statement's target."""

    file: Path
    target: str
    """A module of the package, as the path of its file from the package's folder, or the dotted name of a foreign one."""
    own: bool
    line: int
    inside: bool
    """Within a function."""
    typing: bool
    """Under ``if TYPE_CHECKING``."""


@dataclass(frozen=True)
class Source:
    """A file of the package, parsed."""

    path: Path
    """From the package's folder."""
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """First folder under the package, or the module's name where it lies beside them; empty for the package itself."""
        first = self.path.parts[0].removesuffix(".py")
        return "" if first == "__init__" else first


def sources(checkout: Path) -> list[Source]:
    """Read every file of the package."""
    root = checkout / PACKAGE
    texts = ((path.relative_to(root), path.read_text()) for path in sorted(root.rglob("*.py")))
    return [Source(path, text, ast.parse(text)) for path, text in texts]


def imports(files: list[Source]) -> list[Import]:
    """Return every import of every file; `from .a import b` counts as one of module ``a.b`` if there is such a file."""
    modules = {}
    for file in files:
        parts = file.path.with_suffix("").parts
        modules[parts[:-1] if parts[-1] == "__init__" else parts] = str(file.path)
    found = []
    for file in files:
        for node, inside, typing in _import_nodes(file.tree):
            for target in _targets(node, file.path.parent.parts):
                own = target[0] == PACKAGE
                below = target[1:]
                while own and below not in modules:
                    below = below[:-1]  # the last part is a name within the module
                name = modules[below] if own else ".".join(target)
                found.append(Import(file.path, name, own, node.lineno, inside, typing))
    return found


def _import_nodes(tree: ast.AST, inside: bool = False, typing: bool = False) -> Iterator[tuple[ast.stmt, bool, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside, typing
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _import_nodes(node, inside, True)
        else:
            yield from _import_nodes(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), typing)


def _targets(node: ast.stmt, folder: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the dotted names that a statement imports, as tuples that begin with the package's own name."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = tuple(node.module.split(".")) if node.module else ()
    if node.level:
        base = (PACKAGE, *folder[: len(folder) - node.level + 1], *base)
    return [(*base, alias.name) for alias in node.names]


def circles(found: list[Import]) -> list[list[str]]:
    """Return each set of files that import one another (strongly connected components of more than one file)."""
    ahead, behind = defaultdict(set), defaultdict(set)
    for one in found:
        if one.own and not one.typing and str(one.file) != one.target:
            ahead[str(one.file)].add(one.target)
            behind[one.target].add(str(one.file))

    def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for name in edges.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    groups = {frozenset(reached(name, ahead) & reached(name, behind)) for name in list(ahead)}
    return sorted(sorted(group) for group in groups if group)


def classes(files: list[Source]) -> list[tuple[str, ast.ClassDef]]:
    """Return every class with the path of its file."""
    return [(str(f.path), n) for f in files for n in ast.walk(f.tree) if isinstance(n, ast.ClassDef)]


def doubled(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that stand in more than one place, of pairs ``(name, place)``."""
    places = defaultdict(list)
    for name, place in pairs:
        places[name].append(place)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def doubled_classes(files: list[Source]) -> dict[str, list[str]]:
    """Return class names that are given twice, with the files."""
    return doubled([(node.name, path) for path, node in classes(files)])


def doubled_files(files: list[Source]) -> dict[str, list[str]]:
    """Return file names that occur twice, with the paths; ``__init__.py`` aside."""
    return doubled([(f.path.name, str(f.path)) for f in files if f.path.name != "__init__.py"])


def parameters(files: list[Source], name: str) -> int | None:
    """Return the number of parameters of a class's constructor, without ``self``, or None if there is none of that name."""
    known = {node.name: node for _, node in classes(files)}
    while name in known:
        for item in known[name].body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                a = item.args
                return (
                    len([*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg])
                    - 1
                    - [a.vararg, a.kwarg].count(None)
                )
        name = next((ast.unparse(base) for base in known[name].bases if ast.unparse(base) in known), "")
    return None


def functions(files: list[Source]) -> list[tuple[Source, ast.ClassDef | None, Function]]:
    """Return all functions and methods, those within functions too, with the class around them."""

    def walk(node: ast.AST, owner: ast.ClassDef | None) -> Iterator[tuple[ast.ClassDef | None, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield owner, child
                yield from walk(child, None)
            else:
                yield from walk(child, child if isinstance(child, ast.ClassDef) else owner)

    return [(file, owner, node) for file in files for owner, node in walk(file.tree, None)]


def length(node: Function) -> int:
    """Return the lines of a function's body, its docstring not counted."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0


def called_once(files: list[Source]) -> tuple[int, list[str]]:
    """Return the number of helpers, and those that one place alone refers to.

    A helper is a function of a module, or a private method, that is in no ``__all__`` and has no decorator that hands it
    to somebody else.
    """
    uses: Counter[str] = Counter()
    for file in files:
        for node in ast.walk(file.tree):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            if name is not None and isinstance(node.ctx, ast.Load):  # type: ignore[attr-defined]
                uses[name] += 1
    exported = {
        text.value
        for file in files
        for node in file.tree.body
        if isinstance(node, ast.Assign | ast.AugAssign) and "__all__" in ast.unparse(node)
        for text in ast.walk(node.value)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }
    helpers = []
    for file, owner, node in functions(files):
        nested = owner is None and node not in file.tree.body
        private = node.name.startswith("_") and not node.name.endswith("__")
        plain = all(ast.unparse(d) in {"staticmethod", "classmethod", "cache"} for d in node.decorator_list)
        if plain and not nested and (private if owner else node.name not in exported):
            helpers.append((node.name, f"{file.path}:{node.lineno} {node.name} ({length(node)} lines)"))
    own: Counter[str] = Counter()
    for _, _, node in functions(files):
        own[node.name] += sum(isinstance(n, ast.Name) and n.id == node.name for n in ast.walk(node))
    names = Counter(name for name, _ in helpers)
    once = [place for name, place in helpers if names[name] == 1 and uses[name] - own[name] == 1]
    return len(helpers), once


ARRAYS = re.compile(r"ndarray|NDArray|Tensor|\b\w*Array\b")
SHAPE = re.compile(r"\(\s*[A-Za-z.0-9]+\s*,[^()]*\)|\bscalars?\b|\bshape\b")
UNIT = re.compile(
    r"\b(nJy|degrees?|deg|arcsec|px|pixels?|bytes|MB|seconds?|bits?|mag|magnitudes?|bool(?:ean)?s?|ids?|row|rows|indices|"
    r"index|numbers?|counts?|fraction|share|weights?|radians?|unit vectors?)\b"
)


def silent_docstrings(files: list[Source]) -> tuple[int, list[str], list[str]]:
    """Return how many public functions take or return arrays, and which say no shape, and neither shape nor unit."""
    public, shapeless, silent = 0, [], []
    for file, owner, node in functions(files):
        hidden = node.name.startswith("_") or (owner is not None and owner.name.startswith("_"))
        if hidden or (owner is None and node not in file.tree.body):
            continue
        a = node.args
        annotations = [arg.annotation for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs]] + [node.returns]
        if not any(ARRAYS.search(ast.unparse(one)) for one in annotations if one is not None):
            continue
        public += 1
        text = (ast.get_docstring(node) or "") + (ast.get_docstring(owner) or "" if owner else "")
        place = f"{file.path}:{node.lineno} {node.name}"
        if not SHAPE.search(text):
            shapeless.append(place)
            if not UNIT.search(text):
                silent.append(place)
    return public, shapeless, silent


def mirrored(checkout: Path, files: list[Source]) -> tuple[int, list[str]]:
    """Return the number of test files, and those that are not ``tests/<room>/test_<module>[_aspect].py``.

    Tests of files outside the package (``tests/project``, ``tests/benchmarks``) are not counted.
    """
    stems: dict[str, set[str]] = defaultdict(set)
    for file in files:
        stems[file.room] |= {part.removesuffix(".py") for part in file.path.parts}
    tests = [p.relative_to(checkout / "tests") for p in sorted((checkout / "tests").rglob("test_*.py"))]
    tests = [path for path in tests if path.parts[0] not in {"project", "benchmarks"}]

    def mirrors(path: Path) -> bool:
        words = path.stem.removeprefix("test_").split("_")
        return any("_".join(words[:n]) in stems[path.parts[0]] for n in range(1, len(words) + 1))

    return len(tests), [str(path) for path in tests if len(path.parts) < 2 or not mirrors(path)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--list", action="store_true", help="name what is counted")
    asked = parser.parse_args()
    files = sources(asked.checkout)
    found = imports(files)
    lengths = [length(node) for _, _, node in functions(files)]
    tests, unmirrored = mirrored(asked.checkout, files)
    helpers, once = called_once(files)
    public, shapeless, silent = silent_docstrings(files)
    broad = [
        f"{f.path}:{n.lineno}"
        for f in files
        for n in ast.walk(f.tree)
        if isinstance(n, ast.ExceptHandler)
        and (n.type is None or ast.unparse(n.type) in {"Exception", "BaseException"})
    ]
    rows: list[tuple[str, object, list[str]]] = [
        ("rooms", len({f.room for f in files} - {""}), sorted({f.room for f in files} - {""})),
        ("files", len(files), []),
        ("lines", sum(len(f.text.splitlines()) for f in files), []),
        ("longest file, lines", max(len(f.text.splitlines()) for f in files), []),
        ("classes", len(classes(files)), []),
        *((f"parameters of {name}", parameters(files, name), []) for name in CONSTRUCTORS),
        (
            "class names given twice",
            len(two := doubled_classes(files)),
            [f"{k}: {', '.join(v)}" for k, v in two.items()],
        ),
        ("file names given twice", len(two := doubled_files(files)), [f"{k}: {', '.join(v)}" for k, v in two.items()]),
        ("circles of files", len(rings := circles(found)), [", ".join(ring) for ring in rings]),
        (
            "own imports inside functions",
            len(late := [i for i in found if i.own and i.inside]),
            [f"{i.file}:{i.line}" for i in late],
        ),
        (
            "own imports for types alone",
            len(typed := [i for i in found if i.own and i.typing and i.file.parts != ("__init__.py",)]),
            [f"{i.file}:{i.line} {i.target}" for i in typed],
        ),
        ("test files that mirror a module", f"{tests - len(unmirrored)} of {tests}", unmirrored),
        ("functions", len(lengths), []),
        (
            "lines of a function: median, p90, max",
            f"{median(lengths):.0f}, {quantiles(lengths, n=10)[-1]:.0f}, {max(lengths)}",
            [],
        ),
        ("helpers with one caller", f"{len(once)} of {helpers}", once),
        ("broad excepts", len(broad), broad),
        ("public functions of arrays without a shape", f"{len(shapeless)} of {public}", shapeless),
        ("... with neither shape nor unit", len(silent), silent),
    ]
    for label, value, names in rows:
        print(f"{label:45} {value}")
        for name in names if asked.list else ():
            print(f"    {name}")


if __name__ == "__main__":
    main()
