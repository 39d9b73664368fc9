"""Who fetches which bytes, among the processes of a machine."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lsstcutouts.source.disk import claims as module
from lsstcutouts.source.disk.claims import CLAIMS, Claims

FILE, OTHER = b"a" * 16, b"a" * 15 + b"b"


def of_others(claims: Claims, key: bytes, start: int, stop: int) -> tuple[list[tuple[int, int]], bool]:
    number = claims.begin(key, start, stop)
    assert number is not None
    found = claims.of_others(number)
    claims.end(number)
    return found


def test_the_earlier_claim_counts(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    one, two = first.begin(FILE, 100, 200), second.begin(FILE, 150, 300)
    assert one is not None
    assert two is not None
    assert first.of_others(one) == ([], False)
    assert second.of_others(two) == ([(150, 200)], False)
    first.change(one, 100, 160)
    assert second.of_others(two) == ([(150, 160)], False)
    first.end(one)
    assert second.of_others(two) == ([], True)


def test_other_ranges_and_files_are_free(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.begin(FILE, 100, 200)
    other = Claims(tmp_path)
    assert of_others(other, FILE, 200, 300) == ([], False)
    assert of_others(other, FILE, 0, 100) == ([], False)
    assert of_others(other, OTHER, 100, 200) == ([], False)
    assert of_others(other, FILE, 0, 300) == ([(100, 200)], False)


def test_a_file_without_a_key_of_letters(tmp_path: Path) -> None:
    """Zeros occur in every claim, and must be found only where the key is."""
    claims, zeros = Claims(tmp_path), bytes(16)
    claims.begin(FILE, 0, 1 << 30)
    assert of_others(Claims(tmp_path), zeros, 0, 1 << 30) == ([], False)
    claims.begin(zeros, 5, 7)
    assert of_others(Claims(tmp_path), zeros, 0, 1 << 30) == ([(5, 7)], False)


def test_what_ended_long_ago_is_not_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(tmp_path)
    number = claims.begin(FILE, 0, 10)
    assert number is not None
    claims.end(number)
    assert of_others(Claims(tmp_path), FILE, 0, 10) == ([], True)
    monkeypatch.setattr(module, "_NEW_SECONDS", 0.0)
    assert of_others(Claims(tmp_path), FILE, 0, 10) == ([], False)


def test_many_claims(tmp_path: Path) -> None:
    """Places are used again, those that ended first before the others; too many claims are none."""
    claims = Claims(tmp_path)
    numbers = [claims.begin(FILE, i, i + 1) for i in range(256)]
    assert None not in numbers
    assert claims.begin(FILE, 256, 257) is None
    claims.end(3)
    claims.end(2)
    assert [claims.begin(FILE, 300 + i, 301 + i) for i in range(3)] == [3, 2, None]


SOMEBODY = """
import sys, time
from pathlib import Path
from lsstcutouts.source.disk.claims import Claims
claims = Claims(Path(sys.argv[1]))
claims.begin(b"a" * 16, 0, 10)
print("claimed", flush=True)
time.sleep(100)
"""


def test_claims_of_a_killed_process_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", SOMEBODY, str(tmp_path)], stdout=subprocess.PIPE) as somebody:
        assert somebody.stdout is not None
        somebody.stdout.readline()
        claims = Claims(tmp_path)
        assert of_others(claims, FILE, 0, 10) == ([(0, 10)], False)
        somebody.kill()
    monkeypatch.setattr(module, "_LIST_SECONDS", 0.0)
    assert of_others(claims, FILE, 0, 10) == ([], False)
    assert len(list((tmp_path / CLAIMS).iterdir())) == 1


def test_other_machines_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They show what they write only after seconds; their files stay."""
    monkeypatch.setattr(socket, "gethostname", lambda: "node1.example.org")
    far = Claims(tmp_path)
    far.begin(FILE, 0, 10)
    monkeypatch.setattr(socket, "gethostname", lambda: "node2.example.org")
    near = Claims(tmp_path)
    assert of_others(near, FILE, 0, 10) == ([], False)
    del far
    time.sleep(0.01)
    monkeypatch.setattr(module, "_LIST_SECONDS", 0.0)
    assert of_others(near, FILE, 0, 10) == ([], False)
    assert len(list((tmp_path / CLAIMS).iterdir())) == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert Claims(tmp_path / "file").begin(FILE, 0, 10) is None


def test_a_folder_that_is_removed(tmp_path: Path) -> None:
    claims, other = Claims(tmp_path), Claims(tmp_path)
    claims.begin(FILE, 0, 10)
    for path in (tmp_path / CLAIMS).iterdir():
        path.unlink()
    (tmp_path / CLAIMS).rmdir()
    assert of_others(claims, FILE, 0, 10) == ([], False)
    number = other.begin(FILE, 0, 10)
    assert number is not None
    assert other.of_others(number) == ([], False)
