"""POST /v1/embeddings."""

from __future__ import annotations

import base64

import anyio.to_thread
from starlette.responses import Response

from pronk.server.errors import Json
from pronk.server.openai.fields import EmbeddingBody, unsupported_field
from pronk.server.openai.prompts import read_prompts
from pronk.server.state import ServerState


async def embed(state: ServerState, body: EmbeddingBody) -> Response:
    model = state.model(body.model)
    llama = model.llama
    if body.dimensions not in (None, llama.config.dim):
        raise unsupported_field("dimensions", f"this model's vectors have {llama.config.dim}, and cannot be cut")
    prompts = await anyio.to_thread.run_sync(read_prompts, llama, body.input, "input", state.settings)
    ids = [prompt.ids for prompt in prompts]
    vectors = await anyio.to_thread.run_sync(lambda: llama.embed(ids, pooling=body.pooling or "mean"))
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
