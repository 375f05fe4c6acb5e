"""llama.cpp's own quantizer, through llama-cpp-python."""

from __future__ import annotations

import ctypes
from pathlib import Path

from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.quantize.importance import ImportanceMatrix


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level: int, text: bytes, user: object) -> None:
    """A line a tensor would drown the table."""


def llama_cpp_quantize(
    source: Checkpoint, path: Path, mix: str, matrix: ImportanceMatrix | None, threads: int = 2
) -> None:
    """`source` is a GGUF file. Exits where llama.cpp refuses the mix."""
    import llama_cpp.llama_cpp as peer

    peer.llama_log_set(_silent, None)
    params = peer.llama_model_quantize_default_params()
    params.ftype = getattr(peer, f"LLAMA_FTYPE_MOSTLY_{mix}")
    params.nthread = threads
    names_of = {names.to_gguf(name): name for name in source.tensors}
    weights = [(name, values) for name in names_of if matrix and (values := matrix.weights(names_of[name])) is not None]
    table = (peer.llama_model_imatrix_data * (len(weights) + 1))()  # ends with an empty name
    for row, (name, values) in zip(table, weights, strict=False):
        row.name, row.size = name.encode(), len(values)
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if weights:
        params.imatrix = ctypes.cast(table, ctypes.POINTER(peer.llama_model_imatrix_data))
    if peer.llama_model_quantize(str(source.path).encode(), str(path).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp did not quantize {source.path} to {mix}")
