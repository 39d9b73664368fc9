"""The doctor: healthy on real repositories, and its settings and results."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.app.doctor import CHECKS, Result, Settings, compute, diagnose
from lsstcutouts.errors import ConfigurationError, LsstCutoutsError
from lsstcutouts.testing import SimulatedRepository

from ..support.doctor import one, settings_of

LOCAL = [name for name, check in CHECKS.items() if not check.remote]
GOOD, POOR, BAD = Result("pass", "a"), Result("warn", "b", "do b"), Result("fail", "c", "do c")


@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_a_healthy_environment_passes(release: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    repo = request.getfixturevalue(f"{release}_repo")
    results = diagnose(settings_of(repo, output=str(tmp_path / "new" / "folder"), size=(30, 41))).results
    assert list(results) == LOCAL
    statuses = {name: result.status for name, result in results.items()}
    assert statuses.pop("gpu") in {"pass", "warn"}
    assert set(statuses.values()) == {"pass"}, results
    details = {name: result.detail for name, result in results.items()}
    assert "10 deep_coadd" in details["repository"]
    assert "(g 3, i 3, r 4)" in details["repository"]
    assert f"tract {repo.tract}: 10, skymap {repo.skymap}" in details["repository"]
    oracle = "lsst.images" if release == "dp2" else "astropy"
    assert f"5 cutouts of 30 x 41 px equal {oracle} bit for bit" in details["cutout"]


def test_without_a_repository_one_is_written_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[str] = []
    results = diagnose(names=("repository", "cutout"), before=seen.append).results
    assert [result.status for result in results.values()] == ["pass", "pass"], results
    assert seen == ["Butler repository", "cutouts equal a second reader"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json_and_its_exit_status_tells(
    dp2_repo: SimulatedRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", f"repo={dp2_repo.root}", f"collections={dp2_repo.collections}", "json=true"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] in {"pass", "warn"}
    assert [check["name"] for check in report["checks"]] == LOCAL
    assert set(report["checks"][0]) == {"name", "status", "detail", "todo"}
    assert main(["doctor", "repo=nowhere", "collections=dp2", "json=true"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "fail"
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_table(
    dp2_repo: SimulatedRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", f"repo={dp2_repo.root}", "collections=[none]", "cache_bytes=100 TB"]) == 1
    shown = capsys.readouterr().out
    assert "lsstcutouts doctor: fail" in shown
    assert "no collection 'none'" in shown
    assert "not tried, because 'Butler repository' failed" in shown
    assert "-> give a smaller cache_bytes" in shown


def test_importing_the_doctor_loads_nothing_that_it_tests() -> None:
    code = "import lsstcutouts.app.doctor, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lsstcutouts.app.doctor.diagnosis" in loaded
    assert not {"torch", "numpy", "astropy", "imagecodecs", "lsst.daf.butler", "lsst.resources"} & set(loaded)


@pytest.mark.parametrize(
    "wrong",
    [
        {"repo": "dp2"},
        {"collections": "dp2"},
        {"batch_size": 0},
        {"batch_size": True},
        {"num_workers": -1},
        {"size": 0},
        {"size": (3, 4, 5)},
    ],
)
def test_settings_that_cannot_work_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("results", "combined"),
    [
        ([GOOD, POOR, BAD], BAD),
        ([GOOD, POOR, POOR], Result("warn", "b; b", "do b")),
        ([GOOD, GOOD], Result("pass", "a; a")),
        ([Result("pass", "x \n" * 1000)], Result("pass", "x " * 198 + " ...")),
        (LsstCutoutsError("two\nlines"), Result("fail", "LsstCutoutsError: two lines", CHECKS["torch"].todo)),
        (RuntimeError(), Result("fail", "RuntimeError: no message", CHECKS["torch"].todo)),
    ],
)
def test_a_check_gives_its_worst_results_in_one_line(
    results: list[Result] | Exception, combined: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: Any) -> list[Result]:
        if isinstance(results, Exception):
            raise results
        return results

    monkeypatch.setattr(compute, "check_torch", check)
    assert one("torch") == combined
