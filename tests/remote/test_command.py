"""The command with a token that is revoked in the middle of a run: its exit status, its words, and the run that follows."""

from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pyarrow.parquet as pq
import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform, Published

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

SECRETS = ("Signature", "AWSAccessKeyId", "Bearer")


class Revoke(lightning.Callback):
    """Has the token revoked when the second epoch begins, or the predictions; the URLs that are signed are refused, too."""

    platform: Platform | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, _: Any) -> None:
        if trainer.current_epoch == 1:
            self._revoke()

    def on_predict_start(self, *_: Any) -> None:
        self._revoke()

    def _revoke(self) -> None:
        forget_bytes()
        if self.platform is not None:
            self.platform.set(token_revoked=True, fault="expired")


@pytest.mark.slow
def test_a_training_and_predictions_with_a_revoked_token(
    platform: Platform,
    remote_dp2: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Revoke, "platform", platform)
    data = [
        f"data.repo='{remote_dp2.url}'",
        f"data.collections={remote_dp2.collections}",
        f"data.catalog='{remote_dp2.local.truth}'",
        "data=custom",
    ]
    settings = ["data.bands=gri", "data.size=32", "data.batch_size=16", "data.cache_bytes=1 MB", "picture=false"]
    revoke = f"+callbacks.revoke._target_={Revoke.__module__}.Revoke"
    train = ["train", *data, *settings, f"output='{tmp_path}'", "trainer.max_epochs=2", "trainer.logger=false"]

    def refused(arguments: list[str], again: str) -> None:
        capfd.readouterr()
        assert main([*arguments, revoke]) == 1
        assert (tmp_path / "last.ckpt").exists()
        text = "".join(capfd.readouterr())
        assert "set BUTLER_RUBIN_ACCESS_TOKEN to a new token of 127.0.0.1" in text
        assert again in text
        assert not [word for word in (platform.token, *SECRETS, "Traceback") if word in text]
        platform.reset()
        monkeypatch.setattr(Revoke, "platform", None)  # the new token lasts
        assert main([*arguments, revoke]) == 0
        monkeypatch.setattr(Revoke, "platform", platform)

    refused([*train, "resume=auto"], "training resumes from its last checkpoint")
    assert (tmp_path / "model.ckpt").exists()
    table = tmp_path / "scores.parquet"
    predict = ["predict", f"checkpoint='{tmp_path / 'model.ckpt'}'", f"output='{table}'", "picture=false"]
    refused(predict, "then run the same command again")
    assert len(pq.read_table(table)) == len(pq.read_table(remote_dp2.local.truth))
