"""How is a library of this machine called from Python, with as little as possible in between?"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parc_hw.artifact.cache import cached
from parc_hw.artifact.csource import ALIGNMENT_BYTES, template_text
from parc_hw.artifact.toolchain import find_toolchain
from parc_hw.device import Device
from parc_hw.errors import BundleError

__all__ = ["Bound", "HostLibrary", "aligned_floats"]

_Array = np.ndarray[Any, Any]
_ON_LAYER = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t
)


class _Tensor(ctypes.Structure):
    """NAME_tensor."""

    _fields_ = (("data", ctypes.c_void_p), ("dims", ctypes.c_int32 * 4))


class _Context(ctypes.Structure):
    """NAME_ctx."""

    _fields_ = (
        ("threads", ctypes.c_int),
        ("parallel_for", ctypes.c_void_p),
        ("on_layer", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
    )


def aligned_bytes(size_bytes: int) -> _Array:
    """Zeroed uint8 memory that begins where every kernel may want it to."""
    memory = np.zeros(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size_bytes]


def aligned_floats(shape: Sequence[int]) -> _Array:
    """A zeroed float32 array of this shape, aligned as a library needs it."""
    size = int(np.prod(shape, dtype=np.int64))
    return aligned_bytes(4 * size).view(np.float32).reshape(shape)


@functools.cache
def _pool_library(device: Device) -> ctypes.CDLL:
    """The example's thread pool as a library.

    Every call of a Python function from C threads would take the interpreter's lock, so the
    parallel_for is C too. It knows no bundle: one file in the user's cache serves all.
    """
    text = template_text("parallel_pthread.c")
    tools = find_toolchain(device)

    def make(path: Path) -> None:
        code = path.with_name("pool.o")
        tools.compile_object(text, code)
        tools.link_shared([code], path, threads=True)

    key = hashlib.sha256((text + tools.version).encode()).hexdigest()[:24]
    library = ctypes.CDLL(str(cached("pool", f"libparc_pool-{key}.so", make)))
    library.parc_pool_start.restype = ctypes.c_void_p
    library.parc_pool_start.argtypes = (ctypes.c_int,)
    library.parc_pool_stop.restype = None
    library.parc_pool_stop.argtypes = (ctypes.c_void_p,)
    return library


class Bound:
    """A library with its own context, workspace and buffers of given shapes: one C call to run.

    Write to `inputs`, call, read `outputs`; no shape is checked and nothing is copied. A call
    returns the library's status, 0 unless something is wrong. One call at a time.
    """

    def __init__(
        self,
        library: HostLibrary,
        *,
        inputs: Sequence[tuple[int, ...]],
        outputs: Sequence[tuple[int, ...]],
        threads: int,
    ) -> None:
        self.inputs = tuple(map(aligned_floats, inputs))
        self.outputs = tuple(map(aligned_floats, outputs))
        self._library = library  # keeps the weights
        self.context = _Context()
        workspace = aligned_bytes(library.workspace_bytes(threads))
        status = library.init(
            ctypes.byref(self.context),
            library.weights.ctypes.data,
            library.weights.size,
            workspace.ctypes.data,
            workspace.size,
        )
        library.check(status)
        self.context.threads = threads
        if threads > 1:
            pools = _pool_library(library.device)
            pool = pools.parc_pool_start(threads)
            if not pool:
                raise BundleError(f"{threads} threads could not be started; ask for fewer.")
            weakref.finalize(self, pools.parc_pool_stop, pool)
            self.context.user = pool
            self.context.parallel_for = ctypes.cast(pools.parc_pool_for, ctypes.c_void_p)
        tensors = [
            (_Tensor * len(arrays))(
                *(_Tensor(a.ctypes.data, (*a.shape, *(1,) * (4 - a.ndim))) for a in arrays)
            )
            for arrays in (self.inputs, self.outputs)
        ]
        self._memory = (workspace, tensors)
        self.call: Callable[[], int] = functools.partial(
            library.run, ctypes.byref(self.context), *tensors
        )

    def __call__(self) -> int:
        """Run the library on `inputs` into `outputs`."""
        return self.call()

    def on_layer(self, function: Callable[[int, _Array], None] | None) -> None:
        """Have `function(index, values)` called after each layer; the values are a copy."""
        if function is None:
            self.context.on_layer = None
            return

        def receive(_user: int, index: int, data: int, size_bytes: int) -> None:
            values = np.empty(size_bytes // 4, np.float32)
            ctypes.memmove(values.ctypes.data, data, size_bytes)
            function(index, values)

        self._call_after_layers(receive)

    def after_layer(self, function: Callable[[int], None]) -> None:
        """As `on_layer`, but `function(index)`, without the values: for timing."""
        self._call_after_layers(lambda _user, index, _data, _size: function(index))

    def _call_after_layers(self, receive: Callable[[int, int, int, int], None]) -> None:
        self._receive = _ON_LAYER(receive)  # C keeps a bare pointer to it
        self.context.on_layer = ctypes.cast(self._receive, ctypes.c_void_p)


class HostLibrary:
    """The shared library of a bundle, loaded, with its weights in memory."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        device: Device,
        weights: Path,
    ) -> None:
        self.device = device
        try:
            library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            raise BundleError(
                f"{path} cannot be loaded ({error}); compile the bundle again for this machine."
            ) from None
        self.weights = aligned_bytes(weights.stat().st_size)
        with weights.open("rb") as file:
            file.readinto(self.weights.data)
        self.run = library[f"{name}_run"]
        self.init = library[f"{name}_init"]
        self.init.argtypes = (
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_size_t,
        )
        self.workspace_bytes = library[f"{name}_workspace_bytes"]
        self.workspace_bytes.restype = ctypes.c_size_t
        self._text = library[f"{name}_status_text"]
        self._text.restype = ctypes.c_char_p

    def check(self, status: int) -> None:
        """Raise BundleError unless `status` is NAME_OK."""
        if status:
            raise BundleError(f"the library refuses: {self._text(status).decode()}.")
