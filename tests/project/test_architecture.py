"""The rooms: what may import what, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lsstcutouts

PACKAGE = Path(lsstcutouts.__file__).parent
LAYERS = {
    name: number
    for number, name in enumerate(
        [
            "errors",
            "sky",
            "catalog",
            "order",
            "source",
            "fits",
            "plan",
            "testing",
            "splits",
            "read",
            "transforms",
            "loader",
            "models",
            "app",
        ]
    )
}
"""A module imports only from lower layers; torch from `transforms` on."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, bool]]:
    """Return the names of imported modules, own ones as ``.room``, and whether the import stands in a function."""
    tree = ast.parse(path.read_text())
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    depth = len(path.relative_to(PACKAGE).parts)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(a.name, id(node) in inside) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module or "", id(node) in inside))
        elif isinstance(node, ast.ImportFrom):
            below = node.level < depth
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names if a.name in LAYERS]
            found += [(room(path) if below else "." + name, id(node) in inside) for name in names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    for name, _ in imported(path):
        if name.startswith(".") and name != "." and name[1:] != own:
            assert LAYERS[name[1:]] < LAYERS[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_own_modules_are_not_imported_inside_functions(path: Path) -> None:
    for name, inside in imported(path):
        assert not (inside and name.startswith((".", "lsstcutouts")))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    names = {name.split(".")[0] for name, _ in imported(path)} | {name for name, _ in imported(path)}
    if room(path) not in {"plan", "testing", "app"}:
        assert not any(n.startswith("lsst.daf.butler") for n in names)
    if LAYERS.get(room(path), 0) < LAYERS["transforms"]:
        assert not names & {"torch", "lightning"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lsstcutouts; print([m for m in ('torch', 'lsst.daf.butler', 'astropy.table', 'numpy') if m in sys.modules])"
    assert fresh(code) == "[]"


def test_a_worker_needs_no_butler() -> None:
    """Unpickling a dataset must not cost a worker the seconds and memory of the Butler."""
    code = (
        "import sys, lsstcutouts.loader.loader; print('lsst.daf.butler' in sys.modules, 'astropy.table' in sys.modules)"
    )
    assert fresh(code) == "False False"


@pytest.mark.parametrize("name", lsstcutouts.__all__)
def test_public_names_load(name: str) -> None:
    assert getattr(lsstcutouts, name).__name__ == name
    assert name in dir(lsstcutouts)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lsstcutouts.Nothing  # noqa: B018
