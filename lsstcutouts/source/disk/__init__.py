"""A disk cache of byte ranges of remote files, shared by the processes of a node without locks between them.

Each process appends to segments of its own, reads those of all processes, and tells the others what it is fetching
(`claims`). A segment is two files: ``NAME.seg`` holds bytes of remote files, ``NAME.idx`` a record of fixed size for each
piece of at most 32 KiB, appended after its bytes. A process that is killed leaves at most bytes without a record, or an
incomplete last record, which readers ignore. Whole segments are removed, the oldest first; whoever reads or writes a removed
one treats it as missing.
"""
