"""Sphinx settings."""

project = "lsstcutouts"
author = "The lsstcutouts developers"
copyright = "2026, The lsstcutouts developers"  # noqa: A001 - the name that Sphinx reads
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "description"
napoleon_google_docstring = False
# The README's links are those of the checkout.
suppress_warnings = ["myst.xref_missing"]
