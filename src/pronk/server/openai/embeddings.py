"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import anyio.to_thread
import fastapi
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from pronk.server.errors import ClientGone, Json
from pronk.server.openai.fields import EmbeddingBody, unsupported_field
from pronk.server.openai.prompts import read_prompts
from pronk.server.state import ServedModel, ServerState

_TOGETHER = 8  # texts in the model at once; between them is looked whether the client is still there


async def embed(state: ServerState, body: EmbeddingBody, connection: fastapi.Request) -> Response:
    model = state.model(body.model)
    llama = model.llama
    if body.dimensions not in (None, llama.config.dim):
        raise unsupported_field("dimensions", f"this model's vectors have {llama.config.dim}, and cannot be cut")
    prompts = await anyio.to_thread.run_sync(read_prompts, llama, body.input, "input", state.settings)
    ids = [prompt.ids for prompt in prompts]
    vectors: list[NDArray[np.float32]] = []
    model.in_flight += 1
    try:
        for start in range(0, len(ids), _TOGETHER):
            if await connection.is_disconnected():
                raise ClientGone
            some = ids[start : start + _TOGETHER]
            async with model.embedding:
                vectors += await anyio.to_thread.run_sync(_embed, model, some, body.pooling or "mean")
    finally:
        model.in_flight -= 1
    tokens = sum(map(len, ids))
    return Json(
        {
            "object": "list",
            "model": model.name,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                    if body.encoding_format == "base64"
                    else vector.tolist(),
                }
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _embed(
    model: ServedModel, ids: Sequence[Sequence[int]], pooling: Literal["mean", "last"]
) -> list[NDArray[np.float32]]:
    return list(model.llama.embed(ids, pooling=pooling, adapter=model.adapter or ""))
