"""llama.cpp's encoders (ggml_quantize_chunk of the library that llama-cpp-python brings), without the rest of it."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pronk.tensors.types import TensorType

# Types that llama.cpp does not encode without an importance matrix.
NEEDS_IMPORTANCE = ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M")
_FLOATS = ctypes.POINTER(ctypes.c_float)


@cache
def _library() -> ctypes.CDLL | None:
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "lib"
    files = sorted(p for end in ("so*", "dylib", "dll") for p in folder.glob(f"*ggml-base.{end}"))
    if not files:
        return None
    library = ctypes.CDLL(str(files[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, _FLOATS, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _FLOATS,
    ]  # fmt: skip
    return library


def available() -> bool:
    return _library() is not None


def encode(
    values: NDArray[np.float32], kind: TensorType, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """values (R, C) -> flat bytes."""
    library = _library()
    assert library is not None
    values = np.ascontiguousarray(values)
    out = np.empty(kind.nbytes(values.shape), np.uint8)
    weights = None if importance is None else importance.ctypes.data_as(_FLOATS)
    written = library.ggml_quantize_chunk(
        kind.id, values.ctypes.data_as(_FLOATS), out.ctypes.data, 0, *values.shape, weights
    )
    assert written == len(out)
    return out
