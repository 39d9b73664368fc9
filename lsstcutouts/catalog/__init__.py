"""Reads and checks the catalog of targets: ids, sky positions and extra columns."""
