"""The files around the package: what is shipped, what is pinned, how an interpreter is found."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lsstcutouts

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FIND_PYTHON = ROOT / ".ci" / "find-python"


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *extras) for line in lines]


def pins() -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {name: Version(version) for name, version in (line.split("==") for line in lines if line)}


def test_every_folder_of_the_package_is_shipped() -> None:
    folders = {
        str(path.parent.relative_to(ROOT)).replace(os.sep, ".") for path in ROOT.glob("lsstcutouts/**/__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"lsstcutouts.configs"}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    assert pins()[requirement.name] in requirement.specifier


def test_the_lowest_versions_are_those_of_the_project() -> None:
    printed = subprocess.run([ROOT / ".ci" / "lowest"], capture_output=True, text=True, check=True).stdout
    changed = set(printed.splitlines()) - set((ROOT / "constraints.txt").read_text().splitlines())
    bounded = (one for one in requirements() if one.name.startswith("lsst-") and one.specifier)
    assert changed == {f"{one.name}{one.specifier}".replace(">=", "==") for one in bounded}


def test_torch_may_be_old_enough_for_pascal_cards() -> None:
    (torch,) = (requirement for requirement in requirements() if requirement.name == "torch")
    assert "2.7.1" in torch.specifier


def test_make_lists_its_targets() -> None:
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lowest", "lint", "types", "check", "clean", "help"):
        assert f"make {target} " in shown.stdout


def find_python(path: Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the search with only these commands on PATH, and what the script itself needs."""
    tools = home / "tools"
    for name in ("sort", "head"):
        command(tools, name, f'exec {shutil.which(name)} "$@"')
    settings = {"PATH": f"{path}:{tools}", "HOME": str(home), **environment}
    return subprocess.run(["/bin/sh", FIND_PYTHON], env=settings, capture_output=True, text=True, check=False)


def command(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def interpreter(folder: Path, name: str, rank: int) -> Path:
    """Write a command that answers as an interpreter of that rank would."""
    return command(folder, name, f'echo "{rank} $0"')


def test_an_interpreter_is_found_that_runs(tmp_path: Path) -> None:
    shims = tmp_path / "shims (x)"
    command(shims, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    command(shims, "python3.12", f'exec "{sys.executable}" "$@"')
    found = find_python(shims, tmp_path)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).exists()


def test_the_versions_with_wheels_go_first(tmp_path: Path) -> None:
    folder = tmp_path / "some bin"
    interpreter(folder, "python3.15", 15)
    interpreter(folder, "python3", 14)
    expected = interpreter(folder, "python3.12", 1)
    assert find_python(folder, tmp_path).stdout == f"{expected}\n"
    expected = interpreter(folder, "python3.13", 0)
    assert find_python(folder, tmp_path).stdout == f"{expected}\n"


@pytest.mark.parametrize("variable", ["HOME", "PYENV_ROOT"])
def test_pyenv_is_looked_through(tmp_path: Path, variable: str) -> None:
    root = tmp_path / ".pyenv" if variable == "HOME" else tmp_path / "other root"
    interpreter(root / "versions" / "3.12.9" / "bin", "python", 1)
    expected = interpreter(root / "versions" / "3.13.1" / "bin", "python", 0)
    extra = {} if variable == "HOME" else {"PYENV_ROOT": str(root)}
    assert find_python(tmp_path, tmp_path, **extra).stdout == f"{expected}\n"


def test_without_an_interpreter_the_message_says_what_to_do(tmp_path: Path) -> None:
    for name in ("python3", "python"):
        command(tmp_path / "bin", name, "exit 1")
    found = find_python(tmp_path / "bin", tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert "at least 3.12" in found.stderr
    assert "make PYTHON=" in found.stderr


def test_the_version_is_written_once_and_cited() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    cited = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if ": " in line)
    assert cited["version"] == lsstcutouts.__version__ == metadata.version("lsstcutouts")
    assert (
        f"## [{lsstcutouts.__version__}] - {cited['date-released'].strip('"')}" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_the_classifiers_name_the_pythons_of_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {version}" for version in tested] == [
        line for line in PROJECT["project"]["classifiers"] if line.startswith("Programming Language")
    ]


def test_every_page_is_in_the_contents() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    listed = re.findall(r"^(\w[\w-]*)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(pages)


def test_pages_and_readme_link_to_files_that_exist() -> None:
    links = [
        (page, link)
        for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in link
    ]
    assert [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()] == []
