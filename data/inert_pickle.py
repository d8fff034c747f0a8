"""Read the values of a pickle without running anything that it names."""

import io
import pickle
from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Int64


class Inert:
    """Placeholder for an object of a class that is not imported: its arguments and state, unused."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any):
        """Keep the arguments; call nothing."""
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # a pickle may use one as a key
        return id(self)


class _Unpickler(pickle.Unpickler):
    def __init__(self, payload: bytes, modules: Collection[str]) -> None:
        super().__init__(io.BytesIO(payload))
        self.modules = modules

    def find_class(self, module_name: str, global_name: str) -> type:  # every global of a pickle comes through here
        if module_name not in self.modules:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not data")
        return type(global_name, (Inert,), {"__module__": module_name})


def loads(payload: bytes, *, modules: Collection[str]) -> Any:
    """Values of a pickle; objects of the named modules become `Inert`, and nothing is imported or called.

    Raises:
        pickle.UnpicklingError: it names anything else, or is damaged.
    """
    try:
        return _Unpickler(payload, modules).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may raise anything: EOFError, KeyError, ValueError, MemoryError ...
        raise pickle.UnpicklingError(f"it is damaged ({type(error).__name__}: {error})") from error


NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")  # modules by which numpy pickles its arrays


def integers(value: Any) -> Int64[np.ndarray, "..."]:
    """Whole numbers as an array: a Python int or list of them, or numpy's integer array or scalar read as `Inert`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Inert) and isinstance(value.state, tuple) and len(value.state) == 5:  # of an ndarray
        _, shape, dtype, fortran, raw = value.state
        return _decoded(dtype, raw).reshape(shape, order="F" if fortran else "C")
    if isinstance(value, Inert) and len(value.args) == 2:  # of a numpy scalar
        return _decoded(*value.args)[:1].reshape(())
    array = np.asarray(value)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{value!r} is not whole numbers")
    return array.astype(np.int64)


def _decoded(dtype: Any, raw: Any) -> np.ndarray:
    if not isinstance(dtype, Inert) or not isinstance(raw, bytes):
        raise ValueError("not an array of plain numbers")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    kind = np.dtype(str(dtype.args[0])).newbyteorder("<" if order == "|" else order)
    if kind.kind not in "iub":
        raise ValueError(f"numbers of type {kind} are not whole")
    return np.frombuffer(raw, kind).astype(np.int64)
