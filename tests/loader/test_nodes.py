"""Two nodes of one task, as Slurm and torchrun would start them: processes that see other variables and other folders."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lsstcutouts.app.training.checkpoints import LAST, SameCheckpoint, checkpoint_to_resume
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.testing import SimulatedRepository

from ..support import ranks
from ..support.processes import PythonProcess

ROOT = Path(__file__).parents[2]


def slurm(node: int, port: int, **more: str) -> dict[str, str]:
    variables = {"JOB_ID": "4242", "JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2"}
    place = {"PROCID": str(node), "NODEID": str(node), "LOCALID": "0", "NODELIST": "127.0.0.1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**{f"SLURM_{k}": v for k, v in {**variables, **place}.items()}, **address, **more}


def torch_elastic(node: int, port: int) -> dict[str, str]:
    place = {"RANK": str(node), "GROUP_RANK": str(node), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    own = {"TORCHELASTIC_RUN_ID": "none", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
    return {**place, **own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@contextmanager
def nodes(folders: list[Path], variables: list[dict[str, str]], command: tuple[str, list[str]]) -> Iterator[list[Any]]:
    """Start a module with its arguments on each node, in a folder of its own."""
    with ExitStack() as stack:
        started = []
        for folder, more in zip(folders, variables, strict=True):
            folder.mkdir(exist_ok=True)
            log = stack.enter_context((folder / "log.txt").open("w"))
            run = PythonProcess(*command, env=ranks.environment(**more), cwd=folder, stdout=log, stderr=log)
            stack.enter_context(run)
            stack.callback(run.kill)
            started.append(run)
        yield started


def train_command(repo: SimulatedRepository, *more: str) -> tuple[str, list[str]]:
    settings = [
        "data=dp2",
        f"data.repo='{repo.root}'",
        f"data.catalog='{repo.truth}'",
        "data.bands=gri",
        "data.size=24",
    ]
    settings += ["data.batch_size=8", "data.cache_bytes=100 MB", "trainer=slurm", "trainer.accelerator=cpu"]
    settings += ["trainer.max_epochs=2", "output=out", "resume=auto", "picture=false", "json=true", "debug=true"]
    return "tests.support.command", ["train", *settings, *more]


def finished(started: list[Any], folders: list[Path]) -> None:
    for run, folder in zip(started, folders, strict=True):
        run.wait(timeout=200)
        assert run.returncode == 0, (folder / "log.txt").read_text()[-5000:]


@pytest.mark.slow
def test_two_nodes_of_slurm_share_nothing_but_repository_and_catalog(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    port, folders = ranks.free_port(), [tmp_path / "a", tmp_path / "b"]
    with nodes(folders, [slurm(i, port) for i in (0, 1)], train_command(dp2_repo)) as started:
        finished(started, folders)
    assert [len(list((f / "out" / ".lsstcutouts").glob("plan-*.parquet"))) for f in folders] == [1, 1]
    assert json.loads((folders[0] / "out" / "metrics.json").read_text())["epochs"] == 2
    assert (folders[0] / "out" / LAST).exists()
    assert not (folders[1] / "out" / LAST).exists()
    # The second node sees no checkpoint: neither begins while the other goes on.
    port = ranks.free_port()
    longer = train_command(dp2_repo, "trainer.max_epochs=3")
    with nodes(folders, [slurm(i, port) for i in (0, 1)], longer) as started:
        for run, folder in zip(started, folders, strict=True):
            assert run.wait(timeout=200) != 0
            assert "1 of 2 ranks find a checkpoint" in (folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slurm", "torchrun"])
def test_a_requeued_job_goes_on_at_the_next_batch(dp2_repo: SimulatedRepository, tmp_path: Path, kind: str) -> None:
    """USR1, as before the end of the job's time: a checkpoint, ``scontrol requeue``; then the same command again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/requeued"\n')
    scontrol.chmod(0o755)
    path = {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    folders = [tmp_path / "a", tmp_path / "b"]
    arguments = ["--catalog", str(dp2_repo.truth), "--repo", str(dp2_repo.root), "--out", str(tmp_path)]

    def variables(port: int) -> list[dict[str, str]]:
        return [{**(slurm(i, port) if kind == "slurm" else torch_elastic(i, port)), **path} for i in (0, 1)]

    with nodes(
        folders, variables(ranks.free_port()), ("tests.support.requeued", [*arguments, "--ended", "first"])
    ) as started:
        if kind == "slurm":
            wait_for(tmp_path / "first 0.started", started)
            time.sleep(0.2)  # both are between two steps
            for run in started:
                run.send_signal(signal.SIGUSR1)
            wait_for(tmp_path / "requeued", started)
            for run in started:
                run.kill()  # what scontrol requeue does
        else:
            wait_for(tmp_path / "output" / LAST, started)
            for run in started:
                run.kill()
    if kind == "slurm":
        assert (tmp_path / "requeued").read_text() == "requeue 4242\n"
    with nodes(
        folders, variables(ranks.free_port()), ("tests.support.requeued", [*arguments, "--ended", "second"])
    ) as started:
        finished(started, folders)
    first, second = (
        [json.loads((tmp_path / f"{run} {i}.json").read_text()) for i in (0, 1)] for run in ("first", "second")
    )
    epoch, done = second[0]["epoch"], second[0]["batch"]
    if kind == "slurm":
        assert (epoch, done >= 2) == (0, True)
    for number in (0, 1):
        before = [s["seen"].get(str(number), [])[: done if number == epoch else None] for s in first]
        after = [s["seen"].get(str(number), []) for s in second]
        whole = (before if number < epoch else []) + (before + after if number >= epoch else [])
        assert sorted(i for steps in whole for ids in steps for i in ids) == sorted(second[0]["train"])


def wait_for(path: Path, started: list[Any], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        assert all(run.poll() is None for run in started)
        time.sleep(0.05)


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume(None, tmp_path) is None
    for number, name in enumerate((LAST, "hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt", "model.ckpt")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(number, number))
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / "hpc_ckpt_2.ckpt"
    os.utime(tmp_path / LAST, ns=(9, 9))
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / LAST
    assert checkpoint_to_resume(str(tmp_path / "model.ckpt"), tmp_path) == tmp_path / "model.ckpt"
    with pytest.raises(ConfigurationError, match="this file does not exist"):
        checkpoint_to_resume(str(tmp_path / "none.ckpt"), tmp_path)


@pytest.mark.parametrize("found", [0, 1, 2])
def test_ranks_go_on_together_or_not_at_all(found: int) -> None:
    strategy = SimpleNamespace(root_device="cpu", reduce=lambda *_, **__: torch.tensor(float(found)))
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    callback = SameCheckpoint(None)
    callback.setup(trainer, None, "test")  # type: ignore[arg-type]
    if found != 1:
        callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigurationError, match="1 of 2 ranks find a checkpoint"):
        callback.setup(trainer, None, "fit")  # type: ignore[arg-type]


def test_the_batch_script_is_sound() -> None:
    script = ROOT / "docs" / "slurm" / "train.sbatch"
    if not script.exists():
        pytest.skip("not a checkout")
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    for needed in ("--ntasks-per-node", "--signal=USR1@", "--requeue", "trainer=slurm", "resume=auto", "exec srun"):
        assert needed in text
