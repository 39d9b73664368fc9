"""A Butler server in the mode of CADC: it asks for no token, and its files are on a web server that does."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsstcutouts.testing import SimulatedRepository

from ..server import StoreHandler, TlsStore
from .parent import end_with_parent

__all__ = ["TOKEN", "Archive", "butler_of"]

TOKEN = "cadc-good.token"
ROOT = Path(__file__).parents[3]
START_SECONDS = 120.0

CONFIG = """
datastore:
  cls: lsst.daf.butler.datastores.fileDatastore.FileDatastore
  root: {files}/
registry:
  db: sqlite:///{repository}/gen3.sqlite3
"""


class Archive(TlsStore):
    """The files of a repository over https, for those who send the token."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.RequestHandlerClass = ArchiveHandler


class ArchiveHandler(StoreHandler):
    def _serve(self, body: bool) -> None:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return super()._serve(body)
        self.server.tokens.append(self.headers.get("Authorization", ""))
        return self._answer(401, WWW_Authenticate='ivoa_bearer error="invalid_token"')


@contextmanager
def butler_of(repository: SimulatedRepository, files: str, folder: Path) -> Iterator[str]:
    """Start daf_butler's server of a repository whose files are served elsewhere; yield the repository's URL."""
    (folder / "butler.yaml").write_text(CONFIG.format(files=files, repository=repository.root))
    served = {"dp2": {"config_uri": str(folder / "butler.yaml"), "authorized_groups": ["*"]}}
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "DAF_BUTLER_SERVER_REPOSITORIES": json.dumps(served),
        "DAF_BUTLER_SERVER_GAFAELFAWR_URL": "DISABLED",
        "DAF_BUTLER_SERVER_AUTHENTICATION": "cadc",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        command = [sys.executable, "-m", "tests.support.platform.cadc", str(number)]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(number,)
        ) as server:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/butler/repo/dp2/"
            try:
                urllib.request.urlopen(f"{url}butler.yaml", timeout=START_SECONDS).close()
                yield url
            finally:
                server.kill()


def main(listener: int) -> None:
    """Serve at a socket that listens."""
    import uvicorn
    from lsst.daf.butler.remote_butler.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app, factory=True, log_level="warning"))
    server.run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    end_with_parent()
    main(int(sys.argv[1]))
