"""Bytes of local and remote files: what is read, and which error each failure of storage and network becomes.

Servers are real ones on 127.0.0.1; a fault is what they answer, not what a client is made to believe.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from lsst.resources import ResourcePath

from lsstcutouts.errors import (
    AccessDeniedError,
    AuthenticationError,
    CorruptFileError,
    DependencyError,
    LsstCutoutsError,
    MissingFileError,
    ReadError,
    ReadTimeoutError,
    RepositoryUnavailableError,
)
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.source.byte_source import LocalSource, open_source
from lsstcutouts.source.remote import HttpSource, RemoteSource
from lsstcutouts.source.web.answers import AnswerError
from lsstcutouts.source.web.request_limits import TimeLimits
from lsstcutouts.testing import SimulatedRepository

from ..support.clock import patient
from ..support.server import DATA, FileServer, hurry, nobody, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    root = tmp_path_factory.mktemp("served")
    (root / "data").write_bytes(DATA)
    (root / "empty").write_bytes(b"")
    with serving(root) as server:
        yield server


# Local files


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.fits: the file does not exist: .*No such file") as caught:
        open_source(tmp_path / "gone.fits")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError) as caught:
        open_source(tmp_path / "file" / "coadd.fits")
    assert isinstance(caught.value.__cause__, NotADirectoryError)


def test_a_directory(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(ReadError, match="is a directory; give the path of a FITS file"):
        open_source(tmp_path)
    assert open_files() == before


def test_a_named_pipe_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="not a regular file"):
        open_source(tmp_path / "pipe")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ReadError, match="the file cannot be read") as caught:
        open_source(tmp_path / "a")
    assert caught.value.__cause__.errno == errno.ELOOP


def test_permission_denied(tmp_path: Path) -> None:
    """As another user, in a child process where this one is root: root may read everything."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    secret = tmp_path / "secret.fits"
    secret.write_bytes(DATA)
    secret.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(AccessDeniedError, match="this user has no permission to read the file"):
            open_source(secret)
        return
    code = (
        "import os, sys\n"
        "from lsstcutouts.source.byte_source import open_source\n"
        "os.seteuid(65534)\n"
        "try:\n    open_source(sys.argv[1])\n"
        "except OSError as error:\n"
        "    print(type(error).__name__, type(error.__cause__).__name__, isinstance(error, PermissionError), error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, secret], capture_output=True, text=True, check=True)
    expected = f"AccessDeniedError PermissionError True {secret}: this user has no permission to read the file"
    assert done.stdout.startswith(expected)


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(DATA[:100])
    source = LocalSource(str(tmp_path / "short"), "short")
    with pytest.raises(CorruptFileError, match="short ends at byte 100, but should contain bytes up to 150"):
        source.read(50, 100)


def test_a_file_of_another_size_than_recorded(dp2_repo: SimulatedRepository) -> None:
    path = next(dp2_repo.root.rglob("*.fits"))
    size = path.stat().st_size
    open_coadd(path, size=size).close()
    with pytest.raises(CorruptFileError, match=f"{size} bytes, but the repository recorded {size + 1}"):
        open_coadd(path, size=size + 1)


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    source = open_source(tmp_path / "file")
    source.close()
    source.close()
    with pytest.raises(ReadError, match="the file cannot be read"):
        source.read(0, 1)


def test_a_slow_disk_is_asked_again(tmp_path: Path) -> None:
    """What a network file system with soft mounts answers."""
    (tmp_path / "file").write_bytes(DATA)
    source = SlowDisk(str(tmp_path / "file"), "file", patient())
    assert source.read(10, 20) == DATA[10:30]
    source.failures = 99
    with pytest.raises(ReadTimeoutError, match="file: no answer within the time limit") as caught:
        source.read(10, 20)
    assert isinstance(caught.value, TimeoutError)


class SlowDisk(LocalSource):
    failures = 2

    def _read(self, offset: int, length: int) -> bytes:
        from lsstcutouts.source.read_errors import translate_errors

        self.failures -= 1
        with translate_errors(self.uri):
            if self.failures >= 0:
                raise OSError(errno.ETIMEDOUT, "Connection timed out")
        return super()._read(offset, length)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# HTTP


def test_ranges_are_read(server: FileServer) -> None:
    source = open_source(f"{server.url}/data")
    assert isinstance(source, HttpSource)
    assert source.size == len(DATA)
    asked = len(server.requests)
    assert source.read(1000, 300) == DATA[1000:1300]  # came with the first bytes
    assert source.read(40_000, 300) == DATA[40_000:40_300]
    assert source.read(len(DATA) - 5, 5) == DATA[-5:]
    assert source.read(7, 0) == b""
    assert [r for _, _, r in server.requests[asked:]] == ["bytes=40000-40299", f"bytes={len(DATA) - 5}-{len(DATA) - 1}"]


def test_many_threads_read_one_file(server: FileServer) -> None:
    source = open_source(f"{server.url}/data")
    with ThreadPoolExecutor(8) as pool:
        starts = list(range(0, 100_000, 1000))
        assert list(pool.map(lambda at: source.read(at, 777), starts)) == [DATA[at : at + 777] for at in starts]


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        (
            "401/data",
            AuthenticationError,
            "127.0.0.1:.* answers 401 Unauthorized; set LSST_HTTP_AUTH_BEARER_TOKEN to a token that 127.0.0.1 accepts",
        ),
        ("403/data", AuthenticationError, "127.0.0.1:.* answers 403 Forbidden; .*LSST_HTTP_AUTH_BEARER_TOKEN"),
        ("404/data", MissingFileError, "data: the file does not exist: .* 404 Not Found"),
        ("410/data", MissingFileError, "data: the file does not exist: .* 410 Gone"),
        ("416/data", CorruptFileError, "the file is shorter than expected"),
        ("501/data", ReadError, "501 Not Implemented"),
        ("empty", CorruptFileError, "416"),
    ],
)
def test_answers_that_stay(server: FileServer, path: str, kind: type[LsstCutoutsError], words: str) -> None:
    asked = len(server.requests)
    with pytest.raises(kind, match=words) as caught:
        HttpSource(f"{server.url}/{path}")
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, AnswerError)
    assert f"{server.url}/{path}" in str(caught.value)
    assert len(server.requests) == asked + 1


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("408/data", RepositoryUnavailableError, "has given no good answer for [01] s: .*408"),
        ("429/data", RepositoryUnavailableError, "429 Too Many Requests"),
        ("500/data", RepositoryUnavailableError, "500 Internal Server Error"),
        ("502/data", RepositoryUnavailableError, "502 Bad Gateway"),
        ("503/data", RepositoryUnavailableError, "503 Service Unavailable.*LSSTCUTOUTS_PATIENCE"),
        ("504/data", RepositoryUnavailableError, "504 Gateway Timeout"),
        ("slow/data", RepositoryUnavailableError, "data: no answer within the time limit: .*LSST_HTTP_TIMEOUT_READ"),
        ("closed/data", RepositoryUnavailableError, "Server disconnected"),
    ],
)
def test_answers_that_can_pass(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, path: str, kind: type[LsstCutoutsError], words: str
) -> None:
    """Nothing else comes from this server meanwhile, so that it is waited for, and not the file blamed."""
    hurry(monkeypatch)
    asked = len(server.requests)
    with pytest.raises(kind, match=words) as caught:
        HttpSource(f"{server.url}/{path}")
    assert type(caught.value) is kind
    assert len(server.requests) > asked + 1


def test_an_answer_that_passes(server: FileServer) -> None:
    source = open_source(f"{server.url}/503x2/data")
    assert source.read(3, 4) == DATA[3:7]


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("grown/data", CorruptFileError, r"has \d+ bytes, but had \d+ bytes when it was opened"),
    ],
)
def test_bodies_that_go_wrong(server: FileServer, path: str, kind: type[LsstCutoutsError], words: str) -> None:
    """The first bytes of each are served well, so that the file opens."""
    source = HttpSource(f"{server.url}/{path}")
    with pytest.raises(kind, match=words):
        source.read(50_000, 200)


@pytest.mark.parametrize("path", ["cut/data", "drip/data"])
def test_bodies_that_break_off_are_continued(server: FileServer, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Each answer brings some bytes, and the next one is asked for the rest."""
    hurry(monkeypatch)
    source = HttpSource(f"{server.url}/{path}", len(DATA))
    asked = len(server.requests)
    assert source.read(50_000, 40) == DATA[50_000:50_040]
    ranges = [r for _, _, r in server.requests[asked:]]
    assert ranges[0] == "bytes=50000-50039"
    if path == "cut/data":
        assert ranges[1] == "bytes=50020-50039"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("whole/data", "the server ignores byte ranges and sends the whole file"),
        ("elsewhere/data", "the server sends bytes 5-5 instead of the requested 0-32767"),
        ("endless/data", r"answers 206 with Content-Range 'bytes 0-0/\*'"),
        ("302/data", "answers 302"),
    ],
)
def test_servers_that_do_not_know_ranges(server: FileServer, path: str, words: str) -> None:
    with pytest.raises(ReadError, match=words) as caught:
        HttpSource(f"{server.url}/{path}")
    assert not caught.value.transient


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    with pytest.raises(
        RepositoryUnavailableError, match=r"has given no good answer for .*check that the server is running"
    ):
        open_source(f"{nobody()}/coadd.fits")


def test_a_signature_is_not_told(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    for path in ("404/data", "503/data", "slow/data"):
        with pytest.raises((ReadError, RepositoryUnavailableError)) as caught:
            HttpSource(f"{server.url}/{path}?Signature=geheim&Expires=1")
        assert "geheim" not in str(caught.value)


def test_a_remote_source_that_is_closed(server: FileServer) -> None:
    source = open_source(f"{server.url}/data")
    source.close()
    source.close()
    with pytest.raises(ReadError, match="is closed"):
        source.read(0, 1)


def test_nothing_leaks(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are shared by files and bounded; whatever opens and fails leaves nothing behind."""
    hurry(monkeypatch)
    open_source(f"{server.url}/data").close()
    before = open_files()
    for path in ["data", "404/data", "whole/data", "closedx1/data"] * 10:
        try:
            source = HttpSource(f"{server.url}/{path}")
        except ReadError:
            continue
        source.read(5, 5)
        source.close()
    assert open_files() <= before + 2  # the server's own ends of a connection count here, too


def test_pixels_over_http_equal_the_files(dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository) -> None:
    for repo in (dp2_repo, dp1_repo):
        path = next(repo.root.rglob("*.fits"))
        with serving(repo.root) as server:
            uri = f"{server.url}/{path.relative_to(repo.root)}"
            with open_coadd(uri, size=path.stat().st_size) as remote, open_coadd(path) as local:
                assert remote.bbox == local.bbox
                np.testing.assert_array_equal(remote.read("image"), local.read("image"))


@pytest.mark.parametrize(
    ("text", "expected"), [("", (10, 30, 600)), ("2.5", (2.5, 2.5, 2.5)), ("90", (90, 90, 90)), ("inf", (10, 30, 600))]
)
def test_limits_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[float, float, float]
) -> None:
    monkeypatch.setenv("LSST_HTTP_TIMEOUT_CONNECT", text)
    monkeypatch.setenv("LSST_HTTP_TIMEOUT_READ", text)
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", text)
    limits = TimeLimits.from_environment()
    assert (limits.connect, limits.idle, limits.patience) == expected


# Other URIs


def test_any_other_uri_is_read_by_its_handle(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    source = RemoteSource(ResourcePath((tmp_path / "file").as_uri()), patient())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda at: source.read(at, 9), range(99))) == [DATA[at : at + 9] for at in range(99)]
    with pytest.raises(CorruptFileError, match="ends at byte"):
        source.read(len(DATA) - 1, 2)
    source.close()
    source.close()
    with pytest.raises(ReadError, match="is closed"):
        source.read(0, 1)
    with pytest.raises(MissingFileError, match="gone: the file does not exist"):
        RemoteSource(ResourcePath((tmp_path / "gone").as_uri()), patient())


def test_an_unknown_kind_of_uri() -> None:
    with pytest.raises(
        ReadError, match="foo://place/file cannot be read: this kind of URI is not supported: No URI support for scheme"
    ):
        open_source("foo://place/file")


def test_a_package_that_is_missing() -> None:
    """In a child process that has no client for Google's storage, whatever is installed here."""
    code = (
        "import sys\n"
        "sys.modules['google.cloud.storage'] = None\n"
        "from lsstcutouts.source.byte_source import open_source\n"
        "try:\n    open_source('gs://bucket/key')\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(DependencyError.__name__)
    assert "lsst-resources" in done.stdout
