"""The files of plans: their indices, and those that are open."""

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from multiprocessing.context import get_spawning_popen

from ..errors import CorruptFileError, LsstCutoutsError, ReadError
from ..errors.error_classes import fresh
from ..fits.coadd import Coadd, checked_coadd
from ..fits.index import FileIndex
from ..fits.layout import PlaneLayout
from ..plan.cutout_plan import CutoutPlan
from ..sky.skymap import check_projection
from ..source.access import access_variables, trusted_origins
from ..source.byte_source import ByteSource, open_source
from ..source.gzipped import inflate
from ..source.locks import ForkLock
from ..source.remote import HttpSource, WithoutWaiting
from ..source.web.byte_parts import NotHereError, Part, Rank
from ..source.web.process import forget_bytes
from .cache.tile_cache import TileCache
from .masks import mask_hdus, places_of
from .options import ReaderOptions

__all__ = ["OpenFiles", "located", "place_of"]

_OPEN_FILES = 192
"""Number of files kept open: below the usual limit of 1024, above what sixteen blocks of six bands need."""

_PART = 8
"""Indices take at most this part of the cache's budget."""

type _Key = tuple[str, str]  # dataset id and URI: a signed URL expires
type _Indices = OrderedDict[tuple[Hashable, ...], FileIndex]


class OpenFiles:
    """Indices of files, and open files. A file is indexed at first use and checked against its tract.

    Indices count against the budget of the cache; the least recently used are dropped, and of open files too. A file whose
    index is known is not opened before bytes of it are needed. Pickles empty; may be shared by readers of several plans and
    by threads.

    Parameters
    ----------
    cache
        Has the budget.
    """

    def __init__(self, cache: TileCache) -> None:
        self._cache = cache
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = ForkLock()
        self._open: OrderedDict[_Key, ByteSource] = OrderedDict()
        self._indices: _Indices = OrderedDict()
        self._held = 0
        self._finalizer = weakref.finalize(self, _release_all, self._cache, self._indices)
        self._finalizer.atexit = False

    def __reduce__(self) -> tuple[Callable[..., "OpenFiles"], tuple[TileCache, tuple[str, ...], dict[str, str]]]:
        # A worker process may send the token where this process may, and has its settings; no other pickle has a token.
        return _unpickled, (self._cache, trusted_origins(), access_variables() if get_spawning_popen() else {})

    def index(
        self, plan: CutoutPlan, file: int, tract: int, options: ReaderOptions, rank: Rank | None = None
    ) -> FileIndex:
        """Return the index of the file in row ``file`` of the plan's files, which must lie on ``tract``.

        Parameters
        ----------
        plan, file, tract, options
            The file, and what is read of it.
        rank
            If given, nothing is waited for: bytes of a file on a web server are asked for, with this rank.

        Raises
        ------
        NotHereError
            If bytes have to arrive first; another call gets further.
        ReadError
            If the file cannot be opened. An error of one plane is in the index.
        GeometryMismatchError
            If its pixel grid is not the tract's.
        """
        if known := self.known(plan, [file], options):
            return known[file]
        # Opened outside the lock; when two threads open the same file the second handle is dropped.
        place = plan.files.dataset_id[file], plan.files.uri[file]
        source = _opened(plan, file)
        reading: ByteSource = source
        if rank is not None and isinstance(source, HttpSource) and not source.uri.endswith(".gz"):
            reading = WithoutWaiting(source, rank, end=options.sources.keys() != {"image"} or "psf" in options.planes)
        coadd = _coadd_of(reading, plan, file, tract)
        index = _index_of(coadd, options)
        self._keep(place, coadd.source if reading is source else source)
        if not index.transient:
            self._remember((plan.files.dataset_id[file], plan.files.uri[file], *_needs(options)), index)
        return index

    def known(self, plan: CutoutPlan, files: Iterable[int], options: ReaderOptions) -> dict[int, FileIndex]:
        """Return the indices of those of the files that are in memory."""
        if self._process != os.getpid():
            self._finalizer.detach()
            self._start()  # the parent process still uses its handles and connections
        ids, uris, needs, found = plan.files.dataset_id, plan.files.uri, _needs(options), dict[int, FileIndex]()
        with self._lock:
            for file in files:
                key = ids[file], uris[file], *needs
                if (index := self._indices.get(key)) is not None:
                    self._indices.move_to_end(key)
                    found[file] = index
        return found

    def source(self, plan: CutoutPlan, file: int, index: FileIndex) -> ByteSource:
        """Return the open file of an index.

        Raises
        ------
        ReadError
            If it cannot be opened any more, or was replaced.
        """
        place = plan.files.dataset_id[file], plan.files.uri[file]
        if (known := self._known_source(place)) is not None:
            return known
        source = _opened(plan, file)
        if source.stamp != index.stamp:
            source.close()
            with self._lock:
                for key in [key for key in self._indices if key[:2] == place]:
                    self._drop(key)
            raise CorruptFileError(
                f"{index.uri} was replaced while it was in use; start again, so that its headers are read again"
            )
        return self._keep(place, inflate(source) if index.gzipped else source)

    def close(self) -> None:
        """Drop every open file; it closes when no other thread reads it any more. Indices stay.

        Takes no lock: the garbage collector may call this in the middle of `index`.
        """
        self._open = OrderedDict()

    def forget(self) -> None:
        """Drop every open file and every index, and bytes of files on web servers."""
        self.close()
        forget_bytes()
        with self._lock:
            for key in list(self._indices):
                self._drop(key)

    @property
    def nbytes(self) -> int:
        """Memory of the indices, which is reserved in the cache, bytes."""
        return self._held

    def _known_source(self, place: _Key) -> ByteSource | None:
        with self._lock:
            source = self._open.get(place)
            if source is not None:
                self._open.move_to_end(place)
            return source

    def _drop(self, key: tuple[Hashable, ...]) -> None:
        """Forget an index; the lock must be held."""
        nbytes = self._indices.pop(key).nbytes
        self._held -= nbytes
        self._cache.release(nbytes)

    def _keep(self, place: _Key, source: ByteSource) -> ByteSource:
        known = self._open
        with self._lock:
            source = known.setdefault(place, source)
            while len(known) > _OPEN_FILES:
                # Not closed: another thread may be reading. The handle closes with its last reference.
                known.popitem(last=False)
        return source

    def _remember(self, key: tuple[Hashable, ...], index: FileIndex) -> None:
        most, nbytes = self._cache.max_bytes // _PART, index.nbytes
        with self._lock:
            if key in self._indices or nbytes > most:
                return
            self._indices[key] = index
            self._held += nbytes
            while self._held > most:
                self._drop(next(iter(self._indices)))
        self._cache.reserve(nbytes)


def _needs(options: ReaderOptions) -> tuple[Hashable, ...]:
    """Return what an index must have for a reader with these options."""
    return *options.sources, "psf" in options.planes, options.mask_bits, options.flux_unit


def _release_all(cache: TileCache, indices: _Indices) -> None:
    cache.release(sum(index.nbytes for index in indices.values()))


def _index_of(coadd: Coadd, options: ReaderOptions) -> FileIndex:
    """Read from the headers of a file all that a reader with these options needs of it."""
    layouts: dict[str, PlaneLayout] = {}
    errors: dict[str, LsstCutoutsError] = {}
    complete, awaited = True, list[Part]()
    mask_bits: list[tuple[str, int] | None] = []
    kernels, scale = None, 1.0
    for plane in options.sources:
        try:
            if plane == "mask":
                mask_bits = places_of(coadd, options.mask_bits)
            layouts |= {name: coadd.layout(name) for name in (mask_hdus(mask_bits) if plane == "mask" else [plane])}
            if plane != "mask" and options.flux_unit == "nJy":
                scale = coadd.flux_scale
        except LsstCutoutsError as error:
            errors[plane] = fresh(error)
        except NotHereError as error:
            complete = False
            awaited += error.parts  # those of the other planes are asked for at the same time
    if "psf" in options.planes:
        try:
            kernels = coadd.kernels
        except LsstCutoutsError as error:
            errors["psf"] = fresh(error)
        except NotHereError as error:
            complete = False
            awaited += error.parts
    if not complete:  # nothing is awaited if another process has put the bytes into the disk cache meanwhile
        raise NotHereError(awaited)
    return FileIndex(
        coadd.uri, coadd.stamp, coadd.gzipped, coadd.bbox, coadd.projection, layouts, errors, mask_bits, scale, kernels
    )


def place_of(plan: CutoutPlan, file: int) -> tuple[int, int, str]:
    """Return tract, patch and band of a file."""
    row, band = plan.patches.row_and_band[file].tolist()
    return int(plan.patches.tract[row]), int(plan.patches.patch[row]), plan.bands[band]


def located(error: ReadError, plan: CutoutPlan, file: int) -> ReadError:
    """Return the error with the tract, patch and band of its coadd."""
    tract, patch, band = place_of(plan, file)
    todo = 'restore the file, or continue without it: on_read_error="mask" or "skip"'
    return type(error)(f"{error} (tract {tract}, patch {patch}, band {band} of {plan.repo!r}); {todo}")


def _unpickled(cache: TileCache, origins: tuple[str, ...], variables: dict[str, str]) -> OpenFiles:
    trusted_origins(origins)
    os.environ.update(variables)
    return OpenFiles(cache)


def _opened(plan: CutoutPlan, file: int) -> ByteSource:
    files = plan.files
    return open_source(files.uri[file], size=files.size[file], dataset_id=files.dataset_id[file], others=files.uri)


def _coadd_of(source: ByteSource, plan: CutoutPlan, file: int, tract: int) -> Coadd:
    """Return the coadd in an open file, checked against its tract; the file is closed if it does not fit."""
    try:
        coadd = checked_coadd(source, plan.files.size[file])
        _check_identity(coadd, plan, file)
        _, patch, band = place_of(plan, file)
        what, whose = f"{coadd.uri} (patch {patch}, band {band})", f"tract {tract} of skymap {plan.skymap!r}"
        check_projection(coadd.projection, plan.projections[tract], coadd.bbox, what, whose)
    except LsstCutoutsError:
        source.close()
        raise
    return coadd


def _check_identity(coadd: Coadd, plan: CutoutPlan, file: int) -> None:
    """Raise `CorruptFileError` if the file belongs to another coadd, by its header or by its position on the tract."""
    row, band = plan.patches.row_and_band[file].tolist()
    wanted = {"tract": str(plan.patches.tract[row]), "patch": str(plan.patches.patch[row]), "band": plan.bands[band]}
    for name, value in wanted.items():
        if (says := coadd.data_id.get(name, value)) != value:
            raise CorruptFileError(
                f"{coadd.uri} is the file of another coadd: its header has {name} {says} instead of {value}; transfer the file again"
            )
    if (inner := plan.patches.inner_box(row)).intersection(coadd.bbox).is_empty:
        raise CorruptFileError(
            f"{coadd.uri} is the file of another coadd: its box {coadd.bbox} does not overlap the inner box {inner} of patch "
            f"{wanted['patch']}; transfer the file again"
        )
