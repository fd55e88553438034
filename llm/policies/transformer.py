"""A causal transformer of R replicas: RMSNorm, rotary positions, SwiGLU, no biases, as in Llama.

    x = E[token]
    x = x + W_o attention(norm(x) W_qkv),   x = x + W_down (silu(g) u),  (g, u) = norm(x) W_up     in every layer
    logits = norm(x) W_head

Touvron et al. 2023 (arXiv 2302.13971); rotary positions by Su et al. 2021. The norms have no gain: one is part of the
matrix that follows. A start token that is in no vocabulary stands before every sequence, so that the first token has
a law too, and a prompt may be empty.

Replicas have the bits of single runs as long as the products' rows are aligned: widths are multiples of 16, and the
vocabulary is filled up to one inside.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.algorithms.networks import Network
from fenchel.errors import UserError
from fenchel.llm.policies.policy import Policy, aligned
from fenchel.llm.sequences import left_padding
from fenchel.theory.rng import Streams

EPS = 1e-6


class Transformer(Network, Policy):
    """vocabulary, context: tokens; width: a multiple of 16, and 8 per head; mlp: the inner width, 8/3 of it by default.

    outputs: how many numbers the head gives in the place of logits, for values of prefixes.
    """

    def __init__(
        self,
        rng: Streams,
        vocabulary: int,
        context: int,
        *,
        eos: int | None,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        mlp: int | None = None,
        tied: bool = False,
        outputs: int | None = None,
        base: float = 10_000.0,
        name: str = "policy",
        dtype: torch.dtype = torch.float32,
    ):
        if width % 16 or width % heads or (width // heads) % 8:
            raise UserError(f"width={width} with heads={heads} is not valid; a multiple of 16, and 8 per head.")
        self.R, self.vocabulary, self.context, self.eos = len(rng.seeds), vocabulary, context, eos
        self.width, self.layers, self.heads, self.tied = width, layers, heads, tied and outputs is None
        self.outputs = vocabulary if outputs is None else outputs
        self.mlp = aligned(8 * width // 3 if mlp is None else mlp)
        rows = aligned(vocabulary + 1)
        block = [(width, 3 * width), (width, width), (width, 2 * self.mlp), (self.mlp, width)]
        shapes = [(rows, width), *block * layers, *([] if self.tied else [(width, aligned(self.outputs))])]
        super().__init__(shapes, self.R, 1, torch.empty(0, device=rng.device, dtype=dtype))
        self._initialise(rng, name)
        self.cos, self.sin = _rotation(context + 1, width // heads, base, rng.device, dtype)

    def _initialise(self, rng: Streams, name: str) -> None:
        """Normal with variance 1 / fan-in, into the residual stream divided by 2 * layers; embeddings of variance 1 and
        a head of standard deviation 0.02, so that the first policy is nearly uniform."""
        for i, weight in enumerate(self.views(self.flat)):
            back = i > 0 and i % 2 == 0
            std = weight.shape[1] ** -0.5 * ((2 * self.layers) ** -0.5 if back else 1.0)
            if i == 0:
                std = 0.02 if self.tied else 1.0
            elif i > 4 * self.layers:
                std = 0.02
            for r in range(self.R):  # one replica at a time: large models are drawn in place
                seed = Streams(rng.seeds[r : r + 1], rng.device)
                weight[r].copy_(seed.normal(f"init/{name}/{i}", weight.shape[1:], dtype=weight.dtype)[0] * std)

    # -- the whole sequence ----------------------------------------------------------------------------------------
    def encode(self, ids: Int[Tensor, "R B L"]) -> Float[Tensor, "R B L width"]:
        begin = torch.full_like(ids[..., :1], self.vocabulary)
        x, _ = self._trunk(torch.cat([begin, ids[..., :-1]], -1), None)
        return x

    def head(self, code: Float[Tensor, "R M width"]) -> Float[Tensor, "R M outputs"]:
        weight = self.weights[0].mT if self.tied else self.weights[-1]
        return torch.bmm(code, weight)[..., : self.outputs]

    def _trunk(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """(R, B, L) -> (R, B, L, width), and each layer's keys and values (R * B, 2, heads, L, width / heads)."""
        R, B, L = ids.shape
        x = embed(self.weights[0], ids.flatten(1))
        kept = []
        for w_qkv, w_o, w_up, w_down in self._blocks():
            qkv = self._rotated(torch.bmm(norm(x), w_qkv), R * B, L, 0)
            q, k, v = qkv.unbind(1)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            x = x + torch.bmm(o.transpose(1, 2).reshape(R, B * L, -1), w_o)
            x = x + torch.bmm(SwiGLU.apply(torch.bmm(norm(x), w_up)), w_down)
            kept.append(qkv[:, 1:])
        return norm(x).unflatten(1, (B, L)), kept

    def _blocks(self) -> Iterator[list[Tensor]]:
        return (self.weights[i : i + 4] for i in range(1, 4 * self.layers + 1, 4))

    def _rotated(self, qkv: Tensor, rows: int, L: int, start: int) -> Float[Tensor, "rows three heads L d"]:
        """Queries, keys and values of L positions from `start` on, the first two rotated."""
        parts = qkv.view(rows, L, 3, self.heads, -1)
        turned = rotate(parts, self.cos[start : start + L], self.sin[start : start + L])
        return turned.permute(0, 2, 3, 1, 4)

    # -- token by token --------------------------------------------------------------------------------------------
    def start(self, prompts: Int[Tensor, "R N P"], groups: int, max_new: int) -> tuple[dict, Tensor]:
        """Prompts end in the same column; rotary positions are relative, so that padding before them does not count."""
        R, N, P = prompts.shape
        begin = left_padding(prompts).unsqueeze(-1) if P else prompts.new_zeros(R, N, 1)
        ids = F.pad(prompts.clamp(min=0), (1, 0)).scatter(-1, begin, self.vocabulary)
        mask = bias = None
        if begin.any():
            column = torch.arange(P + 1, device=ids.device)
            there = (column >= begin).view(R * N, 1, 1, -1)
            mask = (there & (column <= column[:, None])) | (column == column[:, None])
            bias = F.pad(there, (0, max_new), value=True).repeat_interleave(groups, 0)
        x, kept = self._trunk(ids, mask)
        shape = (R * N * groups, 2, self.heads, P + 1 + max_new, self.width // self.heads)
        past = [x.new_empty(shape) for _ in kept]
        for whole, part in zip(past, kept, strict=True):
            whole.unflatten(0, (R * N, groups))[..., : P + 1, :] = part.unsqueeze(1)
        logits = self.head(x[:, :, -1]).repeat_interleave(groups, 1)
        return {"past": past, "bias": bias, "column": P + 1}, logits

    def step(self, cache: dict, token: Int[Tensor, "R B"]) -> Float[Tensor, "R B V"]:
        (R, B), t = token.shape, cache["column"]
        bias = None if cache["bias"] is None else cache["bias"][..., : t + 1]
        x = embed(self.weights[0], token)
        for past, (w_qkv, w_o, w_up, w_down) in zip(cache["past"], self._blocks(), strict=True):
            qkv = self._rotated(torch.bmm(norm(x), w_qkv), R * B, 1, t)
            seen = past[..., : t + 1, :]
            seen[..., t:, :] = qkv[:, 1:]
            k, v = seen.unbind(1)
            o = F.scaled_dot_product_attention(qkv[:, 0], k, v, attn_mask=bias)
            x = x + torch.bmm(o.view(R, B, -1), w_o)
            x = x + torch.bmm(SwiGLU.apply(torch.bmm(norm(x), w_up)), w_down)
        cache["column"] = t + 1
        return self.head(norm(x))


def embed(table: Float[Tensor, "R V width"], ids: Int[Tensor, "R M"]) -> Float[Tensor, "R M width"]:
    return table.gather(1, ids.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


def norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last axis."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class SwiGLU(torch.autograd.Function):
    """silu(g) u of x = [g, u], (R, M, 2 mlp) -> (R, M, mlp).

    Written out: torch's silu computes a tensor's last elements by another formula, so that bits would depend on R, and
    autograd would keep four tensors where these two suffice.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        sigmoid = gate.neg().exp_().add_(1).reciprocal_()
        ctx.save_for_backward(x, sigmoid)
        return (sigmoid * gate).mul_(up)

    @staticmethod
    def backward(ctx, d: Tensor) -> Tensor:
        x, sigmoid = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        out = torch.empty_like(x)
        d_gate, d_up = out.chunk(2, -1)
        torch.mul(sigmoid, gate, out=d_up)
        torch.sub(sigmoid, sigmoid * d_up, out=d_gate).add_(d_up)  # silu' = s + s g (1 - s)
        d_gate.mul_(up).mul_(d)
        d_up.mul_(d)
        return out


def rotate(x: Float[Tensor, "B L three heads d"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates (x_i, x_{i + d/2}) by the position's angle i; sin is negative in its first half."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def _rotation(length: int, d: int, base: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and signed sin (length, 3, 1, d) of position * base^(-2 i / d) for queries and keys, of 0 for values."""
    rate = base ** (-torch.arange(0, d, 2, device=device, dtype=torch.float64) / d)
    place = torch.arange(length, device=device, dtype=torch.float64)
    angle = place[:, None, None] * rate * torch.tensor([1.0, 1.0, 0.0], device=device, dtype=torch.float64)[:, None]
    cos, sin = angle.cos().repeat(1, 1, 2), torch.cat([-angle.sin(), angle.sin()], -1)
    return cos.unsqueeze(2).to(dtype), sin.unsqueeze(2).to(dtype)
