"""Recipes: llama.cpp's mixes, rules by pattern and depth, YAML with its mistakes, and widths that need another type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pronk.checkpoints import mixes
from pronk.checkpoints.random import SHAPES
from pronk.errors import CheckpointError
from pronk.quantize import recipes
from pronk.tensors import types

LLAMA3 = SHAPES["llama-3-8b"]  # 32 layers, four query heads to a key/value head
LLAMA2 = SHAPES["llama-2-7b"]  # no sharing


def chosen(name: str, config=LLAMA3, weighted: bool = True) -> dict[str, str]:
    plan = recipes.plan(recipes.named(name), config, weighted=weighted)
    return {tensor: kind.name for tensor, kind in plan.types.items()}


@pytest.mark.parametrize("name", recipes.known())
def test_every_known_name_gives_a_plan(name: str) -> None:
    kinds = chosen(name)
    assert kinds["norm.weight"] == kinds["layers.0.ffn_norm.weight"] == "F32"
    assert kinds.keys() == LLAMA3.tensor_shapes().keys()


# What llama-quantize makes, but for wv in IQ1 and IQ2: (recipe, config, tensor, type).
FACTS = [
    ("Q2_K", LLAMA3, "layers.9.attention.wv", "Q4_K"),
    ("Q2_K", LLAMA2, "layers.9.attention.wv", "Q3_K"),
    ("Q2_K", LLAMA2, "layers.9.feed_forward.w2", "Q3_K"),
    ("Q2_K", LLAMA2, "output", "Q6_K"),
    ("Q4_K_S", LLAMA3, "layers.3.attention.wv", "Q5_K"),
    ("Q4_K_S", LLAMA3, "layers.4.attention.wv", "Q4_K"),
    ("Q4_K_S", LLAMA3, "layers.3.feed_forward.w2", "Q5_K"),
    ("Q4_K", LLAMA3, "layers.0.feed_forward.w2", "Q6_K"),  # stands for Q4_K_M
    ("Q5_K_S", LLAMA3, "layers.0.feed_forward.w2", "Q5_K"),
    ("Q6_K", LLAMA3, "tok_embeddings", "Q6_K"),
    ("Q8_0", LLAMA3, "output", "Q8_0"),
    ("IQ1_S", LLAMA3, "tok_embeddings", "Q2_K"),
    ("IQ1_S", LLAMA3, "output", "Q5_K"),
    ("IQ1_S", LLAMA3, "layers.9.attention.wo", "IQ2_XXS"),
    ("IQ1_M", LLAMA3, "layers.3.feed_forward.w2", "Q2_K"),
    ("IQ2_XXS", LLAMA3, "layers.4.feed_forward.w2", "IQ2_XXS"),
    ("IQ2_XXS", LLAMA2, "layers.4.attention.wv", "Q3_K"),
    ("IQ2_XXS", LLAMA3, "layers.4.attention.wv", "Q4_K"),
    ("IQ1_M", LLAMA2, "layers.4.attention.wv", "Q3_K"),
    ("IQ2_S", LLAMA3, "layers.9.feed_forward.w1", "IQ2_XS"),
    ("IQ2_S", LLAMA3, "layers.9.attention.wo", "IQ3_S"),
    ("IQ2_M", LLAMA3, "layers.9.feed_forward.w1", "IQ2_S"),
    ("IQ3_XXS", LLAMA3, "layers.9.attention.wq", "IQ2_S"),
    ("IQ3_XXS", LLAMA3, "layers.9.attention.wo", "IQ3_S"),
    ("IQ3_XS", LLAMA3, "layers.9.feed_forward.w1", "IQ3_XXS"),
    ("IQ3_XS", LLAMA3, "layers.0.feed_forward.w1", "IQ3_S"),
    ("IQ3_M", LLAMA3, "layers.9.attention.wo", "Q4_K"),
    ("IQ4_XS", LLAMA3, "layers.0.feed_forward.w2", "IQ4_XS"),
    ("IQ4_XS", LLAMA3, "layers.0.attention.wv", "Q5_K"),
]


@pytest.mark.parametrize(("name", "config", "tensor", "expected"), FACTS)
def test_mixes_are_those_that_users_know(name: str, config: object, tensor: str, expected: str) -> None:
    assert chosen(name, config)[f"{tensor}.weight"] == expected


def test_some_mixes_differ_without_an_importance_matrix() -> None:
    w2 = "layers.0.feed_forward.w2.weight"
    assert [chosen("IQ4_XS", weighted=w)[w2] for w in (True, False)] == ["IQ4_XS", "Q5_K"]
    assert [chosen("Q4_0", weighted=w)[w2] for w in (True, False)] == ["Q4_1", "Q4_0"]


def test_pure_is_one_type_for_every_matrix() -> None:
    plan = recipes.plan(recipes.named("Q4_K_M", pure=True), LLAMA3, weighted=True)
    assert {kind.name for kind in plan.types.values()} == {"Q4_K", "F32"}


def test_dynamicgate_keeps_the_ends_and_the_tables() -> None:
    plan = recipes.plan(recipes.named("dynamicgate", base="iq2_xxs"), LLAMA3, weighted=True)
    kinds = {name: kind.name for name, kind in plan.types.items()}
    of_layer = [kinds[f"layers.{i}.feed_forward.w1.weight"] for i in range(32)]
    assert of_layer == ["IQ4_XS"] * 8 + ["IQ2_XXS"] * 16 + ["IQ4_XS"] * 8
    assert kinds["tok_embeddings.weight"] == kinds["output.weight"] == "Q5_K"
    with pytest.raises(CheckpointError, match=r"no base 'Q8_0', expected one of IQ1_S"):
        recipes.named("dynamicgate", base="Q8_0")


@pytest.mark.parametrize(("width", "expected"), [(4096, "Q4_K"), (4000, "Q5_0"), (4004, "F16")])
def test_a_width_that_does_not_divide_falls_back_and_is_said(width: int, expected: str) -> None:
    config = replace(LLAMA3, ffn_dim=width, n_layers=1)
    plan = recipes.plan(recipes.named("Q4_K_S"), config, weighted=True)
    name = "layers.0.feed_forward.w2.weight"
    assert plan.types[name].name == expected
    said = [f for f in plan.fallbacks if f.name == name]
    assert [(f.wanted.name, f.reason) for f in said] == (
        [] if width == 4096 else [("Q4_K", f"{width} columns are no multiple of 256")]
    )


@pytest.mark.parametrize("pattern", ["attn_v", "wv", "layers.*.wv", "blk.*.attn_v.weight", "*attn_v*"])
def test_overrides_name_tensors_in_either_dialect(pattern: str) -> None:
    rule = recipes.override(f"{pattern}=q8_0")
    plan = recipes.plan(recipes.with_overrides(recipes.named("Q2_K"), (rule,)), LLAMA3, weighted=True)
    changed = {name for name, kind in plan.types.items() if kind == types.Q8_0}
    assert changed == {f"layers.{i}.attention.wv.weight" for i in range(32)}


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: IQ2_XXS\npure: true\nrules:\n"
        "  - {tensors: [wv, attn_output], type: Q4_K, layers: 0%-25%}\n"
        "  - {layers: 75%-100%, type: IQ4_XS}\n"
        "  - {tensors: output, type: Q6_K}\n"
    )
    kinds = recipes.plan(recipes.read(path), LLAMA3, weighted=True).types
    assert kinds["layers.7.attention.wo.weight"] == types.Q4_K
    assert kinds["layers.8.attention.wo.weight"] == types.IQ2_XXS
    assert kinds["layers.24.attention.wo.weight"] == types.IQ4_XS
    assert kinds["output.weight"] == types.Q6_K
    assert kinds["tok_embeddings.weight"] == types.IQ2_XXS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [", "line 1 is no YAML"),
        ("- a", "the recipe is"),
        ("base: 3", "base is 3"),
        ("{}", "base is None"),
        ("base: Q9_K", "unknown type 'Q9_K'"),
        ("base: Q4_K\nrule: []", "did you mean rules"),
        ("base: Q4_K\npure: 7", "pure is 7"),
        ("base: Q4_K\nrules: 7", "rules is 7"),
        ("base: Q4_K\nrules: [wv]", "rule 1 is 'wv'"),
        ("base: Q4_K\nrules: [{tensors: wv}]", "rule 1: type is None"),
        ("base: Q4_K\nrules: [{tensors: [], type: Q4_K}]", "rule 1: tensors is"),
        ("base: Q4_K\nrules: [{tensors: wv, type: Q9}]", "rule 1: unknown tensor type 'Q9'"),
        ("base: Q4_K\nrules: [{type: Q4_K, layers: 3}]", "rule 1: layers is 3"),
        ("base: Q4_K\nrules: [{type: Q4_K, layers: 50%-20%}]", "rule 1: layers is '50%-20%'"),
        ("base: &a [*a]", "base is"),
        ("base: !!python/object:os.system {}", "is no YAML"),
        ("[" * 5000, "is no YAML"),
    ],
)  # fmt: skip
def test_yaml_mistakes_are_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        recipes.read(path)
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    rule = recipes.override("attn_w=Q8_0")
    with pytest.raises(CheckpointError, match=r"'attn_w' fits no matrix .*did you mean"):
        recipes.plan(recipes.with_overrides(recipes.named("Q2_K"), (rule,)), LLAMA3, weighted=True)
    for text in ("attn_v", "=Q8_0", "attn_v=Q9"):
        with pytest.raises(CheckpointError):
            recipes.override(text)


def test_one_table_serves_random_models_and_the_quantizer() -> None:
    for name, mix in mixes.MIXES.items():
        for tensor, shape in LLAMA3.tensor_shapes().items():
            assert chosen(name)[tensor] == mixes.tensor_type(mix, tensor, shape, LLAMA3).name
