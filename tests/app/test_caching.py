"""The verb ``cache`` on a real repository behind a Butler server."""

import json
from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.app.cli.caching import CacheFilled, reader_options
from lsstcutouts.app.cli.override_errors import complete_arguments
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.read.fill_cache import FillResult
from lsstcutouts.source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE
from lsstcutouts.source.disk.disk_cache import DiskCache

from ..support.platform.science_platform import Platform, Published
from ..support.remote import dataset_of, epoch, remote_plan


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def result_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["cache", *arguments, "json=true"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_fill_show_check_and_clear(
    platform: Platform,
    remote_dp2: Published,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "16 MB")  # in segments of 2 MB
    remote_plan(remote_dp2).save("plan.parquet")
    platform.reset()
    filled = result_of(capsys, "fill", "plan=plan.parquet", "planes=[image,variance]", f"repo={remote_dp2.url}")
    counted = platform.counters()
    assert (filled["bytes"], filled["requests"]) == (counted.data_bytes, counted.data_requests)
    assert (filled["targets"], filled["files"], filled["folder"]) == (80, 10, str(folder))
    platform.set(away=1000)
    epoch(dataset_of(remote_plan(remote_dp2), planes=("image", "variance")))
    DiskCache.of_process().close()  # as a process does when it ends

    shown = result_of(capsys)
    assert shown == result_of(capsys, "action=show")
    assert (shown["folder"], shown["files"], shown["segments"], shown["damaged"]) == (str(folder), 10, 2, 0)
    assert counted.data_bytes <= shown["written"] < shown["bytes"]  # planning read one file, too
    assert 0.4 < shown["hit_rate"] < 0.8
    assert main(["cache"]) == 0
    printed = capsys.readouterr().out
    for words in (
        f"{folder}: 3 MB of at most 16 MB",
        "10 remote files in 2 segments",
        " misses, 3 MB added; hit rate ",
        "0 damaged",
    ):
        assert words in printed

    segment = max(folder.glob("*/*.seg"), key=lambda one: one.stat().st_size)
    assert result_of(capsys, "check") == {
        "folder": str(folder), "segments": 2, "records": filled_records(folder), "damaged": 0, "removed": 0
    }  # fmt: skip
    content = bytearray(segment.read_bytes())
    content[1000] ^= 1
    segment.write_bytes(content)
    assert main(["cache", "check"]) == 0
    assert "1 records are damaged; 1 segments that hold them were removed" in capsys.readouterr().out
    assert not segment.exists()
    assert main(["cache", "check"]) == 0
    assert "in 1 segments checked; all records are intact" in capsys.readouterr().out

    left = result_of(capsys)["bytes"]
    assert main(["cache", "clear"]) == 0
    assert f"{folder}: {left / 1e6:.0f} MB removed" in capsys.readouterr().out
    assert list(folder.glob("*")) == []
    assert result_of(capsys)["hit_rate"] is None


def filled_records(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.glob("*/*.idx")) // 44


def test_what_filling_prints(
    platform: Platform, remote_dp2: Published, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_plan(remote_dp2).save("plan.parquet")
    command = ["cache", "fill", "plan=plan.parquet", f"repo={remote_dp2.url}"]
    monkeypatch.setenv(BUDGET_VARIABLE, "1 MB")
    assert main(command) == 2
    error = "the plan needs about 1 MB, but the budget of the disk cache is 1 MB; set LSSTCUTOUTS_CACHE_BYTES to"
    assert error in capsys.readouterr().err
    monkeypatch.delenv(BUDGET_VARIABLE)
    assert main(command) == 0
    assert "all that an epoch of 80 targets reads of 10 files\n  1 MB fetched in" in capsys.readouterr().out
    assert main(command) == 0
    assert "\n  nothing had to be fetched\n" in capsys.readouterr().out
    masked = CacheFilled(Path("c"), FillResult(1, 1, 10**7, 1, 1, 2.0, 3))
    assert str(masked).endswith("10 MB fetched in 2 s (5.0 MB/s), 1 requests, 1 signed URLs\n  3 ranges cannot be read")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (
            ["cleer"],
            2,
            "lsstcutouts cache has no action 'cleer'. Did you mean clear? There are show, clear, check, fill",
        ),
        (["action=empty"], 2, "action=empty must be one of show, clear, check, fill"),
        (["fill"], 2, "plan= must be given: lsstcutouts cache fill plan=plan.parquet"),
        (["fill", "plan=missing.parquet"], 1, "the plan 'missing.parquet' cannot be read"),
        (["fill", "plan.parquet"], 2, "'plan.parquet' is not a setting"),
    ],
)
def test_mistakes(arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *arguments]) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "value"), [(FOLDER_VARIABLE, "off"), (BUDGET_VARIABLE, "0")])
def test_a_cache_that_is_off(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["cache"]) == 2
    assert f"the disk cache is off ({variable}); set LSSTCUTOUTS_CACHE to a folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.touch()
    assert main(["cache"]) == 1
    assert f"ReadError: the disk cache in {folder} cannot be used: Not a directory: " in capsys.readouterr().err


def test_only_verbs_with_actions_take_a_word() -> None:
    assert complete_arguments("cache", ["check", "json=true"]) == ["action=check", "json=true"]
    assert complete_arguments("cache", ["json=true"]) == ["json=true"]
    with pytest.raises(ConfigurationError, match="'check' is not a setting"):
        complete_arguments("doctor", ["check"])


def test_a_mask_needs_no_names() -> None:
    assert reader_options(["image", "mask"]).mask_planes == ("NO_DATA",)
    assert reader_options(["mask"], ["BAD"], on_read_error="mask").mask_planes == ("BAD",)
    assert reader_options("image").mask_planes == ()
