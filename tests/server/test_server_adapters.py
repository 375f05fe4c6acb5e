"""Adapters over HTTP: each is a model of its own name, over the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pronk
from support.adapters import random_pairs, write_peft
from support.serving import Running, serving

PROMPT = "A llama is"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("adapters")
    with pronk.load("cria") as llama:
        for seed, name in enumerate(("poet", "office")):
            llama.load_adapter(write_peft(folder / name, random_pairs(llama.config, seed=seed)), name)
        with serving(llama) as running:
            yield running


def own(server: Running, adapter: str) -> str:
    llama = server.state.model(None).llama
    return llama.complete(PROMPT, adapter=adapter, max_tokens=12, temperature=0).text


def test_a_model_s_name_chooses_the_adapter(server: Running) -> None:
    names = [card["id"] for card in server.get("/v1/models").json["data"]]
    assert names == ["cria", "poet", "office"]
    texts = []
    for name in names:
        body = {"model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        answer = server.post("/v1/completions", body).json
        assert answer["model"] == name
        texts.append(answer["choices"][0]["text"])
    assert texts == [own(server, adapter) for adapter in ("", "poet", "office")]
    assert len(set(texts)) == 3


def test_tgi_s_adapter_id_does(server: Running) -> None:
    def ask(**parameters: object) -> str:
        answer = server.post("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 12, **parameters}})
        return answer.json["generated_text"]

    assert ask(adapter_id="poet") == own(server, "poet")
    assert ask() == own(server, "")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_an_adapter_that_is_not_there_is_refused_with_those_that_are(server: Running, path: str) -> None:
    answer = server.post(path, {"inputs": PROMPT, "parameters": {"adapter_id": "cria"}})
    assert answer.status == 422
    assert "'poet', 'office'" in answer.json["error"]


def test_embeddings_have_the_adapter_too(server: Running) -> None:
    plain, poet = (
        server.post("/v1/embeddings", {"model": name, "input": PROMPT}).json["data"][0]["embedding"]
        for name in ("cria", "poet")
    )
    assert plain != poet


def test_the_engine_is_counted_once(server: Running) -> None:
    lines = server.get("/metrics").body.decode().splitlines()
    assert [line.partition("{")[2].partition("}")[0] for line in lines if line.startswith("pronk_pages{")] == [
        'model="cria"'
    ]
