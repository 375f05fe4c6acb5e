"""The HTTP interface of Hugging Face's text-generation-inference (TGI), so that its clients need only another URL."""

from __future__ import annotations

from pronk.server.tgi.errors import render_error
from pronk.server.tgi.routes import PREFIXES, router

__all__ = ["PREFIXES", "render_error", "router"]
