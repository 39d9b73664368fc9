"""What another thread does, waited for so that Ctrl-C at any moment leaves no thread hanging."""

import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Promise", "wait"]


class Promise[T]:
    """What comes of the work of another thread; as `concurrent.futures.Future`, but without a lock.

    Ctrl-C raises KeyboardInterrupt in the main thread, also inside ``Condition.__enter__``, between the line that takes the lock
    and the block that would release it: then the thread that does the work hangs where it tells of the result. All that waits
    with a `threading.Condition` has this fault: futures, events, semaphores and ``queue.Queue``. Here each change is one call
    of a list or of a ``SimpleQueue``, which is done or not. The garbage collector may run anywhere in it, too.
    """

    __slots__ = ("__weakref__", "_callbacks", "_done", "_error", "_result")

    _result: T

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Promise[T]], object]] = []
        self._done = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether the work is done, or has failed."""
        return self._done

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, and return it; what the work raised is raised here.

        Raises
        ------
        TimeoutError
            If it is not there after so many seconds.
        """
        if not self._done and not wait([self], timeout):
            raise TimeoutError
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the error refers to this frame
        return self._result

    def set_result(self, result: T) -> None:
        """Hand over the result, and call who waits for it."""
        self._result = result
        self._finish()

    def set_exception(self, error: BaseException) -> None:
        """Hand over why there is no result, and call who waits for it."""
        self._error = error
        self._finish()

    def add_done_callback(self, callback: "Callable[[Promise[T]], object]") -> None:
        """Have a function called once when this is done: by the thread that does the work, or here if it is done by now."""
        self._callbacks.append(callback)
        if self._done and self.remove_done_callback(callback):
            callback(self)

    def remove_done_callback(self, callback: "Callable[[Promise[T]], object]") -> bool:
        """Have a function not called any more; return whether it was still to be called."""
        try:
            self._callbacks.remove(callback)
        except ValueError:
            return False
        return True

    def _finish(self) -> None:
        self._done = True
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:  # another thread has removed it just now
                return
            callback(self)


def wait(promises: Iterable[Promise[Any]], timeout: float | None = None) -> bool:
    """Wait until all promises are done; return False if that takes longer than so many seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    arrived: SimpleQueue[Promise[Any]] = SimpleQueue()
    note, left = arrived.put, [one for one in promises if not one.done()]
    try:
        for one in left:
            one.add_done_callback(note)
        for _ in left:
            arrived.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
    except Empty:
        return False
    finally:
        for one in left:
            one.remove_done_callback(note)
    return True
