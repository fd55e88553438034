"""What every token policy offers. Its numbers at place t of a sequence are of the law of the token at t, given those
before it: `logits`, `logp`, `entropy`, `hidden`, and the values of a head on it, are aligned with `tokens`.

Left padding changes no number: rows are moved to begin in column 0 before the model sees them, and what comes after
the tokens it does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fenchel.errors import UserError
from fenchel.llm.sequences import left_padding, unpack

Hyper = float | Tensor
Tokens = Int[Tensor, "R B L"]
Mask = Bool[Tensor, "R B L"]
Numbers = Float[Tensor, "R B L"]
Support = UInt8[Tensor, "R B L bytes"]


class Policy:
    """R policies over `vocabulary` tokens, of sequences of at most `context` tokens; `eos` ends one, if not None.

    A policy writes

    encode(ids (R, B, L)) -> code (R, B, L, ...): what the law at each place is made of. ids begin in column 0; what
        stands after a sequence's end must not matter to the code of its tokens;
    head(code (R, M, ...)) -> logits (R, M, V);
    hidden_of(code (R, B, L, ...)) -> (R, B, L, width): features of the prefix before each place, for value heads;
    start(prompts (R, N, P), groups, max_new) -> (cache, logits (R, N * groups, V)), for sampling, and
    step(cache, token (R, N * groups)) -> logits (R, N * groups, V), of what follows that token;

    and has `flat`, `grad`, `frozen`, `target`, `track` and `state` like `algorithms.networks.Network`.
    """

    R: int
    vocabulary: int
    context: int
    eos: int | None
    width: int
    flat: Any
    grad: Any
    frozen: Any
    target: Callable[..., Any]
    track: Callable[..., Any]
    state: Callable[..., Any]
    encode: Callable[..., Any]
    head: Callable[..., Any]
    start: Callable[..., Any]
    step: Callable[..., Any]

    def hidden_of(self, code: Tensor) -> Tensor:
        return code

    def logits(self, tokens: Tokens) -> Float[Tensor, "R B L V"]:
        """Of the token at each place. The whole tensor at once: for small problems."""
        return self.read(tokens, lambda code: self.head(code.flatten(1, 2)).unflatten(1, code.shape[1:3]))

    def hidden(self, tokens: Tokens) -> Float[Tensor, "R B L width"]:
        """Features of the prefix before each place; in the first PAD after a sequence, those of the whole of it."""
        return self.read(tokens, self.hidden_of)

    def logp(
        self,
        tokens: Tokens,
        mask: Mask,
        *,
        temperature: Hyper = 1.0,
        support: Support | None = None,
        chunk: int | None = None,
    ) -> Numbers:
        """log-probability of each masked token given what precedes it, 0 elsewhere.

        temperature: a number above 0, or (R, 1). support: what the sampler's top-k and top-p left; the law is
        renormalised on it and a token outside has -inf. chunk: tokens per replica whose logits stand in memory at a
        time; they are computed again in the backward pass, which changes neither value nor gradient beyond rounding.
        """
        return self._score(tokens, mask, temperature, support, chunk, _logp)

    def entropy(
        self,
        tokens: Tokens,
        mask: Mask,
        *,
        temperature: Hyper = 1.0,
        support: Support | None = None,
        chunk: int | None = None,
    ) -> Numbers:
        """Of the same law as in `logp`, 0 where mask is False."""
        return self._score(tokens, mask, temperature, support, chunk, _entropy)

    def logp_and_entropy(
        self,
        tokens: Tokens,
        mask: Mask,
        *,
        temperature: Hyper = 1.0,
        support: Support | None = None,
        chunk: int | None = None,
    ) -> tuple[Numbers, Numbers]:
        """Both from one forward pass."""
        both = self._score(tokens, mask, temperature, support, chunk, _both)
        return both[..., 0], both[..., 1]

    def read(self, tokens: Tokens, of: Callable[[Tensor], Tensor]) -> Tensor:
        """of(code (R, B, L, ...)) -> (R, B, L, ...), with its places moved back to those of `tokens`."""
        ids, back = self._align(tokens)
        return _take(of(self.encode(ids)), back)

    def at(self, tokens: Tokens, place: Int[Tensor, "R B K"]) -> Tensor:
        """The code (R, B * K, ...) of K places per sequence, for `head` and `hidden_of`."""
        ids, back = self._align(tokens)
        return _take(self.encode(ids), back.gather(2, place)).flatten(1, 2)

    def _align(self, tokens: Tokens, *beside: Tensor) -> tuple[Tensor, ...]:
        """(ids, *beside, back): rows moved to column 0, and where each place of `tokens` then stands."""
        if tokens.shape[-1] > self.context + 1:  # one more, for the features of a whole sequence
            raise UserError(f"Sequences have {tokens.shape[-1]} tokens, which is over the context of {self.context}.")
        place = torch.arange(tokens.shape[-1], device=tokens.device)
        shift = left_padding(tokens).unsqueeze(-1)
        there = (place + shift).clamp(max=tokens.shape[-1] - 1)
        moved = (_take(x, there) for x in (tokens.clamp(min=0), *beside))
        return *moved, (place - shift).clamp(min=0)

    def _score(self, tokens: Tensor, mask: Tensor, temperature: Hyper, support: Tensor | None, chunk, terms) -> Tensor:
        if isinstance(temperature, float | int) and temperature <= 0:
            raise UserError(f"temperature={temperature} has no log-probabilities; valid is above 0.")
        ids, *beside, back = self._align(tokens, *([] if support is None else [support]))
        code = self.encode(ids).flatten(1, 2)
        rows = [code, ids.flatten(1, 2), *(x.flatten(1, 2) for x in beside)]

        def of(code: Tensor, ids: Tensor, *beside: Tensor) -> Tensor:
            z = temper(self.head(code), temperature)
            if beside:  # an empty support, outside the mask, gives NaN there and gets no gradient
                z = z.masked_fill(~unpack(beside[0], self.vocabulary), -torch.inf)
            return terms(z, ids)

        if chunk is None:
            out = of(*rows)
        else:
            pieces = zip(*(x.split(chunk, 1) for x in rows), strict=True)
            out = torch.cat([checkpoint(of, *x, use_reentrant=False, preserve_rng_state=False) for x in pieces], 1)
        out = _take(out.unflatten(1, tokens.shape[1:]), back)
        return torch.where(mask.view(*mask.shape, *[1] * (out.ndim - 3)), out, 0.0)


def aligned(n: int) -> int:
    """The next multiple of 16: where a tensor's last axis is one, a replica's part of it begins at a multiple of 64
    bytes, as a single run's does, and products of matrices have the same bits."""
    return -(-n // 16) * 16


def temper(logits: Float[Tensor, "R M V"], temperature: Hyper) -> Float[Tensor, "R M V"]:
    """logits / temperature, a number or (R, 1)."""
    if isinstance(temperature, Tensor):
        return logits / temperature.reshape(-1, 1, 1)
    return logits if temperature == 1 else logits / temperature


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x (R, B, L, ...) at columns index (R, B, K)."""
    index = index.reshape(*index.shape, *[1] * (x.ndim - 3)).expand(*index.shape, *x.shape[3:])
    return x.gather(2, index)


def _logp(z: Tensor, ids: Tensor) -> Tensor:
    return z.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _entropy(z: Tensor, ids: Tensor) -> Tensor:
    log_p = z.log_softmax(-1)
    return -(log_p.exp() * torch.where(z > -torch.inf, log_p, 0.0)).sum(-1)


def _both(z: Tensor, ids: Tensor) -> Tensor:
    log_p = z.log_softmax(-1)
    entropy = -(log_p.exp() * torch.where(z > -torch.inf, log_p, 0.0)).sum(-1)
    return torch.stack([log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy], -1)
