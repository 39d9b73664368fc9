"""Copies of exports on a web server."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lsstcutouts import CutoutDataModule, export
from lsstcutouts.errors import PlanError, ReadError, WriteError
from lsstcutouts.read.exports.export_files import is_remote_export
from lsstcutouts.read.exports.remote_copy import local_export
from lsstcutouts.source.disk.cache_settings import EXPORTS, FOLDER_VARIABLE
from lsstcutouts.source.disk.upkeep import clear
from lsstcutouts.testing import SimulatedRepository


class Server(http.server.ThreadingHTTPServer):
    asked: list[str]


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.fixture
def served(
    dp2_repo: SimulatedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Server, str]]:
    folder = tmp_path / "public" / "cutouts of dp2"
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    settings = {"collections": dp2_repo.collections, "bands": "gri", "size": 16, "planes": ["image"]}
    assert export(dp2_repo.truth, dp2_repo.root, folder, partition_bytes=100_000, **settings).complete
    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "public"))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server, f"http://127.0.0.1:{server.server_address[1]}/cutouts%20of%20dp2/export.json"
    server.shutdown()
    server.server_close()


def test_an_export_is_copied_once(served: tuple[Path, Server, str], tmp_path: Path) -> None:
    folder, server, url = served
    assert is_remote_export(url)
    assert not is_remote_export(str(folder))
    seen: list[tuple[int, int]] = []
    copy = local_export(url, lambda *now: seen.append(now))
    names = json.loads((folder / "files.json").read_text())["files"]
    assert len(names) > 10
    for name in names:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert seen[-1] == (sum(names.values()), sum(names.values()))

    server.asked.clear()
    assert local_export(url) == copy
    assert [path.rpartition("/")[2] for path in server.asked] == ["files.json"]

    one = next(iter(names))
    (copy / one).write_bytes(b"cut short")
    server.asked.clear()
    local_export(url)
    assert len(server.asked) == 2
    assert (copy / one).read_bytes() == (folder / one).read_bytes()

    assert clear(tmp_path / "cache") >= sum(names.values())
    assert not (tmp_path / "cache" / EXPORTS).exists()


def test_a_data_module_reads_a_copy(served: tuple[Path, Server, str]) -> None:
    folder, server, url = served
    batches = []
    for repo in (url, str(folder), url):
        data = CutoutDataModule(repo=repo, batch_size=16, threads=1)
        data.setup()
        batches.append(next(iter(data.train_dataloader())))
    assert len([path for path in server.asked if "Npix" in path and "finished" not in path]) == len(
        list(folder.rglob("cutouts/**/Npix=*.parquet"))
    )
    for other in batches[1:]:
        assert torch.equal(batches[0]["image"], other["image"])


def test_what_is_missing_is_named(served: tuple[Path, Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, url = served
    names = json.loads((folder / "files.json").read_text())["files"]
    (folder / next(name for name in names if "Npix" in name)).unlink()
    with pytest.raises(ReadError, match=r"Npix=.* cannot be read"):
        local_export(url)
    (folder / "files.json").unlink()
    with pytest.raises(ReadError, match="that the export is complete"):
        local_export(url)
    monkeypatch.setenv(FOLDER_VARIABLE, "off")
    with pytest.raises(PlanError, match=FOLDER_VARIABLE):
        local_export(url)


def test_a_small_disk_is_refused(served: tuple[Path, Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.exports.remote_copy._free", lambda _: 1000)
    with pytest.raises(WriteError, match="are free"):
        local_export(served[2])
