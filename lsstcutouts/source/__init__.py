"""Bytes of files: local, remote, gzipped; retries, locks, and files that are written whole or not at all."""
