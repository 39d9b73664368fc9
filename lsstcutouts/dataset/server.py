"""Imported first by the fork server of worker processes: what is imported after it must start no threads there.

A process with threads must not fork. Arrow's allocator starts one when it is loaded, unless it is told not to.
"""

import os

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
