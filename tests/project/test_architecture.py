"""The rooms: what may import what, as docs/architecture.md says, and what an import costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lsstcutouts
from tools.house import Import, circles, doubled_classes, doubled_files, imports, sources

ROOT = Path(__file__).parents[2]
FILES = sources(ROOT)
IMPORTS = imports(FILES)


def rooms() -> dict[str, set[str]]:
    """Return each room of the page's table, in its order, and the rooms that it may import."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    lines = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    table: dict[str, set[str]] = {}
    for name, imported in lines:
        allowed = set(table) if imported == "every room" else set(re.findall(r"\w+", imported))
        assert allowed <= set(table), f"{name} may import only rooms above it in the table, not {allowed - set(table)}"
        table[name] = allowed
    return table


ROOMS = rooms()


def listed(wrong: list[Import]) -> list[str]:
    return [f"{one.file}:{one.line} imports {one.target}" for one in wrong]


def test_the_page_names_every_room_and_there_are_at_most_fourteen() -> None:
    assert set(ROOMS) == {file.room for file in FILES} - {""}
    assert len(ROOMS) <= 14


def test_a_room_imports_only_what_the_page_allows() -> None:
    wrong = []
    for one in IMPORTS:
        room, target = one.file.parts[0], Path(one.target).parts[0]
        if one.own and room in ROOMS and target in ROOMS and target != room and target not in ROOMS[room]:
            wrong.append(one)
    assert not listed(wrong)


def test_the_page_allows_nothing_that_no_file_needs() -> None:
    used = {(one.file.parts[0], Path(one.target).parts[0]) for one in IMPORTS if one.own}
    unused = {room: {t for t in allowed if (room, t) not in used} for room, allowed in ROOMS.items() if room != "app"}
    assert not {room: targets for room, targets in unused.items() if targets}


def test_files_import_one_another_in_no_circle() -> None:
    assert circles(IMPORTS) == []


def test_own_modules_are_not_imported_inside_functions() -> None:
    assert not listed([one for one in IMPORTS if one.own and one.inside])


def test_heavy_packages_stay_in_their_rooms() -> None:
    butler = [one for one in IMPORTS if one.target.startswith("lsst.daf.butler")]
    assert not listed([one for one in butler if one.file.parts[0] not in {"plan", "testing", "app"}])
    light = list(ROOMS)[: list(ROOMS).index("transforms")]
    torch = [one for one in IMPORTS if not one.own and one.target.split(".")[0] in {"torch", "lightning"}]
    assert not listed([one for one in torch if one.file.parts[0] in light])


def test_matplotlib_is_imported_inside_the_functions_that_draw() -> None:
    drawn = [one for one in IMPORTS if not one.own and one.target.split(".")[0] == "matplotlib"]
    assert not listed([one for one in drawn if not one.inside and not one.typing])


def test_files_stay_readable() -> None:
    assert not [f"{file.path}: {n} lines" for file in FILES if (n := len(file.text.splitlines())) > 450]


def test_no_class_and_no_file_has_the_name_of_another() -> None:
    assert doubled_classes(FILES) == {}
    assert doubled_files(FILES) == {}


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
