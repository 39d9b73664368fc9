"""What limits, and which setting to change: figures in, sentences out."""

from collections.abc import Sequence

from .entries import Entry, Profile, find, ratio

__all__ = ["advice"]

_MUCH, _SOME, _LITTLE = 0.5, 0.25, 0.1
_AGAIN = 1.1
"""Decodes a distinct unit above which the cache is too small."""

_SLOWER = 0.95
"""Below this, two threads are slower than one and not only as fast."""

_SPEEDUP = 1.4
"""What a second thread brings at least where it does bring something."""


def advice(
    entries: Sequence[Entry], profiles: Sequence[Profile], cores: int, waiting: float | None = None
) -> list[str]:
    """Return sentences that say what limits each scene and which setting to change.

    Parameters
    ----------
    entries, profiles
        Of one run.
    cores
        Cores that the process may use.
    waiting
        Share of the step time that a training loop waits for data, where it was measured.
    """
    loaders = [one for one in entries if one.way == "loader"]
    # Other orders limit in the same way; hearing it twice helps nobody.
    orders = {one.order for one in loaders[:1]}
    chosen = [profile for profile in profiles if profile.entry.order in orders]
    found = [_of_profile(profile, cores) for profile in chosen]
    found += [_of_cache(profile) for profile in profiles]
    found += [_of_threads(one, entries) for one in loaders if one.threads > 1 and one.order in orders]
    found += [_of_workers(one, entries) for one in loaders if one.workers > 0 and one.order in orders]
    found.append(_of_waiting(waiting))
    return list(dict.fromkeys(text for text in found if text))


def _of_profile(profile: Profile, cores: int) -> str:
    """Say which stage takes most of a pass."""
    stages = {stage: share for stage in profile.seconds if (share := profile.share(stage)) > 0}
    if not stages:
        return ""
    threads = profile.entry.threads
    stage = max(stages, key=lambda name: stages[name])
    share = stages[stage]
    if share < _SOME:
        return ""
    where, part = _where(profile.entry), f"{share:.0%} of the thread time"
    told = {
        "locate": f"opening files takes {part}: more targets a file, or more threads (threads=), help",
        "read": f"reading bytes takes {part}: a faster disk or nearer files help, and more threads (threads=) overlap it",
        "decode": f"decoding takes {part}: " + _of_decoding(threads, cores),
        "assemble": f"copying pixels takes {part}: fewer bands or planes or a smaller size= help, little else does",
        "collate": f"making tensors takes {part}: larger batches (batch_size=) help",
        "hand-over": f"the loop waits {part} for what no thread works at: larger batches (batch_size=) help",
        "device": f"the device takes {part}: the data wait for it, and not the other way round",
    }
    return f"{where}: {told[stage]}" if stage in told else ""


def _of_decoding(threads: int, cores: int) -> str:
    if threads < cores:
        return f"more threads help (threads={cores}; this machine has {cores} cores)"
    return "every core decodes already; only more cores, or tiles kept for the next epoch (cache_bytes=), help"


def _of_cache(profile: Profile) -> str:
    """Say whether units were decoded more than once in a pass."""
    times = profile.misses / profile.distinct if profile.distinct else 0.0
    warm = profile.entry.cache == "warm"
    if not (times > _AGAIN or (warm and times > _LITTLE and profile.evictions)):
        return ""
    return (
        f"{_where(profile.entry)}: the working set is larger than the cache, each tile is decoded {times:.1f} times a pass: a "
        "larger cache_bytes= or a smaller shuffle_width= helps"
    )


def _of_threads(entry: Entry, entries: Sequence[Entry]) -> str:
    """Say so where more threads bring little."""
    one = find(
        entries, "loader", scene=entry.scene, cache=entry.cache, order=entry.order, threads=1, workers=entry.workers
    )
    if one is None or entry.median / one.median >= _SPEEDUP:
        return ""
    times = entry.median / one.median
    where = f"{_scene(entry)}, {entry.cache}, {entry.order}"
    bare = [find(entries, "bare decode", scene=entry.scene, threads=n) for n in (entry.threads, 1)]
    alone = ratio(*bare)
    if alone is not None and alone < _SPEEDUP:
        return (
            f"{where}: {entry.threads} threads bring {times:.2f} times the speed of one, and decoding alone {alone:.2f} "
            "times: the machine has no more cores to give now; close other programs and measure again"
        )
    if times < _SLOWER:
        return f"{where}: {entry.threads} threads are slower than one ({times:.2f} times): threads=1"
    return f"{where}: {entry.threads} threads bring only {times:.2f} times the speed of one; something else limits"


def _of_workers(entry: Entry, entries: Sequence[Entry]) -> str:
    """Compare worker processes with the best that threads alone give."""
    same = [
        e
        for e in entries
        if (e.way, e.scene, e.cache, e.order, e.workers) == ("loader", entry.scene, entry.cache, entry.order, 0)
    ]
    best = max(same, key=lambda e: e.median, default=None)
    if best is None:
        return ""
    where = f"{_scene(entry)}, {entry.cache}, {entry.order}"
    rates = f"{entry.median:,.0f} against {best.median:,.0f} cutouts/s"
    many = f"{entry.workers} worker process{'es' * (entry.workers > 1)}"
    if entry.median < best.median:
        return f"{where}: {many} cost more than they bring ({rates}): num_workers=0"
    return f"{where}: {many} bring more than threads alone ({rates}): num_workers={entry.workers}"


def _of_waiting(waiting: float | None) -> str:
    if waiting is None:
        return ""
    if waiting < 0.05:
        return f"a training with the demo's network waits for data in {waiting:.1%} of its time: the model limits"
    return (
        f"a training with the demo's network waits for data in {waiting:.0%} of its time: more threads (threads=), or a "
        "second epoch from the cache (cache_bytes=), help"
    )


def _where(entry: Entry) -> str:
    return f"{_scene(entry)}, {entry.label}"


def _scene(entry: Entry) -> str:
    planes = "" if entry.planes == "image" else f", {entry.planes} planes"
    return f"{entry.release} {entry.density}, {entry.size} px{planes}"
