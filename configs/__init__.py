"""Hydra configurations: trees of constructor calls, with a comment on each line."""
