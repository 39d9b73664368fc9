"""The page docs/foundation-models.md: its program and command run as they stand, on a smaller sky."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from lsstcutouts.app.cli import main

from ..support.pages import blocks, commands

PAGE = "docs/foundation-models.md"
SKY = ["cells=[3,4]", "cell=[60,75]", "grid=[4,5]", "targets=60", "bands=ugrizy"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning, about a sky as small as this one
def test_the_page_of_foundation_models_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(blocks(PAGE))
    (training,), (simulation, program) = (commands(one) for one in found if one.language in {"sh", ""})
    assert main([*simulation[1:], *SKY]) == 0
    (probe,) = (one for one in found if one.file == program[1])
    # On so small a sky all boxes share pixels.
    text = probe.text.replace('splits={"train": 0.5, "val": 0.5}', "splits=kept")
    kept = "from lsstcutouts import SplitOptions\nkept = SplitOptions({'train': 0.5, 'val': 0.5}, leaks='warn')\n"
    Path(program[1]).write_text(kept + text)
    runpy.run_path(program[1])
    shown = re.findall(r"^(To\w+), stand-in encoder: AUC ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in shown] == ["ToAion", "ToZoobot", "ToAstroPT"]
    assert all(0 <= float(area) <= 1 for _, area in shown)
    small = [*(f"simulation.config.{one}" for one in SKY), "data.splits.leaks=warn", "data.batch_size=8", "trainer=cpu"]
    assert main([*training[1:], *small, "trainer.max_epochs=1", "data.cache_bytes=100 MB"]) == 0, shlex.join(training)
    assert Path("outputs/train/model.ckpt").is_file()
