"""Figures in notebooks."""

import pickle
import subprocess
import sys

from lsstcutouts.plan.notebook_figure import notebook_figure

PROGRAM = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from lsstcutouts.plan.notebook_figure import notebook_figure
if {pyplot}:
    from matplotlib import pyplot
data, _ = InteractiveShell.instance().display_formatter.format(notebook_figure(figsize=(2, 1)))
print(data["image/png"][:4] == b"\\x89PNG", "matplotlib.pyplot" in sys.modules)
"""


def shown(*, pyplot: bool) -> str:
    program = PROGRAM.format(pyplot=pyplot)
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_a_figure_is_displayed_with_and_without_pyplot() -> None:
    assert shown(pyplot=False) == "True False"
    assert shown(pyplot=True) == "True True"


def test_a_figure_is_pickled() -> None:
    figure = pickle.loads(pickle.dumps(notebook_figure(figsize=(2, 1))))
    assert tuple(figure.get_size_inches()) == (2, 1)
