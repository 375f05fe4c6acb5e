"""llama-server's own routes, for clients that know llama.cpp's server and not only OpenAI's API."""

from __future__ import annotations

from pronk.server.llama_server.errors import render_error
from pronk.server.llama_server.routes import PREFIXES, router, tokenize
from pronk.server.llama_server.schemas import TokenizeRequest

__all__ = ["PREFIXES", "TokenizeRequest", "render_error", "router", "tokenize"]
