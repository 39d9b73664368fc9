"""Signals to a training: it ends within seconds, and its worker processes with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")

SCRIPT = """
import sys, time, warnings
warnings.simplefilter("ignore")
from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan

def main(plan, workers, way):
    dataset = CutoutDataset(CutoutPlan.load(plan), batch_size=2, cache_bytes="100 MB", threads=2)
    start = "forkserver" if way == "killed" else "fork"
    loader = CutoutLoader(dataset, num_workers=int(workers), multiprocessing_context=start)
    if way == "exit":
        passing = iter(loader)
        next(passing)
        return
    if way == "fit":
        import lightning as L, torch
        class Model(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)
            def training_step(self, batch, i):
                if self.global_step == 1:
                    print("running", flush=True)
                time.sleep(0.1)
                return self.layer(batch["image"].mean(dim=(2, 3))).square().mean()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.01)
        L.Trainer(max_epochs=-1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                  enable_progress_bar=False, enable_model_summary=False).fit(Model(), loader)
        return
    while True:
        for number, batch in enumerate(loader):
            if number == 1:
                print("running", flush=True)
            time.sleep(0.1)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def plan_file(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.parquet"
    build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32).save(path)
    return path


@contextmanager
def started(plan_file: Path, workers: int, way: str) -> Iterator[subprocess.Popen]:
    """Start the script in a group of its own, which is gone afterwards, whatever the test found."""
    script = plan_file.with_name("loop.py")
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script, plan_file, str(workers), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "workers", "number", "group"),
    [
        ("loop", 0, signal.SIGINT, False),
        ("loop", 2, signal.SIGINT, False),
        ("loop", 2, signal.SIGINT, True),  # as a terminal does: the worker processes have it, too
        ("fit", 2, signal.SIGINT, False),
        ("loop", 2, signal.SIGTERM, False),
    ],
)
def test_a_signal_ends_a_training(
    plan_file: Path, way: str, workers: int, number: signal.Signals, group: bool, record_property
) -> None:
    with started(plan_file, workers, way) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n", process.stderr.read() if process.stderr else ""
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= workers
        start = time.monotonic()
        (os.killpg if group else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        assert len(gone) == len(children)
        assert time.monotonic() - start < 20
        assert "leaked" not in said
        if number == signal.SIGINT and way == "loop":
            assert "KeyboardInterrupt" in said


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_exit_with_an_unfinished_pass_is_quiet(plan_file: Path, workers: int) -> None:
    with started(plan_file, workers, "exit") as process:
        out, said = process.communicate(timeout=90)
        assert (process.returncode, out, said) == (0, "", "")


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(plan_file: Path) -> None:
    """As when memory ran out; started in the default way, where their parent, the fork server, lives on."""
    with started(plan_file, 2, "killed") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
