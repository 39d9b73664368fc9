"""Resumed trainings see what uninterrupted ones see: over points, loops, workers, ranks, and after accidents."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lsstcutouts.plan.cutout_plan import CutoutPlan

from ..support import ranks
from ..support.processes import PythonProcess, run_ranks
from ..support.resuming import CELLS, EPOCHS, WORKERS, Runs, Saver, Watcher, faults, judged, started

# What Lightning says of checkpoints over each other, and of a checkpoint folder that is not empty.
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=:UserWarning"),
]
PLAIN = {"limit_val_batches": 0, "max_epochs": 2}


@pytest.fixture(scope="module")
def folder(plan: CutoutPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    plan.save(path / "plan.parquet")
    return path


@pytest.fixture(scope="module")
def runs(plan: CutoutPlan, folder: Path) -> Runs:
    return Runs(plan, folder)


@pytest.fixture(scope="module")
def reference(runs: Runs) -> Watcher:
    """Two epochs without an interruption; a checkpoint at every event lies in ``reference``."""
    return runs.fit(Saver(runs.folder / "reference"), **PLAIN)


def test_the_harness_notices_a_batch_too_many_and_one_too_few(runs: Runs, reference: Watcher) -> None:
    half = reference.seen[: len(reference.seen) // 2]
    seen = [(epoch, *step[1:]) for epoch in range(EPOCHS) for step in half]
    train = {i for step in half for i in step[1]}
    for skipped, words in ((3, []), (2, ["other batches"]), (4, ["other batches"])):
        point = {"before": 3, "after": seen[skipped:], "enough": 99}
        found = faults([{"reference": seen, "points": {"x": point}}], train)
        assert [word in fault for word, fault in zip(words, found, strict=True)] == [True] * len(words)
    assert "no permutation" in faults([{"reference": seen, "points": {}}], train | {0})[0]


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_cell_of_the_grid(folder: Path, world: int) -> None:
    found = judged(started(folder / "plan.parquet", folder / f"grid {world}", world))
    assert list(found) == [(workers, name) for workers in WORKERS for name in CELLS]
    assert not {cell: wrong for cell, wrong in found.items() if wrong}


@pytest.mark.slow
def test_another_number_of_workers(runs: Runs, reference: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_KERNELS", "plain")
    checkpoint = runs.folder / "reference" / "0 after 3.ckpt"
    other = Runs(runs.plan, runs.folder, 1, {"num_workers": 2})
    saver = Saver(runs.folder / "two workers")
    model = other.fit(saver, checkpoint=checkpoint, model=Watcher(stop_after=3), **{**PLAIN, "max_epochs": 1})
    assert model.seen == reference.seen[3:6]
    back = runs.fit(checkpoint=runs.folder / "two workers" / "0 after 5.ckpt", **PLAIN)
    assert back.seen == reference.seen[5:]


def test_an_exception_loses_no_batch(runs: Runs, reference: Watcher, tmp_path: Path) -> None:
    """Neither one in a step nor one in the transforms before it."""

    class Fragile(Watcher):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if index == 4:
                raise RuntimeError("the step fails")
            return super().training_step(batch, index)

    class Failing(torch.nn.Module):
        calls, fails_at = 0, 5

        def forward(self, batch: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                raise RuntimeError("the transform fails")
            return batch

    for number, (model, settings) in enumerate(((Fragile(), {}), (Watcher(), {"transforms": Failing()}))):
        keeper = OnExceptionCheckpoint(tmp_path / str(number))
        keeper.teardown = lambda *_, **__: None  # type: ignore[method-assign]  # it removes its file at the end of a fit
        broken = Runs(runs.plan, tmp_path, 1, settings, cache=runs.cache)
        Failing.fails_at = 5
        with pytest.raises(RuntimeError, match="fails"):
            broken.fit(keeper, model=model, **PLAIN)
        assert model.seen == reference.seen[:4]
        Failing.fails_at = 0
        assert broken.fit(checkpoint=Path(keeper.ckpt_path), **PLAIN).seen == reference.seen[4:]


def test_sigterm_ends_the_step_and_loses_no_batch(runs: Runs, reference: Watcher, tmp_path: Path) -> None:
    """Lightning ends the step and raises; a checkpoint of the exception goes on behind it."""

    class Ended(Watcher):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if index == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, index)

    keeper = OnExceptionCheckpoint(tmp_path)
    keeper.teardown = lambda *_, **__: None  # type: ignore[method-assign]
    model = Ended()
    with pytest.raises(SIGTERMException):
        runs.fit(keeper, model=model, **PLAIN)
    done = len(model.seen)
    assert model.seen == reference.seen[:done]
    assert runs.fit(checkpoint=Path(keeper.ckpt_path), **PLAIN).seen == reference.seen[done:]


def test_the_state_of_the_data_module_alone(runs: Runs, reference: Watcher) -> None:
    """In a loop of one's own, through ``state_dict`` of the data module or of the loader."""
    steps = [ids for _, ids, _ in reference.seen]
    data = runs.data()
    data.setup()
    batches = iter(data.train_dataloader())
    assert [next(batches)["object_id"].tolist() for _ in range(3)] == steps[:3]
    state = data.state_dict()
    for by_loader in (False, True):
        other = runs.data()
        other.setup()
        loader = other.train_dataloader()
        loader.load_state_dict(state["train"]) if by_loader else other.load_state_dict(state)
        found = [[b["object_id"].tolist() for b in loader] for _ in range(2)]
        assert found[0] + found[1] == steps[3:]


def test_a_max_steps_stop_at_the_end_of_an_epoch(runs: Runs, reference: Watcher, tmp_path: Path) -> None:
    """Lightning 2.6 runs one batch of the next epoch and then begins the one after; later versions may do better."""
    n = len(reference.seen) // 2
    trainer = runs.trainer(**{**PLAIN, "max_epochs": -1, "max_steps": n})
    trainer.fit(Watcher(), runs.data())
    trainer.save_checkpoint(tmp_path / "full.ckpt")
    again = runs.fit(checkpoint=tmp_path / "full.ckpt", **{**PLAIN, "max_epochs": -1, "max_steps": 2 * n})
    ids = [seen[1] for seen in again.seen]
    data = runs.data()
    data.setup()
    loader = data.train_dataloader()
    epochs = [[batch["object_id"].tolist() for batch in loader] for _ in range(3)]
    assert ids in ([*epochs[1]], [epochs[1][0], *epochs[2][: n - 1]])


def global_batches(of_ranks: list[list[Any]]) -> list[list[int]]:
    return [sorted(i for seen in step for i in seen[1]) for step in zip(*of_ranks, strict=True)]


@pytest.mark.slow
def test_another_number_of_ranks(runs: Runs, reference: Watcher, folder: Path) -> None:
    """From one process to two and back, the batches of all ranks together stay the same."""
    forth = folder / "one to two"
    arguments = ["--plan", str(folder / "plan.parquet"), "--out", str(forth), "--continue"]
    arguments += [str(folder / "reference" / "0 after 3.ckpt")]
    run_ranks("tests.support.resuming", [*arguments, "--ranks", "2"], 2)
    found = [json.loads((forth / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    wanted = global_batches([reference.seen])
    assert global_batches([f["seen"] for f in found]) == wanted[3:]
    own = global_batches([f["own"] for f in found])
    for event, before in found[0]["points"].items():
        back = runs.fit(checkpoint=forth / f"{event}.ckpt", **PLAIN)
        assert global_batches([back.seen]) == own[before:]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, *(pytest.param(n / 10, marks=pytest.mark.long) for n in range(1, 21))])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    runs: Runs, reference: Watcher, folder: Path, delay: float
) -> None:
    out = folder / f"killed after {delay}"
    out.mkdir()
    arguments = ["--plan", str(folder / "plan.parquet"), "--out", str(out), "--slow"]
    with PythonProcess("tests.support.resuming", [*arguments, "--ranks", "1"], env=ranks.environment()) as run:
        deadline = time.monotonic() + 120
        while not (out / "0 after 4.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(delay)
        run.kill()  # worker processes too
    # The newest file may be cut.
    done = max(k for k in range(3, len(reference.seen) // 2) if (out / f"0 after {k + 1}.ckpt").exists())
    assert runs.fit(checkpoint=out / f"0 after {done}.ckpt", **PLAIN).seen == reference.seen[done:]
