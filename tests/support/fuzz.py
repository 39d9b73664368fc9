"""Coverage-guided fuzzing of the reader of coadd files; not run by pytest.

Needs atheris (``pip install atheris``), which is no dependency of this package::

    python -m tests.support.fuzz --runs 100000            # a corpus in a temporary folder
    python -m tests.support.fuzz --runs 100000 --corpus fuzz-corpus --seed 7
    python -m tests.support.fuzz --plain --runs 20000     # without atheris: mutations alone, no coverage
    python -m tests.support.fuzz --replay crash-1234      # what one file does
    python -m tests.support.fuzz --seed-corpus folder     # only write the undamaged files

Inputs are small files (DP1, DP2, and one of astropy for each way to code pixels) with damage in header cards, tile
tables, tiles, JSON tree or structure. Each is opened and everything in it read. Allowed is a result or an
`LsstCutoutsError`. Findings are any other exception, a crash of the process, more than `SECONDS` for one input, a read
outside the file, and more than `MOST_MEMORY` at once for one input. atheris stops at a finding and leaves the file in
``crash-*`` or ``timeout-*``.
"""

import argparse
import collections
import contextlib
import random
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

SECONDS = 5
MOST_MEMORY = 256 << 20
"""Bytes that an input of at most `LARGEST` bytes may take, by the address space: an allocation beyond it fails."""

LARGEST = 1 << 18

try:
    import atheris
except ImportError:
    atheris = None

if atheris is None:
    from tests.support.mutations import exercise, mutated, seeds
else:
    with atheris.instrument_imports(include=["lsstcutouts.fits", "lsstcutouts.sky.geometry"]):
        from tests.support.mutations import exercise, mutated, seeds


class Target:
    """Runs inputs and counts what comes out."""

    def __init__(self) -> None:
        self.runs, self.outcomes = 0, collections.Counter[str]()
        self.started = time.perf_counter()
        self._highest = 0

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        self.runs += 1
        if self.runs == 64:  # now everything is imported and buffers have their size
            _limit_memory()
            self._highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.outcomes.update(exercise(data, thorough=self.runs % 16 == 0))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._highest) * 1024
        if self._highest and grown > MOST_MEMORY:
            raise MemoryError(f"{grown} bytes more than before")

    def report(self) -> None:
        seconds = time.perf_counter() - self.started
        _say(f"{self.runs} inputs in {seconds:.0f} s, {self.runs / seconds:.0f}/s: {dict(self.outcomes)}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _limit_memory() -> None:
    """Let allocations fail that exceed what is in use by `MOST_MEMORY`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="folder with files that reached new code; kept")
    parser.add_argument("--seed-corpus", type=Path, help="only write the undamaged files here")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--replay", type=Path, help="run this file once")
    arguments = parser.parse_args()
    if arguments.replay:
        _say(str(exercise(arguments.replay.read_bytes())))
        return
    files = seeds()
    if arguments.seed_corpus:
        _write(files, arguments.seed_corpus)
    elif arguments.plain or atheris is None:
        _plain(files, arguments.runs, arguments.seed)
    else:
        with contextlib.ExitStack() as stack:
            corpus = arguments.corpus or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _write(files, corpus)
            _guided(files, corpus, arguments.runs, arguments.seed)


def _write(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _plain(files: dict[str, bytes], runs: int, seed: int) -> None:
    """Damage seeds at random; a finding is left in ``finding-*``."""
    target, rng = Target(), random.Random(seed)
    pool = list(files.values())
    for run in range(runs):
        data = mutated(rng.choice(pool), rng, rng.choice(pool))
        started = time.perf_counter()
        try:
            target(data)
        except Exception:
            _keep(data, run)
            raise
        if time.perf_counter() - started > SECONDS:
            _keep(data, run)
            raise TimeoutError(f"input {run} takes more than {SECONDS} s")
    target.report()


def _keep(data: bytes, run: int) -> None:
    """Leave a finding in the working folder."""
    path = Path(f"finding-{zlib.crc32(data):08x}")
    path.write_bytes(data)
    _say(f"input {run}: {path}")


def _guided(files: dict[str, bytes], corpus: Path, runs: int, seed: int) -> None:
    """Let libFuzzer choose what to damage further, by the code that it reaches."""
    target, pool = Target(), list(files.values())

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.1:
            data = atheris.Mutate(data, max_size)
        return mutated(data, rng, rng.choice(pool))[:max_size]

    def run(data: bytes) -> None:
        target(data)
        if target.runs % 10_000 == 0 or target.runs == runs:
            target.report()

    options = [f"-runs={runs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", f"-max_len={LARGEST}", "-rss_limit_mb=0"]
    options += ["-len_control=0", "-mutate_depth=2", "-print_final_stats=1", "-reload=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
