"""What goes wrong with a repository, and which error with which words it becomes.

Butlers, databases and servers are real ones; a fault is what they are or answer.
"""

import http.server
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
import sqlalchemy.exc
import yaml
from astropy.table import Table
from lsst.daf.butler import Butler, ButlerUserError, DatasetType, MissingCollectionError, MissingDatasetTypeError

from lsstcutouts.errors import (
    AuthenticationError,
    CollectionError,
    ConfigurationError,
    CorruptFileError,
    DatasetError,
    DependencyError,
    LsstCutoutsError,
    ReadError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryUnavailableError,
    SkyMapError,
)
from lsstcutouts.plan.butler_errors import translate_butler_errors
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.retry import Retry
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..source.test_byte_source import nobody
from ..source.test_retry import FakeClock
from ..support.repositories import simulated_once
from ..support.server import CERTIFICATE, LOGIN_PAGE, FileServer, Store, TlsStore, serving, xml


def patient() -> Retry:
    """Return a retry that does not wait."""
    return Retry(clock=FakeClock())


@pytest.fixture(scope="module")
def small() -> SimulatedRepository:
    """One patch in g and r; not to be changed."""
    config = SimulationConfig(cells=2, cell=50, patches=1, bands="gr", targets=4, missing=())
    return simulated_once(config)


@pytest.fixture
def own(small: SimulatedRepository, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(small.root, tmp_path / "repo"))


# Opening


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no Butler repository 'nowhere'; give a path, a URL, or a label of DAF_BUTLER_REPOSITORY_INDEX"),
        (".", "no Butler repository '.': the folder contains no butler.yaml"),
    ],
)
def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryNotFoundError) as caught:
        Repository(name, "dp2")
    assert str(caught.value).startswith(words)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_an_unknown_label_names_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.yaml").write_text("dp1: /a\ndp2: /b\n")
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(tmp_path / "index.yaml"))
    with pytest.raises(RepositoryNotFoundError, match=r"known aliases: .*dp1"):
        Repository("dp3", "dp2")


@pytest.mark.parametrize("text", [None, "dp1: [", "- a"])
def test_an_index_that_is_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    index = tmp_path / "index.yaml"
    if text is not None:
        index.write_text(text)
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(index))
    with pytest.raises(
        RepositoryNotFoundError, match=r"no Butler repository 'dp1'; .*DAF_BUTLER_REPOSITORY_INDEX"
    ) as it:
        Repository("dp1", "dp2")
    assert isinstance(it.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("registry: [", yaml.YAMLError), ("\x01", yaml.YAMLError), ("hello", TypeError), ("datastore: 3", Exception)],
)
def test_a_broken_butler_yaml(own: Path, text: str, cause: type[Exception]) -> None:
    (own / "butler.yaml").write_text(text)
    with pytest.raises(RepositoryError, match=r"the Butler repository .* cannot be opened") as caught:
        Repository(own, "dp2")
    assert type(caught.value) is RepositoryError
    assert isinstance(caught.value.__cause__, cause)


def test_a_class_that_is_not_installed(own: Path) -> None:
    text = (own / "butler.yaml").read_text().replace("datastores.fileDatastore.FileDatastore", "no.Such")
    (own / "butler.yaml").write_text(text)
    with pytest.raises(DependencyError, match="Failed to import"):
        Repository(own, "dp2")


def _missing(database: Path) -> None:
    database.unlink()


def _garbage(database: Path) -> None:
    database.write_bytes(b"garbage" * 1000)


def _empty(database: Path) -> None:
    database.write_bytes(b"")


def _cut(database: Path) -> None:
    data = database.read_bytes()
    database.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing, "unable to open database file"),
        (_garbage, "file is not a database"),
        (_empty, "no such table"),
        (_cut, "disk image is malformed"),
    ],
)
def test_a_registry_database_that_is_not_whole(own: Path, damage: Any, words: str) -> None:
    damage(own / "gen3.sqlite3")
    with pytest.raises(RepositoryError, match=f"{words}.*check that the registry database") as caught:
        Repository(own, "dp2")
    assert isinstance(caught.value.__cause__, sqlalchemy.exc.DatabaseError)
    assert not caught.value.transient
    assert "\n" not in str(caught.value)


def test_a_database_that_breaks_while_it_is_asked(own: Path) -> None:
    with Repository(own, "dp2", retry=patient()) as repository:
        with sqlite3.connect(own / "gen3.sqlite3") as database:
            database.execute("DROP TABLE dataset_tags_00000001")
        database.close()
        with pytest.raises(RepositoryError, match=r"the query for coadds failed: Table .* is missing from database"):
            repository.locate([(5063, 5)], "g")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("(sqlite3.OperationalError) database is locked", RepositoryUnavailableError),
        ("could not connect to server: Connection refused", RepositoryUnavailableError),
        ("server closed the connection unexpectedly", RepositoryUnavailableError),
        ("FATAL:  the database system is starting up", RepositoryUnavailableError),
        ('FATAL:  password authentication failed for user "x"', AuthenticationError),
        ("no such table: patch", RepositoryError),
    ],
)
def test_words_of_databases(words: str, kind: type[LsstCutoutsError]) -> None:
    """PostgreSQL's cannot be made here, and SQLite waits five minutes for a lock: only their words are known."""
    with (
        pytest.raises(kind, match="'repo': the query for x failed: ") as caught,
        translate_butler_errors("'repo': the query for x failed"),
    ):
        raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception(words))
    assert type(caught.value) is kind


def test_a_repository_that_comes_back(small: SimulatedRepository) -> None:
    """A Butler whose database is locked twice, as the retry sees it."""
    clock = FakeClock()
    with Repository(small.root, small.collections, retry=Retry(clock=clock)) as repository:
        failures = [1, 1]

        def question(butler: Butler) -> int:
            if failures:
                failures.pop()
                raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("database is locked"))
            return 7

        assert repository._ask("a number", question) == 7
    assert clock.slept == [0.5, 1.0]


def test_mistakes_of_this_package_are_not_dressed_up(small: SimulatedRepository) -> None:
    def endless(butler: object) -> object:
        return endless(butler)

    with Repository(small.root, small.collections) as repository:
        with pytest.raises(ZeroDivisionError):
            repository._ask("a number", lambda _: 1 // 0)
        with pytest.raises(RecursionError):
            repository._ask("a number", endless)


# Names


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"collections": "dp3"}, CollectionError, "no collection 'dp3' in .*; did you mean 'dp2'"),
        ({"collections": ("dp2", "zzzz")}, CollectionError, "no collection 'zzzz' in .*; there are: .*dp2"),
        ({"collections": ()}, CollectionError, "no collection is given; give at least one, such as"),
        ({"dataset_type": "deep_coad"}, DatasetError, "no dataset type 'deep_coad' in .*; did you mean 'deep_coadd'"),
        (
            {"skymap": "simulated_dp2_2x2_50x50"},
            SkyMapError,
            "no skymap .*; did you mean 'simulated_dp2_2x2_50x50_10x10'",
        ),
        ({"skymap": "hsc"}, SkyMapError, "no skymap 'hsc' in .*; there are: simulated"),
    ],
)
def test_wrong_names(small: SimulatedRepository, changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        Repository(**{"repo": small.root, "collections": "dp2"} | changes)
    assert isinstance(caught.value, LookupError)


def test_a_dataset_type_with_other_dimensions(own: Path) -> None:
    with Butler.from_config(str(own), writeable=True) as butler:
        for name, dimensions in (("flat", {"band"}), ("packages", ())):
            butler.registry.registerDatasetType(DatasetType(name, dimensions, "ExposureF", universe=butler.dimensions))
    with pytest.raises(DatasetError, match="'flat' has the dimensions band; give a dataset type with tract, patch"):
        Repository(own, "dp2", "flat")
    with pytest.raises(DatasetError, match="'packages' has the dimensions none"):
        Repository(own, "dp2", "packages")


def test_what_a_butler_itself_says(small: SimulatedRepository) -> None:
    """Names are checked when a repository is opened; what vanishes later is told by the Butler."""
    with Repository(small.root, small.collections, retry=patient()) as repository:
        repository.collections = ("gone",)
        with pytest.raises(CollectionError, match=r"gone.*collections=") as caught:
            repository.count()
        assert isinstance(caught.value.__cause__, MissingCollectionError)
        repository.collections, repository.dataset_type = ("dp2",), "gone"
        with pytest.raises(DatasetError, match=r"gone.*dataset_type=") as caught:
            repository.storage_class  # noqa: B018 - a property that asks
        assert isinstance(caught.value.__cause__, MissingDatasetTypeError)


PLACE = {"skymap": "simulated_dp2_2x2_50x50_10x10", "tract": 5063, "patch": 0, "band": "g"}


def healpix(butler: Butler) -> list[Any]:
    """Ask for patches under a HEALPix pixel, which registries cannot join."""
    with butler.query() as query:
        joined = query.join_data_coordinate_table(Table({"healpix9": [1]})).join_dimensions(["patch"])
        return list(joined.data_ids(["patch"]))


@pytest.mark.parametrize(
    ("question", "kind", "cause", "words"),
    [
        (lambda b: b.getURI("deep_coadd", PLACE), CollectionError, "NoDefaultCollectionError", "; give collections="),
        (
            lambda b: b.query_datasets("deep_coadd", collections="zzz"),
            CollectionError,
            "MissingCollectionError",
            "No collection with name 'zzz' found.*; give another name with collections=",
        ),
        (
            lambda b: b.get_dataset_type("deep_coad"),
            DatasetError,
            "MissingDatasetTypeError",
            "'deep_coad' does not exist.*; give another name with dataset_type=",
        ),
        (
            lambda b: b.getURI("deep_coadd", PLACE, collections="dp2"),
            DatasetError,
            "DatasetNotFoundError",
            "Dataset deep_coadd with data ID .* could not be found in collections",
        ),
        (
            lambda b: b.query_datasets("deep_coadd", collections="dp2", where="band = 'y'"),
            DatasetError,
            "EmptyQueryResultError",
            "Possible reasons for empty result",
        ),
        (
            lambda b: b.find_dataset("deep_coadd", tract=5063, collections="dp2"),
            ConfigurationError,
            "DimensionNameError",
            "for required dimension 'band'",
        ),
        (
            lambda b: b.find_dataset("deep_coadd", PLACE, visits=3, collections="dp2"),
            ConfigurationError,
            "DimensionValueError",
            "visits",
        ),
        (
            lambda b: b.query_datasets("deep_coadd", collections="dp2", where="band = = 3"),
            ConfigurationError,
            "InvalidQueryError",
            "Failed to parse expression 'band = = 3'",
        ),
        (
            lambda b: b.get("deep_coadd.foo", PLACE, collections="dp2"),
            ConfigurationError,
            "UnknownComponentError",
            "component .foo. not understood",
        ),
        (healpix, ConfigurationError, "UnimplementedQueryError", "Unsupported combination .*healpix9"),
    ],
)
def test_every_word_of_a_butler(
    small: SimulatedRepository, question: Any, kind: type[Exception], cause: str, words: str
) -> None:
    refused = pytest.raises(kind, match=f"{small.root}': the query for x failed: .*{words}")
    with Repository(small.root, small.collections, retry=patient()) as repository, refused as caught:
        repository._ask("x", question)
    assert type(caught.value) is kind
    assert type(caught.value.__cause__).__name__ == cause
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data_id", "words"),
    [
        ({"tract": "abc"}, "the query for the number of coadds with .*abc.* failed: .*do not agree"),
        ({"band": 3}, "do not agree"),
        ({"tracts": 5}, "coadds have no dimension 'tracts' .*; did you mean 'tract'"),
        ({"visit": 5}, "coadds have no dimension 'visit' .*; there are: band, patch, skymap, tract"),
    ],
)
def test_wrong_data_ids(small: SimulatedRepository, data_id: dict[str, Any], words: str) -> None:
    with Repository(small.root, small.collections) as repository, pytest.raises(ConfigurationError, match=words):
        repository.count(**data_id)


def test_not_found_is_told_from_no_such_name(dp2_repo: SimulatedRepository) -> None:
    """A Butler answers None to all of these."""
    with Repository(dp2_repo.root, "dp2") as repository:
        assert repository.find(dp2_repo.tract, 8, "r").patch == 8
        with pytest.raises(ConfigurationError, match=r"no band 'x' in .*; there are: g, i, r$"):
            repository.find(dp2_repo.tract, 8, "x")
        with pytest.raises(SkyMapError, match=r"no tract 5062 in skymap 'simulated.*; did you mean '5063'"):
            repository.find(5062, 8, "r")
        with pytest.raises(SkyMapError, match="no patch 20 in tract 5063, which has patches 0 to 19"):
            repository.find(dp2_repo.tract, 20, "r")
        with pytest.raises(DatasetError, match="tract 5063, patch 8, band g; this patch has bands i, r"):
            repository.find(dp2_repo.tract, 8, "g")
        with pytest.raises(DatasetError, match="patch 0, band g; this patch has no coadd in any band"):
            repository.find(dp2_repo.tract, 0, "g")


# Files


def test_sizes_are_the_recorded_ones(dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository) -> None:
    for repo in (dp2_repo, dp1_repo):
        with Repository(repo.root, repo.collections) as repository:
            found = repository.locate([(repo.tract, p) for p in repo.patches], repo.bands)
        with Butler.from_config(str(repo.root)) as butler:
            for one in found:
                ref = butler.get_dataset(one.dataset_id, datastore_records=True)
                ((record,),) = ref._datastore_records.values()
                assert one.size == record.file_size > 0


def test_a_file_that_was_cut_before_the_plan_is_found(own: Path) -> None:
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
    ra, dec = _target(own)
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


def test_coadds_stored_in_pieces_are_refused(own: Path) -> None:
    with sqlite3.connect(own / "gen3.sqlite3") as database:
        database.execute("UPDATE file_datastore_records SET component = 'image'")
    database.close()
    with (
        pytest.raises(DatasetError, match="is stored in 1 files, one per component"),
        Repository(own, "dp2") as it,
    ):
        it.samples()


def test_coadds_in_an_archive_are_refused(own: Path) -> None:
    with sqlite3.connect(own / "gen3.sqlite3") as database:
        database.execute("UPDATE file_datastore_records SET path = 'all.zip#zip-path=a.fits'")
    database.close()
    with pytest.raises(DatasetError, match="is inside the archive"), Repository(own, "dp2") as repository:
        repository.samples()


def test_afw_files_need_the_stack_when_a_butler_reads_them(dp1_repo: SimulatedRepository) -> None:
    with Repository(dp1_repo.root, dp1_repo.collections) as repository:
        one = repository.samples()[0]
        with pytest.raises(LsstCutoutsError, match="the Butler cannot read") as caught:
            repository.read_image(one, Box.from_start(YX(0, 0), YX(4, 4)))
        assert caught.value.__cause__ is not None


def test_a_plan_and_its_pixels_over_http(own: Path) -> None:
    """A repository whose files are on a web server."""
    ra, dec = _target(own)
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


def _target(root: Path) -> tuple[Any, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(root / "truth.parquet").slice(0, 1)
    return table["ra"].to_numpy(), table["dec"].to_numpy()


# Servers


class ButlerServer(FileServer):
    """Answers as a Butler server does for its configuration, and in one way for everything else."""

    answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
    configuration = b""
    server_url = "<butlerRoot>"
    location = ""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.RequestHandlerClass = ButlerHandler


class ButlerHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ButlerServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        config = {"cls": "lsst.daf.butler.remote_butler.RemoteButler", "remote_butler": {"url": self.server.server_url}}
        config["remote_butler"]["authentication"] = "rubin_science_platform"
        text = self.server.configuration or json.dumps(config).encode()
        answer = (200, "text/yaml", text) if "butler.yaml" in self.path else self.server.answer
        self.server.requests.append(("GET", self.path, self.headers.get("Authorization", "")))
        if answer[0] == 0:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Content-Type", answer[1])
        self.send_header("Content-Length", str(len(answer[2])))
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Connection", "close")  # the client never closes its own when it fails
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[2])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_OPTIONS(self) -> None:
        self.do_GET()


@pytest.fixture
def butler_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ButlerServer]:
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "geheim")
    with serving(tmp_path, ButlerServer) as server:
        yield server


def ask(server: ButlerServer) -> None:
    Repository(f"{server.url}/repo", "dp2", retry=Retry(tries=2, clock=FakeClock()))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, AuthenticationError, "401.*BUTLER_RUBIN_ACCESS_TOKEN"),
        (403, AuthenticationError, "403.*read:image"),
        (302, RepositoryError, "302"),
        (404, RepositoryNotFoundError, "404.*check the path or URL of the repository"),
        (
            500,
            RepositoryUnavailableError,
            "500.*check the URL .repository name, host, port. and that the server is running",
        ),
        (503, RepositoryUnavailableError, "503.*try again later"),
        (0, RepositoryUnavailableError, "disconnected"),
    ],
)
def test_a_butler_server_that_refuses(
    butler_server: ButlerServer, status: int, kind: type[RepositoryError], words: str
) -> None:
    butler_server.answer = (status, "text/plain", b"no")
    with pytest.raises(kind, match=words) as caught:
        ask(butler_server)
    assert type(caught.value) is kind
    assert type(caught.value.__cause__).__name__ == "ButlerServerError"
    assert f"{butler_server.url}/repo" in str(caught.value)
    assert "geheim" not in str(caught.value)
    tried = sum("butler.yaml" in path and method == "GET" for method, path, _ in butler_server.requests)
    assert tried <= 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [("missing_collection", CollectionError), ("missing_dataset_type", DatasetError), ("new_kind", ConfigurationError)],
)
def test_what_a_butler_server_sends_on(butler_server: ButlerServer, name: str, kind: type[Exception]) -> None:
    """A server answers 422 with the exception of its own Butler."""
    body = json.dumps({"error_type": name, "detail": "no such thing"}).encode()
    butler_server.answer = (422, "application/json", body)
    with pytest.raises(kind, match="no such thing") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, ButlerUserError)


def test_a_page_of_html_is_no_butler(butler_server: ButlerServer) -> None:
    """A page for logging in is a refusal of access, from the server and in the place of its configuration."""
    butler_server.answer = (200, "text/html", b"<html>please log in</html>")
    with pytest.raises(AuthenticationError, match=r"answers with a web page.*login page.*BUTLER_RUBIN_ACC") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)
    butler_server.configuration = b"<!DOCTYPE html>\n<html><head><title>Sign in: here</title></head></html>"
    with pytest.raises(
        AuthenticationError,
        match=r"/repo/butler\.yaml: access is refused: 127\.0\.0\.1 answers with a web page \('Sign in: here'\)",
    ):
        ask(butler_server)


def test_another_answer_is_no_butlers(butler_server: ButlerServer) -> None:
    butler_server.answer = (200, "application/json", b"[1, 2]")
    with pytest.raises(RepositoryError, match="not the answer of a Butler server") as caught:
        ask(butler_server)
    assert type(caught.value) is RepositoryError


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"detail": "unauthorized: the token has expired"}', "400"),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", "ExpiredToken"),
        (401, b"<html><head><title>401 Authorization Required</title></head></html>", "401 Authorization Required"),
        (403, b'{"error": "insufficient_scope"}', "insufficient_scope"),
    ],
)
def test_a_butler_server_that_refuses_access(butler_server: ButlerServer, status: int, body: bytes, words: str) -> None:
    """The message names the host, what the server says, and what to do."""
    butler_server.answer = (status, "application/json", body)
    with pytest.raises(AuthenticationError, match=rf"127\.0\.0\.1.*{words}.*BUTLER_RUBIN_ACCESS_TOKEN") as caught:
        ask(butler_server)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_a_bad_request_is_no_refusal(butler_server: ButlerServer) -> None:
    butler_server.answer = (400, "application/json", b'{"detail": "no such thing"}')
    with pytest.raises(RepositoryError) as caught:
        ask(butler_server)
    assert not isinstance(caught.value, AuthenticationError)


def test_the_token_goes_to_the_repositorys_own_host(butler_server: ButlerServer, tmp_path: Path) -> None:
    """A butler.yaml from the web may name no server elsewhere; nor is a redirection followed with the token."""
    with serving(tmp_path) as other:
        butler_server.server_url = other.url
        with pytest.raises(
            AuthenticationError, match=rf"names a server on another host, {other.url[7:]}, .*your token"
        ):
            ask(butler_server)
        butler_server.server_url = "<butlerRoot>"
        butler_server.answer = (307, "text/plain", b"")
        butler_server.location = f"{other.url}/elsewhere"
        with pytest.raises(RepositoryError, match="307"):
            ask(butler_server)
        assert not any(other.tokens)
    assert "Bearer geheim" in [token for _, _, token in butler_server.requests]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "401 Unauthorized"),
        (403, xml("AccessDenied", "No such right"), "AccessDenied: No such right"),
        (400, xml("ExpiredToken"), "ExpiredToken"),
        (200, LOGIN_PAGE, "web page .'Sign in'."),
    ],
)
def test_a_configuration_that_is_refused(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    """The token of a Butler server would not help: it is not sent for the butler.yaml."""
    with serving(tmp_path, Store) as server:
        server.refuse("butler.yaml", status, body)
        reason = rf"{server.url}/repo/butler\.yaml: access is refused: 127\.0\.0\.1.*{words}.*LSSTCUTOUTS_TOKEN_HOSTS"
        with pytest.raises(AuthenticationError, match=reason):
            Repository(f"{server.url}/repo", "dp2")
        server.refuse("butler.yaml", status, body)
        with pytest.raises(AuthenticationError) as caught:
            Repository(f"{server.url}/repo/butler.yaml?Signature=geheim", "dp2")
    if status >= 400:
        assert "geheim" not in "".join(traceback.format_exception(caught.value.__cause__))


@pytest.mark.parametrize("text", [b"\x89PNG\r\n\x1a\n\x00", b"[1, 2]", b"just words", b"", b"a: [", b"cls: nonsense"])
def test_something_else_in_the_place_of_a_configuration(butler_server: ButlerServer, text: bytes) -> None:
    butler_server.configuration = text or b" "
    with pytest.raises(RepositoryError, match=f"{butler_server.url}/repo' cannot be opened") as caught:
        ask(butler_server)
    assert not isinstance(caught.value, AuthenticationError | RepositoryNotFoundError)


def test_every_name_of_a_repository(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, URLs and labels, with butler.yaml and without; a token goes only to the hosts that are named for it."""
    for name in ("BUTLER_RUBIN_ACCESS_TOKEN", "LSST_HTTP_AUTH_BEARER_TOKEN", "ACCESS_TOKEN"):
        monkeypatch.setenv(name, "geheim")
    for name in ("DAF_BUTLER_REPOSITORIES", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LSST_HTTP_CACERT_BUNDLE", str(CERTIFICATE))
    monkeypatch.chdir(own.parent)
    (tmp_path / "web").mkdir()
    with serving(own, TlsStore) as files, serving(tmp_path, TlsStore) as server:
        text = (own / "butler.yaml").read_text().replace("root: <butlerRoot>", f"root: {files.url}/")
        (tmp_path / "web/butler.yaml").write_text(text.replace("<butlerRoot>", str(own)))
        url = f"{server.url}/web"
        index = tmp_path / "index.yaml"
        index.write_text(f"folder: {own}\nfile: {own}/butler.yaml\nweb: {url}\nwebfile: {url}/butler.yaml\n")
        monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(index))
        local = [own, str(own), f"{own}/butler.yaml", own.name, f"./{own.name}/", f"file://{own}", "folder", "file"]
        web = [url, f"{url}/", f"{url}/butler.yaml", "web", "webfile"]
        for name in (*local, *web):
            with Repository(name, "dp2") as repository:
                assert repository.bands() == ("g", "r"), name
                (first, *_) = repository.samples()
                assert first.uri.startswith(files.url if name in web else str(own))
        assert len(server.tokens) == len(web)
        signature = "?X-Goog-Signature=" + "geheim"
        with Repository(f"{url}/butler.yaml{signature}", "dp2") as repository:
            assert "geheim" not in repository.name + repository.where
        signed = f"{server.url}/nothing/butler.yaml{signature}"
        with pytest.raises(RepositoryError) as caught:
            Repository(signed, "dp2")
        assert "geheim" not in "".join(traceback.format_exception(caught.value))
        del server.tokens[len(web) :]
        ra, dec = _target(own)
        monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", f"127.0.0.1:{server.server_address[1]}")
        with LsstDataFetcher(url, collections="dp2", bands="gr", size=16) as fetcher:
            assert fetcher.fetch(ra, dec)["band_present"].all()
        assert set(server.tokens[:-1]) | set(files.tokens) == {""}
        assert server.tokens[-1] == "Bearer geheim"


def test_no_token(butler_server: ButlerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUTLER_RUBIN_ACCESS_TOKEN")
    with pytest.raises(AuthenticationError, match=r"no access credentials.*BUTLER_RUBIN_ACCESS_TOKEN") as caught:
        ask(butler_server)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.fixture(scope="module")
def child() -> list[str]:
    """What a child process says of a server where nobody listens, and of one without the client for servers.

    The client waits a minute between its own tries unless the environment that it starts in says less.
    """
    code = (
        "import sys, tempfile, pathlib\n"
        "from lsstcutouts.plan.repository import Repository\n"
        "from lsstcutouts.errors import LsstCutoutsError\n"
        "from lsstcutouts.source.retry import Retry\n"
        "def said(repo):\n"
        "    try:\n        Repository(repo, 'dp2', retry=Retry(tries=1))\n"
        "    except LsstCutoutsError as error:\n"
        "        print(type(error).__name__, type(error.__cause__).__qualname__, error)\n"
        "said(sys.argv[1])\n"
        "sys.modules['httpx2'] = None\n"
        "root = pathlib.Path(tempfile.mkdtemp())\n"
        "(root / 'butler.yaml').write_text('cls: lsst.daf.butler.remote_butler.RemoteButler\\n"
        'remote_butler: {url: "http://127.0.0.1:9/", authentication: rubin_science_platform}\\n\')\n'
        "said(root)\n"
    )
    fast = os.environ | {"LSST_HTTP_BACKOFF_MIN": "0", "LSST_HTTP_BACKOFF_MAX": "0.001"}
    command = [sys.executable, "-c", code, f"{nobody()}/repo"]
    return subprocess.run(command, env=fast, capture_output=True, text=True, check=True).stdout.splitlines()


def test_nobody_answers(child: list[str]) -> None:
    assert child[0].startswith("RepositoryUnavailableError ConnectionError the Butler repository 'http://127.0.0.1:")
    assert "Connection refused" in child[0]
    assert "check the URL (repository name, host, port) and that the server is running" in child[0]


def test_the_remote_extra_is_missing(child: list[str]) -> None:
    assert child[1].startswith("DependencyError ModuleNotFoundError the Butler repository")
    assert "httpx2" in child[1]
    assert "pip install 'lsstcutouts[remote]'" in child[1]
