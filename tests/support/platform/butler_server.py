"""The process with daf_butler's own server: copies local repositories into the S3 store and serves them.

It reads one line of JSON with what to publish, prints a line when it is ready, and serves the listening socket whose file
descriptor is its argument. A server reads dimension records once: it is started again for repositories that come later.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import boto3
import uvicorn
import yaml
from lsst.daf.butler import Butler, CollectionType, Config  # type: ignore[attr-defined]
from lsst.daf.butler.remote_butler.server import create_app

from .objects import KEY, SECRET
from .parent import end_with_parent

BUCKET = "butler-platform"
DIMENSIONS = ("skymap", "tract", "patch", "instrument", "physical_filter")
INDEX = "repositories.yaml"
STATIC = "static"


def publish(target: Path, name: str, source: str, collections: str) -> None:
    """Copy a collection of a repository, and all its dimension records, into the store."""
    config = Config()
    config["datastore", "cls"] = "lsst.daf.butler.datastores.fileDatastore.FileDatastore"
    config["datastore", "root"] = f"s3://{BUCKET}/{name}/"
    Butler.makeRepo(str(target), config=config, forceConfigRoot=False)
    with (
        Butler.from_config(source, collections=collections) as old,
        Butler.from_config(str(target), writeable=True) as new,
    ):
        infos = old.collections.query_info(collections, include_summary=True, flatten_chains=True)
        kinds = {kind for info in infos for kind in info.dataset_types or ()}
        refs = [ref for kind in sorted(kinds) for ref in old.query_datasets(kind, limit=None)]
        new.transfer_from(old, refs, transfer="copy", register_dataset_types=True, transfer_dimensions=True)
        for element in DIMENSIONS:
            records = old.query_dimension_records(element, limit=None, explain=False)
            new.registry.insertDimensionData(element, *records, skip_existing=True)
        info = old.collections.get_info(collections)
        if info.type is CollectionType.CHAINED:
            new.collections.register(collections, CollectionType.CHAINED)
            new.collections.redefine_chain(collections, info.children)


def main(folder: Path, task: dict[str, Any], listener: int) -> None:
    """Publish what is new and serve all; ``folder`` keeps the registries."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "S3_ENDPOINT_URL": task["store"],
    }
    boto3.client("s3", endpoint_url=task["store"]).create_bucket(Bucket=BUCKET)
    for name, (source, collections) in task["repositories"].items():
        if not (folder / name).exists():
            publish(folder / name, name, source, collections)
    (folder / STATIC).mkdir(exist_ok=True)
    (folder / STATIC / INDEX).write_text(yaml.safe_dump({name: task["urls"][name] for name in task["repositories"]}))
    served = {
        name: {"config_uri": str(folder / name / "butler.yaml"), "authorized_groups": ["*"]}
        for name in task["repositories"]
    }
    os.environ |= {
        "S3_ENDPOINT_URL": task["data"],  # clients must meet the front, so the server signs for it
        "DAF_BUTLER_SERVER_REPOSITORIES": json.dumps(served),
        "DAF_BUTLER_SERVER_GAFAELFAWR_URL": "DISABLED",
        "DAF_BUTLER_SERVER_AUTHENTICATION": "rubin_science_platform",
        "DAF_BUTLER_SERVER_STATIC_FILES_PATH": str(folder / STATIC),
    }
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the server logs every request: nobody empties the pipe any more
    server = uvicorn.Server(uvicorn.Config(create_app, factory=True, log_level="warning"))
    server.run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    wanted = json.loads(sys.stdin.readline())
    end_with_parent()
    main(Path(sys.argv[1]), wanted, int(sys.argv[2]))
