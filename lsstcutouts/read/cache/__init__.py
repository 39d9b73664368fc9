"""Decoded tiles kept in memory, and how much memory there is for them."""
