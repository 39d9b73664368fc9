"""Sphinx settings; ``DOCS_NOTEBOOKS=off`` builds without executing the notebooks."""

import dataclasses
import os
import re
import textwrap
from importlib.resources import files
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lsstcutouts import __version__
from lsstcutouts.app.cli.verbs import CONFIGS, VERBS, verb_help

project = "lsstcutouts"
author = "The lsstcutouts developers"
copyright = "2026, The lsstcutouts developers"  # noqa: A001 - the name that Sphinx reads
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build", "images", "slurm"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

os.environ.setdefault("OMP_NUM_THREADS", "1")  # notebooks run side by side: threads of torch would wait for each other
nb_execution_mode = os.environ.get("DOCS_NOTEBOOKS", "force")
nb_execution_excludepatterns = ["notebooks/science-platform.ipynb"]  # needs Rubin's servers
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # of a cell, on a machine that is busy
nb_merge_streams = True
nb_output_stderr = "remove"  # what Lightning says about the machine

default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = False
napoleon_use_ivar = True  # as objects of their own they would be there twice: autodoc lists properties

html_theme = "furo"
html_title = "lsstcutouts"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"


class Settings(SphinxDirective):
    """The settings of every verb of the command, and the files of its groups."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each verb and for each group."""
        found = [self._section(f"lsstcutouts {name}", _verb(name)) for name in VERBS]
        groups = sorted((f for f in files(CONFIGS).iterdir() if f.is_dir() and f.name != "__pycache__"), key=str)
        for group in groups:
            parts: list[nodes.Node] = []
            for choice in sorted((f for f in group.iterdir() if f.name.endswith(".yaml")), key=str):
                text = choice.read_text(encoding="utf-8")
                parts.append(nodes.paragraph("", "", nodes.literal("", f"{group.name}={choice.name[:-5]}")))
                parts.append(nodes.literal_block(text, text, language="yaml"))
            found.append(self._section(f"Group {group.name}", parts))
        return found

    def _section(self, title: str, parts: list[nodes.Node]) -> nodes.section:
        name = nodes.make_id(title)
        section = nodes.section("", nodes.title("", title), *parts, ids=[name], names=[name], classes=["settings"])
        self.state.document.note_explicit_target(section)
        return section


def _verb(name: str) -> list[nodes.Node]:
    """Return what `verb_help` says of a verb: text, examples, and a table of its settings."""
    help_of_it = verb_help(name)
    parts = re.fullmatch(
        r".*?: (.*?)\n\n(.*?)\n\nExamples:\n(.*?)\n\nSettings and their defaults:\n(.*?)"
        r"(?:\n\nGroups of settings, chosen as group=name:\n(.*?))?\n\nSettings are written .*",
        help_of_it,
        re.DOTALL,
    )
    summary, details, examples, settings, groups = parts.groups()
    body: list[nodes.Node] = [nodes.paragraph(text := f"{summary[0].upper()}{summary[1:]} {details}", text)]
    for title, block in (("Examples:", examples), ("Groups, chosen as group=name:", groups)):
        if block:
            text = textwrap.dedent(block)
            body += [nodes.paragraph("", title), nodes.literal_block(text, text, language="sh")]
    return [*body, _table(textwrap.dedent(settings))]


def _table(settings: str) -> nodes.table:
    """Return a table of name, default and meaning of lines ``name: default  # meaning``, nested by their indentation."""
    rows, above = [], list[tuple[int, str]]()
    for line in settings.splitlines():
        setting = re.fullmatch(r"( *)(\w+):(?: +(?!#)(.*?))?(?: +# (.*))?", line)
        if setting is None:
            rows.append(["", "", line.strip(" #")])
            continue
        depth = len(setting[1])
        above = [*(one for one in above if one[0] < depth), (depth, setting[2])]
        rows.append(
            [".".join(name for _, name in above), (setting[3] or "").replace("???", "required"), setting[4] or ""]
        )
    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (1, 1, 3)), cols=3)
    head = nodes.row("", *(nodes.entry("", nodes.paragraph(t, t)) for t in ("setting", "default", "meaning")))
    lines = [
        nodes.row(
            "",
            *(
                nodes.entry("", nodes.paragraph("", "", nodes.literal(text, text)) if text else nodes.paragraph())
                for text in row[:2]
            ),
            nodes.entry("", nodes.paragraph(row[2], row[2])),
        )
        for row in rows
    ]
    group += [nodes.thead("", head), nodes.tbody("", *lines)]
    return nodes.table("", group)


def attributes_as_parameters(_app: Sphinx, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Give the fields of a dataclass their types: what its docstring calls attributes are its arguments, too."""
    if what == "class" and dataclasses.is_dataclass(obj) and "Parameters" not in lines and "Attributes" in lines:
        lines[lines.index("Attributes")] = "Parameters"
        lines[lines.index("Parameters") + 1] = "-" * len("Parameters")


def setup(app: Sphinx) -> None:
    """Register the directive of the settings and what is changed in docstrings."""
    app.add_directive("all-settings", Settings)
    app.connect("autodoc-process-docstring", attributes_as_parameters, priority=100)  # before napoleon
