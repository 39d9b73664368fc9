"""Hydra configurations: trees of constructor calls, one comment a line."""
