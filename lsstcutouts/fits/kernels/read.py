"""Reads of local files, any number in one call."""

from numba import int64, types, uint64

from .compiled import compiled, copy_bytes

__all__ = ["read_runs"]

_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uint64, types.uint64, types.int64))
"""The C library's function: it can be called from several threads, and has no position of its own."""


@compiled
def read_runs(files, starts, lengths, addresses, pads, padding):  # type: ignore[no-untyped-def]
    """Read bytes of files into memory.

    Parameters
    ----------
    files
        ``(r,)`` int64 file descriptors.
    starts, lengths
        ``(r,)`` int64 bytes of the file.
    addresses
        ``(r,)`` uint64 where they go.
    pads, padding
        ``(r,)`` int64 how many bytes of the padding, uint8, follow each in memory.

    Returns
    -------
    counts
        ``(r,)`` int64 bytes that were read; fewer than asked for at the end of the file, or after an error.
    """
    counts = lengths.copy()
    for i in range(len(files)):
        done = int64(0)
        while done < lengths[i]:
            count = _pread(
                int64(files[i]), uint64(addresses[i]) + uint64(done), uint64(lengths[i] - done), starts[i] + done
            )
            if count <= 0:
                break
            done += count
        counts[i] = done
        copy_bytes(uint64(addresses[i]) + uint64(lengths[i]), uint64(padding.ctypes.data), pads[i])
    return counts
