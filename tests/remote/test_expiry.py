"""Signed URLs that expire in the middle of an epoch are renewed; a token that is revoked ends the run at once."""

import time
from pathlib import Path

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lsstcutouts import CutoutDataModule, CutoutLoader, CutoutPlan, ReadOptions
from lsstcutouts.errors import AccessDeniedError, AuthenticationError
from lsstcutouts.plan.quality import Quality
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform, Published
from ..support.remote import arrays_of, dataset_of, epoch, local_plan, remote_plan, same

POLICIES = ("raise", "mask", "skip")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("expired", ["aws", "gcs", "401"])
def test_an_epoch_passes_an_expiry(platform: Platform, remote_dp2: Published, expired: str, policy: str) -> None:
    """Every URL is refused once, after its file was opened: nothing is lost, and each file is signed again once."""
    read = ReadOptions(on_read_error=policy)
    plan = remote_plan(remote_dp2)
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    platform.reset()
    platform.set(expired=expired)
    dataset = dataset_of(plan, cache_bytes="1 MB", read=read)
    batches = iter(CutoutLoader(dataset))
    first = next(batches)
    forget_bytes()
    signed = platform.counters().signatures
    platform.set(fault="expired", fault_n=1)
    found = arrays_of([first, *batches])
    assert same(found, local)
    assert platform.counters().signatures <= signed + 2 * len(plan.files)
    assert not dataset.report.failures


def test_urls_that_live_two_seconds(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an hour, several times in one epoch."""
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "8")  # so that most requests are sent later
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    plan = remote_plan(remote_dp2)
    platform.set(expire_after=2.0, expired="gcs", rate=200_000.0)
    start = time.monotonic()
    assert same(epoch(dataset_of(plan)), local)
    assert time.monotonic() - start > 2
    assert platform.counters().statuses.get("400", 0) > 0


def test_a_plan_of_yesterday(platform: Platform, remote_dp2: Published, tmp_path: Path) -> None:
    """It holds permanent addresses, none of which has a signature."""
    remote_plan(remote_dp2).save(tmp_path / "plan.parquet")
    content = (tmp_path / "plan.parquet").read_bytes()
    for secret in (b"Signature", b"Expires", platform.token.encode()):
        assert secret not in content
    plan = CutoutPlan.load(tmp_path / "plan.parquet")
    assert all(uri.endswith("/download") for uri in plan.files.uri)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_revoked_token_ends_the_epoch(platform: Platform, remote_dp2: Published, policy: str) -> None:
    """Within seconds, whatever the policy for read errors; the message says how to continue."""
    plan = remote_plan(remote_dp2)
    platform.set(token_revoked=True)
    start = time.monotonic()
    with pytest.raises(
        AuthenticationError, match=r"401.*set BUTLER_RUBIN_ACCESS_TOKEN.*resumes from its last checkpoint"
    ):
        epoch(dataset_of(plan, read=ReadOptions(on_read_error=policy)))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("policy", POLICIES)
def test_a_token_that_is_revoked_in_the_middle(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    plan = remote_plan(remote_dp2)
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "4")
    platform.set(rtt=0.1)  # so that most requests are still to come
    batches = iter(CutoutLoader(dataset_of(plan, cache_bytes="1 MB", read=ReadOptions(on_read_error=policy))))
    next(batches)
    forget_bytes()
    platform.set(token_revoked=True, fault="expired")
    with pytest.raises(AuthenticationError, match="BUTLER_RUBIN_ACCESS_TOKEN"):
        list(batches)


def test_a_deleted_object_is_an_error_of_its_file(platform: Platform, remote_dp2: Published) -> None:
    """S3 answers 403 for it, as for an expired URL; the other files of the store are read."""
    plan = remote_plan(remote_dp2)
    platform.set(deleted="deep_coadd_5063_9_r")
    with pytest.raises(AccessDeniedError, match="the file does not exist, or this user has no permission"):
        epoch(dataset_of(plan))
    dataset = dataset_of(plan, read=ReadOptions(on_read_error="mask"))
    found = epoch(dataset)
    assert len(found) == len(plan)
    assert {failure.kind for failure in dataset.report.failures} == {"AccessDeniedError"}
    lost = [arrays for arrays in found.values() if (arrays["quality"] & Quality.READ_ERROR).any()]
    assert 0 < len(lost) < len(found)
    assert all(not (arrays["quality"][[0, 2]] & Quality.READ_ERROR).any() for arrays in lost)


class Sums(lightning.LightningModule):
    """Counts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows = 0

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.rows += len(batch["object_id"])
        return (self.weight * batch["image"].nan_to_num().mean()).sum()

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        """Needed with validation targets."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def module_of(remote: Published, plan: Path) -> CutoutDataModule:
    return CutoutDataModule(
        remote.url,
        remote.collections,
        None,
        "gri",
        32,
        plan=plan,
        batch_size=9,
        cache_bytes="1 MB",
        splits={"train": 0.9, "val": 0.1},
    )


def trainer_of(folder: Path | None, epochs: int) -> lightning.Trainer:
    kept = [ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1)] if folder else []
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[*kept],
    )


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_fit_passes_expiries_and_resumes_after_a_revoked_token(
    platform: Platform, remote_dp2: Published, tmp_path: Path
) -> None:
    remote_plan(remote_dp2).save(tmp_path / "plan.parquet")
    platform.set(expire_after=1.0, expired="aws", rate=400_000.0)
    model = Sums()
    trainer_of(tmp_path / "first", 3).fit(model, module_of(remote_dp2, tmp_path / "plan.parquet"))
    assert model.rows > 180
    assert platform.counters().statuses.get("403", 0) > 0
    forget_bytes()
    platform.reset()
    platform.set(token_revoked=True)
    with pytest.raises(AuthenticationError, match="training resumes from its last checkpoint"):
        trainer_of(tmp_path / "second", 3).fit(Sums(), module_of(remote_dp2, tmp_path / "plan.parquet"))
    platform.reset()
    last = max((tmp_path / "first").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    again = Sums()
    trainer_of(None, 4).fit(again, module_of(remote_dp2, tmp_path / "plan.parquet"), ckpt_path=last)
    assert 0 < again.rows < model.rows
