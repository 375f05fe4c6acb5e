"""What llama-server's own routes take."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pronk.server.bodies import Body


class TokenizeRequest(Body):
    content: str
    add_special: bool = Field(default=False, description="begin with a begin-of-text, where the model has one")
    parse_special: bool = Field(default=True, description="names of control tokens in the text become those tokens")
    with_pieces: bool = Field(
        default=False, description="each token with its text; or with its bytes, where they are none"
    )


class DetokenizeRequest(Body):
    tokens: list[int]


class ApplyTemplateRequest(Body):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
