"""An export from a remote repository: the same files as from a local one, and no secret in any of them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lsstcutouts import export
from lsstcutouts.bulk.verifying import verify_export

from ..support.platform.science_platform import Platform, Published

SETTINGS = {"bands": "gri", "size": 32, "partition_bytes": 1_000_000, "threads": 1}


@pytest.mark.usefixtures("platform")
def test_a_remote_export_equals_a_local_one_and_holds_no_secret(
    platform: Platform, remote_dp2: Published, tmp_path: Path
) -> None:
    catalog = remote_dp2.local.truth
    remote = export(catalog, remote_dp2.url, tmp_path / "remote", collections=remote_dp2.collections, **SETTINGS)
    local = export(catalog, remote_dp2.local.root, tmp_path / "local", collections=remote_dp2.collections, **SETTINGS)
    assert remote.complete
    assert remote.outcomes == local.outcomes
    files = sorted(path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("Npix=*.parquet"))
    for file in files:
        if "finished" not in file.parts:
            assert pq.read_table(tmp_path / "local" / file).equals(pq.read_table(tmp_path / "remote" / file))
    for path in (tmp_path / "remote").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert platform.token.encode() not in content
            assert b"Signature" not in content
    assert verify_export(tmp_path / "remote", rows=None).differences == ()
