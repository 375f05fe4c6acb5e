"""What TGI's routes take, as its OpenAPI page has it. A field that is not here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pronk.server.bodies import Body
from pronk.server.openai.fields import Positive, Whole


class JsonGrammar(Body):
    """`value`: a JSON schema, or one as a text."""

    type: Literal["json"]
    value: dict[str, Any] | str


class RegexGrammar(Body):
    type: Literal["regex"]
    value: str


class NamedSchema(Body):
    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class JsonSchemaGrammar(Body):
    type: Literal["json_schema"]
    value: NamedSchema


TgiGrammar = Annotated[JsonGrammar | RegexGrammar | JsonSchemaGrammar, Field(discriminator="type")]


class GenerateParameters(Body):
    """null is as good as leaving a field out. Without `do_sample` and all of temperature, top_k, top_p and typical_p
    the answer is greedy; so it is with a temperature of 1 alone."""

    adapter_id: str | None = Field(default=None, description="the name of a served adapter")
    best_of: Whole | None = Field(
        default=None, ge=1, description="answers to choose the most likely from; needs sampling"
    )
    decoder_input_details: bool | None = Field(
        default=None, description="the prompt's tokens with their log probabilities"
    )
    details: bool | None = Field(default=None, description="the answer's tokens, and why it ended")
    do_sample: bool | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    grammar: TgiGrammar | None = None
    max_new_tokens: Whole | None = Field(
        default=None, ge=1, description="default: 1024, or what the context has room for"
    )
    repetition_penalty: Positive | None = None
    return_full_text: bool | None = Field(default=None, description="the prompt's text in front of the answer's")
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    stop: list[str] | None = Field(default=None, description="end the answer, and are the last of it")
    temperature: Positive | None = None
    top_k: Whole | None = Field(default=None, ge=1)
    top_n_tokens: Whole | None = Field(default=None, ge=0, description="the most likely tokens at each place")
    top_p: float | None = Field(default=None, gt=0, lt=1)
    truncate: Whole | None = Field(
        default=None, ge=1, description="of the prompt, keep only so many tokens, the last ones"
    )
    typical_p: float | None = Field(default=None, gt=0, lt=1)
    watermark: bool | None = Field(default=None, description="true is refused")


class GenerateRequest(Body):
    """`stream` decides at `/`; elsewhere the path does, and a body that says otherwise is refused."""

    inputs: str = Field(min_length=1)
    parameters: GenerateParameters | None = None
    stream: bool | None = None


class TokenizeRequest(Body):
    """TGI takes the body of /generate and reads only its `inputs`."""

    inputs: str
    parameters: GenerateParameters | None = None


class VertexInstances(Body):
    """Each is a body of /generate, or one of a chat."""

    instances: list[dict[str, Any]] = Field(min_length=1)


# --- answers ---


class Token(BaseModel):
    """`text` is what the token adds to `generated_text`; a special token adds nothing there, and has its name here."""

    id: int
    text: str
    logprob: float | None
    special: bool


class PrefillToken(BaseModel):
    id: int
    text: str
    logprob: float | None


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class Sequence(BaseModel):
    """One answer of several (`best_of`)."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | None = None


class Details(BaseModel):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[Sequence] | None = None
    top_tokens: list[list[Token]] | None = None


class GenerateResponse(BaseModel):
    generated_text: str
    details: Details | None = None


class StreamDetails(BaseModel):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(BaseModel):
    """One event. `index` counts from 1; text and details come with the last."""

    index: int
    token: Token
    top_tokens: list[Token] | None = None
    generated_text: str | None = None
    details: StreamDetails | None = None


class SimpleToken(BaseModel):
    """The characters [start, stop) of the text."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeResponse(BaseModel):
    tokenize_response: list[SimpleToken]
    templated_text: str


class Predictions(BaseModel):
    predictions: list[str]


class Info(BaseModel):
    """`model_dtype`: the type of the largest weights. `max_total_tokens`: prompt and answer together."""

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_pipeline_tag: str = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    max_client_batch_size: int
    router: str = "pronk"
    version: str
    sha: str | None = None
    docker_label: str | None = None


class ErrorResponse(BaseModel):
    error: str
    error_type: str
