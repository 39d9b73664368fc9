"""What goes wrong with a repository, and which error with which words it becomes.

Butlers, databases and servers are real ones; a fault is what they are or answer.
"""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import yaml
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType, MissingCollectionError, MissingDatasetTypeError

from lsstcutouts.errors import (
    AuthenticationError,
    CollectionError,
    ConfigurationError,
    DatasetError,
    DependencyError,
    LsstCutoutsError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryUnavailableError,
    SkyMapError,
)
from lsstcutouts.plan.butler_errors import translate_butler_errors
from lsstcutouts.plan.repository import Repository
from lsstcutouts.source.retry import Retry
from lsstcutouts.testing import SimulatedRepository

from ..support.clock import FakeClock, patient

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
