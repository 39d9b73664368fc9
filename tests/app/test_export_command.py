"""The verb ``export``: what it says before and after, and that the same command continues."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.repositories import SMALL, simulated_copy


def command(dp2: SimulatedRepository, output: Path, *more: str) -> list[str]:
    where = [f"repo={dp2.root}", f"collections={dp2.collections}", f"catalog={dp2.truth}", f"output={output}"]
    return ["export", *where, "bands=gri", "size=32", "partition_bytes=1e6", *more]


def result(capsys: pytest.CaptureFixture[str], given: list[str], status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*given, "json=true"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_export_says_what_it_takes_continues_and_is_verified(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with a space"
    assert main(command(dp2_repo, output)) == 0
    shown = capsys.readouterr().out
    rows = len(pq.read_table(dp2_repo.truth))
    for words in (
        f"about {rows} rows, 100% of them covered",
        "are free\n",
        "cutouts/s, measured just now",
        "complete: a HATS",
    ):
        assert words in shown
    assert sum(file.metadata.num_rows for file in map(pq.ParquetFile, output.rglob("Npix=*.parquet"))) == rows
    assert json.loads((output / "report.json").read_text())["complete"] is True

    again = result(capsys, command(dp2_repo, output))
    assert again["skipped"] == again["finished"] == again["partitions"]
    assert again["partitions"] > 2
    assert again["rows"] == rows

    one = min((output / "finished").iterdir())
    one.unlink()
    after = result(capsys, command(dp2_repo, output))
    assert (after["skipped"], after["complete"]) == (after["partitions"] - 1, True)
    assert (output / "files.json").exists()

    assert main(["export", "verify", f"output={output}", "rows=all"]) == 0
    assert f"{rows} rows" in (shown := capsys.readouterr().out)
    assert "equal to the repository, bit for bit" in shown


def test_verify_finds_changed_pixels(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(dp2_repo, tmp_path / "cutouts", "planes=[image]", "partition_bytes=4e8")) == 0
    (file,) = (tmp_path / "cutouts").rglob("Npix=*.parquet")
    table = pq.read_table(file)
    offset = file.read_bytes().rfind(
        table["flux"].combine_chunks().flatten().flatten().flatten().to_numpy()[-8:].tobytes()
    )
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(b"\0\0\x80\x3f")
    found = result(capsys, ["export", "verify", f"output={tmp_path / 'cutouts'}", "rows=all"], status=1)
    assert "flux differs" in found["differences"][0]


def test_parts_of_an_array_of_jobs_complete_one_export(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cutouts"
    first, second = (result(capsys, command(dp2_repo, output, f"part={i}/2")) for i in (1, 2))
    assert 0 < first["finished"] < first["partitions"] == second["finished"]
    assert (first["complete"], second["complete"]) == (False, True)


def test_a_failed_partition_is_listed_and_the_others_are_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = simulated_copy(tmp_path / "repo", SimulationConfig(release="dp2", **SMALL))
    damaged = min(Path(copy.root).rglob("*deep_coadd*_i_*.fits"), key=lambda path: path.name)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    failed = result(capsys, command(copy, tmp_path / "cutouts"), status=2)
    assert 0 < len(failed["failed"]) < failed["partitions"]
    assert failed["complete"] is False
    assert damaged.name in next(iter(failed["failed"].values()))
    shutil.rmtree(tmp_path / "cutouts")
    skipping = result(capsys, command(copy, tmp_path / "cutouts", "read.on_read_error=skip"))
    assert skipping["complete"] is True
    assert skipping["outcomes"]["read_error"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("size=16", "another size: 32 x 32 px, now 16 x 16 px"),
        ("bands=gr", "another bands: ('g', 'r', 'i'), now ('g', 'r')"),
        ("planes=[image]", "another planes"),
        ("select='label == 1'", "another"),
        ("read.min_bands=2", "another min_bands: 0, now 2"),
        ("columns=[label]", "another columns"),
        ("dtype=float16", "another dtype"),
    ],
)
def test_other_settings_are_refused(
    dp2_repo: SimulatedRepository, begun: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(dp2_repo, begun), change]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def begun(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("begun") / "cutouts"
    assert main(command(dp2_repo, output, "part=1/4")) == 0
    return output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("part=0/2", "part=0/2 must be i/n"),
        ("part=two", "part=two must be i/n"),
        ("engine=ray", "engine must be one of threads, dask"),
        ("dtype=int8", "dtype must be one of float32, float16"),
        ("read.missing_band=nan", "give them to the training"),
        ("read=strict", "did you mean read.tract=strict?"),
        ("repo=null", "repo must be given"),
        ("columns=[colour]", "'colour'"),
        ("action=show", "must be one of run, verify"),
        ("rows=0", None),
    ],
)
def test_wrong_settings_are_explained(
    dp2_repo: SimulatedRepository, tmp_path: Path, change: str, words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (
        ["export", "verify", f"output={tmp_path}", change]
        if words is None
        else [*command(dp2_repo, tmp_path / "new"), change]
    )
    assert main(given) in {1, 2}
    assert (words or "rows=0 must be a number of rows, or all") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small_is_refused(
    dp2_repo: SimulatedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("lsstcutouts.bulk.estimate.shutil.disk_usage", lambda _: usage)
    assert main(command(dp2_repo, tmp_path / "cutouts")) == 2
    assert "but only 1 MB of the disk are free" in capsys.readouterr().err
    assert not (tmp_path / "cutouts").exists()
