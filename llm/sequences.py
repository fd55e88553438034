"""Prompts and answers as tensors: what is padded where, and which tokens are an answer's.

A sequence is `[PAD .. prompt | answer .. PAD]`: prompts are padded on the left, answers on the right, so that the
answer begins in the same column for all. PAD = -1 is no token of any vocabulary, so `tokens >= 0` says what is there.
The mask of the answer's tokens is made here, once, from the end token, and stored beside them: it holds the end token
and nothing after it. An answer of the full length without an end token is `truncated`; with no end token in the
vocabulary all answers have the full length and none is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fenchel.errors import UserError

PAD = -1


@dataclass(frozen=True)
class Sequences:
    """G answers to each of N prompts, of R replicas; L = P + T columns.

    tokens (R, N, G, L)           int64, PAD where there is none
    mask (R, N, G, L)             True on the answer's tokens, its end token included
    logp (R, N, G, L)             the sampler's own log-probability of each of these, 0 elsewhere
    truncated (R, N, G)           the answer has no end token where it might have one
    support (R, N, G, L, bytes)   what top-k and top-p left of the vocabulary, packed; None without either
    prompt                        P, the first column of answers
    """

    tokens: Int[Tensor, "R N G L"]
    mask: Bool[Tensor, "R N G L"]
    logp: Float[Tensor, "R N G L"]
    truncated: Bool[Tensor, "R N G"]
    support: UInt8[Tensor, "R N G L bytes"] | None
    prompt: int

    @property
    def answers(self) -> Int[Tensor, "R N G T"]:
        return self.tokens[..., self.prompt :]


def pad_left(rows: Sequence[Sequence[int]], width: int | None = None) -> Int[Tensor, "N P"]:
    """Prompts of any length as one tensor. Raises UserError for one longer than `width`."""
    return _pad(rows, width, "left")


def pad_right(rows: Sequence[Sequence[int]], width: int | None = None) -> Int[Tensor, "N T"]:
    """Answers of any length as one tensor. Raises UserError for one longer than `width`."""
    return _pad(rows, width, "right")


def _pad(rows: Sequence[Sequence[int]], width: int | None, side: str) -> Tensor:
    longest = max(map(len, rows), default=0)
    width = longest if width is None else width
    if longest > width:
        raise UserError(f"A sequence has {longest} tokens; at most {width} are allowed here.")
    fill = [[PAD] * (width - len(row)) for row in rows]
    padded = [[*f, *row] if side == "left" else [*row, *f] for f, row in zip(fill, rows, strict=True)]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)


def close(answers: Int[Tensor, "*b T"], eos: int | None) -> Int[Tensor, "*b T"]:
    """Answers with PAD for whatever follows their first end token."""
    if eos is None:
        return answers
    ends = answers == eos
    after = ends.cumsum(-1) - ends.to(torch.int64) > 0
    return answers.masked_fill(after, PAD)


def join(
    prompts: Int[Tensor, "*b P"], answers: Int[Tensor, "*b T"], eos: int | None
) -> tuple[Int[Tensor, "*b L"], Bool[Tensor, "*b L"], Bool[Tensor, "*b"]]:
    """(tokens, mask, truncated) of prompts padded on the left and answers padded on the right."""
    answers = close(answers, eos)
    tokens = torch.cat([prompts, answers], -1)
    mask = torch.cat([torch.zeros_like(prompts, dtype=torch.bool), answers >= 0], -1)
    if eos is None:
        return tokens, mask, torch.zeros_like(answers[..., 0], dtype=torch.bool)
    return tokens, mask, ~(answers == eos).any(-1)


def lengths(mask: Bool[Tensor, "*b L"]) -> Int[Tensor, "*b"]:
    """Tokens per answer, the end token counted."""
    return mask.sum(-1)


def left_padding(tokens: Int[Tensor, "*b L"]) -> Int[Tensor, "*b"]:
    """How many PADs stand before the first token."""
    return ((tokens >= 0).cumsum(-1) == 0).sum(-1)


# -- supports: which tokens a truncated law has left, eight to a byte ------------------------------------------------
def pack(keep: Bool[Tensor, "*b V"]) -> UInt8[Tensor, "*b bytes"]:
    """Bit v % 8 of byte v // 8 is set where token v is kept."""
    bits = torch.nn.functional.pad(keep.to(torch.uint8), (0, -keep.shape[-1] % 8))
    place = torch.arange(8, device=keep.device, dtype=torch.uint8)
    return (bits.unflatten(-1, (-1, 8)) << place).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "*b bytes"], vocabulary: int) -> Bool[Tensor, "*b V"]:
    place = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(-1) >> place) & 1
    return bits.flatten(-2)[..., :vocabulary].to(torch.bool)
