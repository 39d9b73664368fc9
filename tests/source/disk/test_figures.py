"""The log of use: what processes counted is added up."""

import json
import os
from pathlib import Path

import pytest

from lsstcutouts.source.disk import figures
from lsstcutouts.source.disk.figures import UseLog, logged_use


def test_counts_are_added_up(tmp_path: Path) -> None:
    first, second = UseLog(tmp_path), UseLog(tmp_path)
    first.add(hits=3, hit_bytes=300)
    first.save()
    second.add(hits=1, hit_bytes=50, misses=1)
    second.save()
    first.add(hits=2)
    first.save()
    first.save()  # nothing is new
    assert logged_use(tmp_path) == {"hits": 6, "hit_bytes": 350, "misses": 1}
    lines = (tmp_path / "use.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert set(json.loads(lines[2])) == {"time", "hits"}
    assert (tmp_path / "use.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_forked_process_begins_at_zero(tmp_path: Path) -> None:
    log = UseLog(tmp_path)
    log.add(hits=3)
    log.reset()
    log.save()
    assert not logged_use(tmp_path)


@pytest.mark.parametrize("line", [b'{"hits": 4', b"\xff\xfe", b"[]", b"7", b""])
def test_a_damaged_line_is_skipped(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "use.jsonl").write_bytes(b'{"hits": 1}\n' + line + b'\n{"hits": 2}\n')
    assert logged_use(tmp_path) == {"hits": 3}


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_LARGEST_LOG", 500)
    log = UseLog(tmp_path)
    for _ in range(100):
        log.add(hits=1)
        log.save()
    assert sorted(os.listdir(tmp_path)) == ["use-before.jsonl", "use.jsonl"]  # noqa: PTH208
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1200
    assert 10 <= logged_use(tmp_path)["hits"] < 100


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    log = UseLog(tmp_path / "gone")
    log.add(hits=1)
    log.save()
    assert not logged_use(tmp_path / "gone")
