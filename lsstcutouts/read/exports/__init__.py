"""Cutouts that `lsstcutouts.export` has written: their description, plan and pixels."""
