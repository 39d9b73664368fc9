"""Time that tests do not wait for."""

from lsstcutouts.source.retry import Retry

__all__ = ["FakeClock", "patient"]


class FakeClock:
    """A clock that only moves when someone waits or works."""

    def __init__(self, share: float = 1.0) -> None:
        self.time, self.share = 100.0, share
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def draw(self) -> float:
        return self.share


def patient() -> Retry:
    """Return a retry that does not wait."""
    return Retry(clock=FakeClock())
