"""Reads bytes of local, remote and gzipped files, with retries; writes files atomically."""
