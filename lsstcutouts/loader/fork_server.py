"""Imported first by the fork server of worker processes, which inherit what it has loaded.

A process with threads must not fork. Arrow's allocator starts one when it is loaded, unless an environment variable forbids it.
"""

import os

from ..fits.kernels import load_kernels

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
load_kernels()  # most of a second for each worker process otherwise
