"""Ends a process of the platform when the test process that started it ends, in whatever way."""

import os
import sys
import threading
import time

__all__ = ["end_with_parent"]

CHECK_SECONDS = 1.0


def end_with_parent() -> None:
    """End this process when its standard input is closed, or when its parent is another than now."""
    parent = os.getppid()

    def read() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(0)

    def watch() -> None:
        # A process that was forked from the parent may hold the other end of the pipe open.
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        os._exit(0)

    for target in (read, watch):
        threading.Thread(target=target, daemon=True).start()
