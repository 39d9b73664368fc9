"""Byte ranges of files on web servers: one thread of a process, which sends all its requests at once."""
