"""Requests for positions without a catalog: what they accept, and how a catalog holds them."""

import copy
import pickle

import pytest
from omegaconf import OmegaConf

from lsstcutouts import Catalog, Footprint
from lsstcutouts.catalog.files import open_table
from lsstcutouts.catalog.footprint import footprint_of
from lsstcutouts.errors import CatalogError, ConfigurationError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": -3}, "n must be an integer"),
        ({"n": True}, "n must be an integer of at least 1, got True"),
        ({"n": 2.5}, "n must be an integer"),
        ({"n": "many"}, "n must be an integer of at least 1, got 'many'"),
        ({"n": float("nan")}, "n must be an integer"),
        ({}, "n is missing"),
        ({"n": 5, "kind": "grids"}, "did you mean 'grid'"),
        ({"n": 5, "kind": "grid"}, "n=5 has no effect on kind='grid'"),
        ({"n": 5, "spacing": 3}, "spacing=3 has no effect on kind='uniform'"),
        ({"n": 5, "seed": -1}, "seed must be an integer of at least 0"),
        ({"n": 5, "views": 0}, "views must be an integer of at least 1"),
        ({"n": 5, "bands": "gg"}, "bands must be 'any', 'all', a number of bands"),
        ({"n": 5, "bands": 0}, "bands must be an integer of at least 1"),
        ({"n": 5, "bands": []}, "bands must be"),
        ({"n": 5, "bands": True}, "bands must be"),
        ({"n": 5, "min_valid": 1.5}, "min_valid must be a number from 0 to 1, got 1.5"),
        ({"n": 5, "min_valid": "most"}, "min_valid must be a number"),
        ({"n": 5, "min_depth": -2}, "min_depth must be a number from 0 to 50"),
        ({"n": 5, "min_depth": {"i": "deep"}}, "min_depth of i must be a number"),
        ({"n": 5, "min_depth": {"i": 26}, "bands": 2}, "give the names of all bands"),
        ({"n": 5, "view": 2}, "no setting 'view'; did you mean 'views'"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match="(?s)^footprint.*" + words.replace("(", r"\(")):
        footprint_of({"footprint": given})


def test_configurations_give_what_python_gives() -> None:
    wanted = Footprint(n=10_000, seed=3, views=2, bands=("g", "i"), min_valid=0.9, min_depth={"i": 26.0})
    text = "{n: 1e4, seed: '3', views: 2.0, bands: [g, i], min_valid: '0.9', min_depth: {i: 26}}"
    made = footprint_of(OmegaConf.create({"footprint": OmegaConf.create(text)}))
    assert made == wanted
    assert footprint_of({"footprint": wanted.as_dict()}) == wanted
    assert footprint_of({"footprint": wanted}) is wanted
    assert footprint_of(Catalog.from_any(wanted)) is wanted
    assert copy.deepcopy(wanted) == pickle.loads(pickle.dumps(wanted)) == wanted
    assert hash(wanted) == hash(copy.deepcopy(wanted))
    assert Footprint("grid", spacing=[32, 40]).as_dict() == {"kind": "grid", "spacing": [32, 40]}
    assert Footprint(n=10**17 + 1).n == 10**17 + 1


def test_other_catalogs_are_no_footprint() -> None:
    for other in ("a.csv", {"ra": [1.0], "dec": [2.0]}, {"footprint": [1.0, 2.0], "ra": [1, 2], "dec": [1, 2]}, None):
        assert footprint_of(other) is None
    assert len(Catalog.from_any({"footprint": [1.0, 2.0], "ra": [1, 2], "dec": [1, 2]})) == 2
    with pytest.raises(ConfigurationError, match="leave path out"):
        footprint_of({"footprint": {"n": 3}, "path": "a.csv"})


def test_a_catalog_holds_the_request() -> None:
    catalog = Catalog.from_any({"footprint": {"n": 7}}, columns=("view",))
    assert (len(catalog), catalog.footprint, list(catalog.columns)) == (0, Footprint(n=7), ["view"])
    assert repr(catalog) == "Catalog(footprint kind=uniform, n=7)"
    assert list(Catalog.from_any(catalog, columns=("position",)).columns) == ["position"]
    others = [Footprint(n=8), Footprint(n=7, seed=1), Footprint("grid"), Footprint(n=7, min_depth={"i": 20})]
    prints = {Catalog.from_any(one).fingerprint() for one in (catalog, *others)}
    assert len(prints) == 5


def test_what_needs_rows_says_so() -> None:
    catalog = Catalog.from_any(Footprint(n=7))
    for use in (lambda: catalog.select("ra < 3"), lambda: catalog[:3], lambda: open_table({"footprint": {"n": 7}})):
        with pytest.raises(CatalogError, match="draw"):
            use()
    with pytest.raises(CatalogError, match="no column 'label'; the columns are: position, view"):
        Catalog.from_any(Footprint(n=7), columns=("label",))
    for given in ({"select": "ra < 3"}, {"cone": (1, 2, 3)}, {"ra": "ra"}, {"unit": "deg"}):
        with pytest.raises(ConfigurationError, match=f"^{next(iter(given))}= is for tables"):
            Catalog.from_any(Footprint(n=7), **given)  # type: ignore[arg-type]
