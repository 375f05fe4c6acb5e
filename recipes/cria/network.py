"""The Llama that is trained: the same arithmetic as `pronk.model.llama`, with gradients, over padded batches.

B conversations, T tokens each, D width, H heads, K kv heads, E head width, F ffn, V vocabulary.
Fused weights (q, k, v in one; gate and up in one) and the half-split rotary layout are for speed; `tensors` undoes
both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pronk.config import ModelConfig
from recipes.cria import copying

# Large against AdamW's steps: embeddings of 0.02 lose within fifty steps what tells rare tokens apart, all being pushed
# down alike. The last norm begins small instead, or the first prediction would always be the last token again.
_EMBEDDING_DEVIATION = 0.3
_LAST_NORM = 0.04


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.eps = config.norm_eps
        rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        self.attention_norm = nn.Parameter(torch.ones(config.dim))
        self.qkv = nn.Parameter(_matrix(rows, config.dim))
        self.output = nn.Parameter(torch.zeros(config.dim, config.n_heads * config.head_dim))
        self.ffn_norm = nn.Parameter(torch.ones(config.dim))
        self.gate_up = nn.Parameter(_matrix(2 * config.ffn_dim, config.dim))
        self.down = nn.Parameter(torch.zeros(config.dim, config.ffn_dim))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, where: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> the same; with `where`, (N, D) at those of the B*T positions."""
        batch, length, width = x.shape
        rotated = self.heads + self.kv_heads
        h = F.rms_norm(x, (width,), self.attention_norm, self.eps)
        qkv = F.linear(h, self.qkv).view(batch, length, rotated + self.kv_heads, self.head_dim).transpose(1, 2)
        qk = _rotate(qkv[:, :rotated], cos, sin)  # (B, H+K, T, E)
        mixed = F.scaled_dot_product_attention(
            qk[:, : self.heads], qk[:, self.heads :], qkv[:, rotated:], is_causal=True, enable_gqa=True
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, -1)  # (B, T, H*E)
        if where is not None:
            mixed, x = mixed.flatten(0, 1)[where], x.flatten(0, 1)[where]
        x = x + F.linear(mixed, self.output)
        h = F.rms_norm(x, (width,), self.ffn_norm, self.eps)
        gate, up = F.linear(h, self.gate_up).chunk(2, dim=-1)  # (B, T, F) each
        return x + F.linear(F.silu(gate) * up, self.down)


class Network(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Parameter(torch.randn(config.vocab_size, config.dim) * _EMBEDDING_DEVIATION)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.full((config.dim,), _LAST_NORM))
        angles = torch.outer(torch.arange(config.context_length), torch.tensor(config.inverse_frequencies()))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        copying.wire(config, self.embeddings, layers, _EMBEDDING_DEVIATION)

    def forward(self, ids: Tensor, where: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the cross-entropies, in nats. ids (B, T); `where` (N) indexes the B*T positions whose
        next token counts, `targets` and `weights` (N). Logits, and most of the last layer, are computed for those
        alone."""
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = F.embedding(ids, self.embeddings)
        *before, last = self.layers
        for layer in before:
            x = layer(x, cos, sin)
        x = last(x, cos, sin, where)  # (N, D)
        x = F.rms_norm(x, (x.shape[-1],), self.norm, self.config.norm_eps)
        return F.cross_entropy(F.linear(x, self.embeddings).float(), targets, reduction="none") @ weights

    def matrices(self) -> list[dict[str, Any]]:
        """What Muon trains, in its groups: the weights of the layers that multiply, with the parts that are fused."""
        config = self.config
        q_rows, k_rows = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        return [
            {"params": [layer.qkv for layer in layers], "parts": [q_rows, k_rows, k_rows]},
            {"params": [layer.gate_up for layer in layers], "parts": [config.ffn_dim, config.ffn_dim]},
            {"params": [matrix for layer in layers for matrix in (layer.output, layer.down)]},
        ]

    def others(self) -> list[nn.Parameter]:
        """What AdamW trains: the embeddings, which are the output matrix too, and the norms."""
        chosen = {id(p) for group in self.matrices() for p in group["params"]}
        return [p for p in self.parameters() if id(p) not in chosen]

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names and in the rotary layout of `ModelConfig.tensor_shapes`: Meta's, pairs side by
        side."""
        config, out = (
            self.config,
            {"tok_embeddings.weight": self.embeddings.detach(), "norm.weight": self.norm.detach()},
        )
        q_rows, k_rows = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            q, k, v = layer.qkv.detach().split((q_rows, k_rows, k_rows))
            gate, up = layer.gate_up.detach().chunk(2)
            named = {
                "attention_norm.weight": layer.attention_norm.detach(),
                "attention.wq.weight": _interleaved(q, config.n_heads),
                "attention.wk.weight": _interleaved(k, config.n_kv_heads),
                "attention.wv.weight": v,
                "attention.wo.weight": layer.output.detach(),
                "ffn_norm.weight": layer.ffn_norm.detach(),
                "feed_forward.w1.weight": gate,
                "feed_forward.w3.weight": up,
                "feed_forward.w2.weight": layer.down.detach(),
            }
            out |= {f"layers.{index}.{name}": tensor for name, tensor in named.items()}
        return out


def _matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) * columns**-0.5


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _interleaved(matrix: Tensor, heads: int) -> Tensor:
    """Rows of each head from two halves to pairs side by side."""
    rows, columns = matrix.shape
    return matrix.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
