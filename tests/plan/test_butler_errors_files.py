"""What goes wrong with the files of a repository: sizes, vanished ones, pieces, archives."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from lsstcutouts.errors import (
    CorruptFileError,
    DatasetError,
    LsstCutoutsError,
    ReadError,
)
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository

from ..support.server import serving


def test_sizes_are_the_recorded_ones(dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository) -> None:
    for repo in (dp2_repo, dp1_repo):
        with Repository(repo.root, repo.collections) as repository:
            found = repository.locate([(repo.tract, p) for p in repo.patches], repo.bands)
        with Butler.from_config(str(repo.root)) as butler:
            for one in found:
                ref = butler.get_dataset(one.dataset_id, datastore_records=True)
                ((record,),) = ref._datastore_records.values()
                assert one.size == record.file_size > 0


def test_a_file_that_was_cut_before_the_plan_is_found(own: Path, target: tuple[Any, Any]) -> None:
    """Its size at the time of the plan would agree with it."""
    path = min(own.rglob("*_g_*.fits"))
    whole = path.stat().st_size
    os.truncate(path, whole - 2880)
    with Repository(own, "dp2") as repository:
        (one,) = repository.locate([(5063, p) for p in range(100)], "g")
        assert one.size == whole
        with pytest.raises(CorruptFileError, match=r"FileIntegrityError|integrity|size") as caught:
            repository.read_image(one, Box.from_start(YX(0, 0), YX(4, 4)))
        assert type(caught.value.__cause__).__name__ == "FileIntegrityError"
    ra, dec = target
    with (
        LsstDataFetcher(own, collections="dp2", bands="rg", size=8) as fetcher,
        pytest.raises(CorruptFileError, match=rf"has {whole - 2880} bytes, but the repository recorded {whole}"),
    ):
        fetcher.fetch(ra, dec)


def test_a_vanished_file_keeps_its_recorded_size(own: Path) -> None:
    path = min(own.rglob("*_g_*.fits"))
    whole = path.stat().st_size
    path.unlink()
    with Repository(own, "dp2") as repository:
        (one,) = repository.locate([(5063, p) for p in range(100)], "g")
        assert (one.uri, one.size) == (str(path), whole)
        with pytest.raises(ReadError, match="the Butler cannot read") as caught:
            repository.read_image(one, Box.from_start(YX(0, 0), YX(4, 4)))
        assert caught.value.__cause__ is not None


def test_an_unknown_size_is_that_of_the_file(own: Path) -> None:
    with sqlite3.connect(own / "gen3.sqlite3") as database:
        database.execute("UPDATE file_datastore_records SET file_size = -1")
    database.close()
    with Repository(own, "dp2") as repository:
        found = repository.locate([(5063, p) for p in range(100)], "gr")
    assert [one.size for one in found] == [Path(one.uri).stat().st_size for one in found]


def test_coadds_without_a_file_are_named(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Butler.from_config(str(own), writeable=True) as butler:
        refs = butler.query_datasets("deep_coadd", collections="dp2", where="band = 'g'")
        butler.pruneDatasets(refs, disassociate=False, unstore=True, purge=False)
        patch = refs[0].dataId["patch"]
    with Repository(own, "dp2") as repository:
        assert [one.band for one in repository.locate([(5063, patch)], "gr")] == ["r"]
    assert "1 of 2 'deep_coadd' in dp2" in caplog.text
    assert f"have no file, and are treated as missing: tract 5063, patch {patch}, band g" in caplog.text


def test_a_datastore_that_trusts_the_disk(own: Path) -> None:
    """Some hold files that they have no record of."""
    with sqlite3.connect(own / "gen3.sqlite3") as database:
        database.execute("DELETE FROM file_datastore_records WHERE path LIKE '%/g/%'")
    database.close()
    with Butler.from_config(str(own)) as butler:
        butler._datastore._set_trust_mode(True)
        with Repository(butler, "dp2") as repository:
            found = repository.locate([(5063, p) for p in range(100)], "gr")
    assert sorted(one.band for one in found) == ["g", "r"]
    assert all(one.size == Path(one.uri).stat().st_size for one in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("component = 'image'", "is stored in 1 files, one per component"),
        ("path = 'all.zip#zip-path=a.fits'", "is inside the archive"),
    ],
    ids=["pieces", "archive"],
)
def test_coadds_stored_otherwise_are_refused(own: Path, change: str, words: str) -> None:
    with sqlite3.connect(own / "gen3.sqlite3") as database:
        database.execute(f"UPDATE file_datastore_records SET {change}")
    database.close()
    with pytest.raises(DatasetError, match=words), Repository(own, "dp2") as repository:
        repository.samples()


def test_afw_files_need_the_stack_when_a_butler_reads_them(dp1_repo: SimulatedRepository) -> None:
    with Repository(dp1_repo.root, dp1_repo.collections) as repository:
        one = repository.samples()[0]
        with pytest.raises(LsstCutoutsError, match="the Butler cannot read") as caught:
            repository.read_image(one, Box.from_start(YX(0, 0), YX(4, 4)))
        assert caught.value.__cause__ is not None


def test_a_plan_and_its_pixels_over_http(own: Path, target: tuple[Any, Any]) -> None:
    """A repository whose files are on a web server."""
    ra, dec = target
    with LsstDataFetcher(own, collections="dp2", bands="gr", size=16) as fetcher:
        expected = fetcher.fetch(ra, dec)
    with serving(own) as server:
        text = (own / "butler.yaml").read_text().replace("root: <butlerRoot>", f"root: {server.url}/")
        (own / "butler.yaml").write_text(text)
        with Repository(own, "dp2") as repository:
            assert all(one.uri.startswith(server.url) and one.size > 0 for one in repository.samples())
        with LsstDataFetcher(own, collections="dp2", bands="gr", size=16) as fetcher:
            batch = fetcher.fetch(ra, dec)
        assert (batch["image"] == expected["image"]).all()
        assert batch["band_present"].all()
        assert any(asked.startswith("bytes=") for _, _, asked in server.requests)
