"""Objects of S3 buckets: they are read in byte ranges, and each failure says what to set."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lsst.resources import s3utils

from lsstcutouts.errors import AuthenticationError, MissingFileError, RepositoryUnavailableError
from lsstcutouts.source.byte_source import open_source

from ..support.server import DATA, FileServer, hurry, nobody, serving


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """A server as an S3 endpoint: its buckets are folders."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    (tmp_path / "data").write_bytes(DATA)
    with serving(tmp_path) as server:
        monkeypatch.setenv("S3_ENDPOINT_URL", server.url)
        forget_s3_clients()
        yield server


def forget_s3_clients() -> None:
    """Let `lsst.resources` read the environment again."""
    s3utils._get_s3_client.cache_clear()


def test_a_bucket_is_read_with_ranges(s3: FileServer) -> None:
    (s3.root / "bucket").mkdir()
    (s3.root / "bucket" / "key").write_bytes(DATA)
    source = open_source("s3://bucket/key")
    assert (source.uri, source.size) == ("s3://bucket/key", len(DATA))
    assert source.read(50_000, 60) == DATA[50_000:50_060]
    assert s3.requests[-1] == ("GET", "/bucket/key", "bytes=50000-50059")


def test_a_missing_key(s3: FileServer) -> None:
    with pytest.raises(MissingFileError, match="s3://bucket/nothing: the file does not exist"):
        open_source("s3://bucket/nothing")


def test_a_key_that_is_not_allowed(s3: FileServer) -> None:
    with pytest.raises(AuthenticationError, match=r"s3://403/data: .*403 Forbidden.*AWS_ACCESS_KEY_ID") as caught:
        open_source("s3://403/data")
    assert "geheim" not in str(caught.value)


def test_no_credentials(s3: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_s3_clients()
    with pytest.raises(AuthenticationError, match=r"Unable to locate credentials; .*AWS_ACCESS_KEY_ID") as caught:
        open_source("s3://bucket/key")
    assert type(caught.value.__cause__).__name__ == "NoCredentialsError"


def test_an_unreachable_endpoint(s3: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", nobody())
    forget_s3_clients()
    hurry(monkeypatch)
    with pytest.raises(RepositoryUnavailableError, match=r"s3://bucket/key: the file cannot be read now: "):
        open_source("s3://bucket/key")
