"""A plan made in a process of its own: ``python -m tests.support.planning REPO CATALOG COLLECTIONS`` prints its length."""

import sys

from lsstcutouts import build_plan

if __name__ == "__main__":
    repo, catalog, collections = sys.argv[1:]
    print(len(build_plan(repo, catalog, collections=collections, bands="gri", size=32)))  # noqa: T201 - to the test
