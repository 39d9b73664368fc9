"""The order of an epoch, its batches and shards: arrays in, arrays out.

Nothing here reads a clock, a machine's size or global random state: each result is a pure function of its
arguments, so that every rank, worker and resumed run computes the same one.
"""
