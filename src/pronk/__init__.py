"""pronk: one package for the whole life of a Llama model.

    import pronk
    llama = pronk.load("cria")
    print(llama.chat("Tell me a story about a llama.").text)

Importing this loads nothing: a name is fetched from its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pronk.api import ChatResult, Completion, Llama, Piece, load
    from pronk.engine.grammar import Grammar
    from pronk.engine.request import Request
    from pronk.engine.sampling import SamplingParams
    from pronk.errors import (
        BackendError,
        ChatFormatError,
        CheckpointError,
        DownloadError,
        EngineStopped,
        PronkError,
        RequestError,
        TokenizerError,
    )
    from pronk.text.messages import Message, Tool, ToolCall

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ChatFormatError",
    "ChatResult",
    "CheckpointError",
    "Completion",
    "DownloadError",
    "EngineStopped",
    "Grammar",
    "Llama",
    "Message",
    "Piece",
    "PronkError",
    "Request",
    "RequestError",
    "SamplingParams",
    "TokenizerError",
    "Tool",
    "ToolCall",
    "__version__",
    "load",
]

_HOMES = {
    "pronk.api": ("ChatResult", "Completion", "Llama", "Piece", "load"),
    "pronk.engine.grammar": ("Grammar",),
    "pronk.engine.request": ("Request",),
    "pronk.engine.sampling": ("SamplingParams",),
    "pronk.text.messages": ("Message", "Tool", "ToolCall"),
    "pronk.errors": (
        "BackendError", "ChatFormatError", "CheckpointError", "DownloadError", "EngineStopped", "PronkError",
        "RequestError", "TokenizerError",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pronk' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
