"""The paths by which other services call TGI: its own `/`, SageMaker's /invocations and Vertex AI's /vertex."""

from __future__ import annotations

from typing import Any

import fastapi
from starlette.responses import Response

from pronk.server.bodies import parsed
from pronk.server.errors import ApiError
from pronk.server.state import ServerState
from pronk.server.tgi.generate import generate, generate_stream
from pronk.server.tgi.schemas import CompatGenerateRequest, GenerateRequest, VertexInstances


async def compat_generate(state: ServerState, body: CompatGenerateRequest, connection: fastapi.Request) -> Response:
    plain = GenerateRequest(inputs=body.inputs, parameters=body.parameters)
    if body.stream:
        return await generate_stream(state, plain, connection)
    return await generate(state, plain, connection, in_list=True)


async def invoke(state: ServerState, body: dict[str, Any], connection: fastapi.Request) -> Response:
    if "inputs" in body:
        return await compat_generate(state, parsed(CompatGenerateRequest, body), connection)
    raise ApiError(422, "the body has neither `inputs` nor `messages` nor `prompt`; send one of them")


async def predict(state: ServerState, body: VertexInstances, connection: fastapi.Request) -> Response:
    raise NotImplementedError
