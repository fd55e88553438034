"""Sampling answers, and the truncation of a law by top-k and top-p.

The law sampled from is softmax(logits / temperature), on its k likeliest tokens, of these on the likeliest ones that
together have mass top_p; tokens as likely as the last one kept are kept too, so that the rule does not depend on how
tokens are numbered. The support is stored with the answers: log-probabilities computed again on it, by `Policy.logp`,
are of the law that was sampled, so that the on-policy ratio is exactly 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.policies.policy import Hyper, Policy, temper
from fenchel.llm.sequences import PAD, Sequences, join, pack
from fenchel.theory.rng import Streams


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn. Raises UserError for what is out of range."""

    temperature: Hyper = field(default=1.0, metadata={"range": (0, None)})
    """of the softmax; 0 takes the likeliest token; a number, or (R, 1)"""
    top_k: int | None = None
    """how many of the likeliest tokens are left; None for all"""
    top_p: Hyper = field(default=1.0, metadata={"range": (0, 1)})
    """the mass of the likeliest tokens that are left; a number, or (R, 1)"""

    def __post_init__(self) -> None:
        if isinstance(self.temperature, float | int) and not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature} is not valid; it is at least 0.")
        if isinstance(self.top_p, float | int) and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is not valid; it lies above 0 and is at most 1.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} is not valid; it is at least 1, or none.")

    @property
    def greedy(self) -> bool:
        return isinstance(self.temperature, float | int) and self.temperature == 0

    @property
    def truncates(self) -> bool:
        return not self.greedy and (self.top_k is not None or isinstance(self.top_p, Tensor) or self.top_p < 1)

    def support(self, z: Float[Tensor, "R M V"]) -> Bool[Tensor, "R M V"]:
        """What is left of each law, from its logits divided by the temperature."""
        ordered = z.sort(-1, descending=True).values
        k = z.shape[-1] if self.top_k is None else min(self.top_k, z.shape[-1])
        ordered = ordered[..., :k]
        floor = ordered[..., -1:]
        if isinstance(self.top_p, Tensor) or self.top_p < 1:
            top_p = self.top_p.reshape(-1, 1, 1) if isinstance(self.top_p, Tensor) else self.top_p
            # ties with the k-th token count in its mass, as they are kept
            z_kept = torch.where(z >= floor, z, -torch.inf)
            mass = (ordered - z_kept.logsumexp(-1, keepdim=True)).exp()
            before = mass.cumsum(-1) - mass
            last = (before < top_p).sum(-1, keepdim=True) - 1
            floor = ordered.gather(-1, last.clamp(min=0))
        return z >= floor


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Int[Tensor, "R N P"],
    groups: int,
    max_new: int,
    *,
    rng: Streams,
    counter: int = 0,
    decoding: Decoding = Decoding(),
    name: str = "sample",
) -> Sequences:
    """`groups` answers of at most `max_new` tokens to each prompt (padded on the left).

    The numbers are those of stream `name` at `counter`, so that an answer is a function of the replica's seed, the
    policy and the prompts. A greedy answer has log-probability 0. Raises UserError when prompt and answer together
    are longer than the policy's context, or an end token is expected that the policy does not have.
    """
    R, N, P = prompts.shape
    if P + max_new > policy.context:
        raise UserError(f"Prompts of {P} tokens and max_new={max_new} are over the context of {policy.context}.")
    B = N * groups
    noise = rng.uniform(name, (B, max_new), counter, dtype=policy.flat.dtype)
    answers, logp = prompts.new_full((R, B, max_new), PAD), noise.new_zeros(R, B, P + max_new)
    whole = pack(prompts.new_ones(policy.vocabulary, dtype=torch.bool))
    support = whole.expand(R, B, P + max_new, -1).clone() if decoding.truncates else None
    cache, logits = policy.start(prompts, groups, max_new)
    going = torch.ones_like(answers[..., 0], dtype=torch.bool)
    for t in range(max_new):
        token, log_prob, keep = _draw(logits, noise[..., t], decoding)
        answers[..., t] = torch.where(going, token, PAD)
        logp[..., P + t] = torch.where(going, log_prob, 0.0)
        if support is not None:
            support[..., P + t, :] = torch.where(going.unsqueeze(-1), pack(keep), whole)
        if policy.eos is not None:
            going = going & (token != policy.eos)
        if t + 1 == max_new or not going.any():
            break
        logits = policy.step(cache, token)
    shape = (R, N, groups)
    tokens, mask, truncated = join(
        prompts.unsqueeze(2).expand(-1, -1, groups, -1), answers.view(*shape, max_new), policy.eos
    )
    support = None if support is None else support.unflatten(1, shape[1:])
    return Sequences(tokens, mask, logp.view(*shape, -1), truncated, support, P)


def _draw(logits: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor, Tensor | None]:
    """(token, its log-probability, what top-k and top-p left), of logits (R, B, V), by the inverse distribution."""
    if decoding.greedy:
        return logits.argmax(-1), torch.zeros_like(uniform), None
    z, keep = temper(logits, decoding.temperature), None
    if decoding.truncates:
        keep = decoding.support(z)
        z = z.masked_fill(~keep, -torch.inf)
    log_p = z.log_softmax(-1)
    mass = log_p.exp().cumsum(-1)
    # the first token whose cumulative mass reaches the number, which is above 0: never one of mass 0
    token = torch.searchsorted(mass, uniform.unsqueeze(-1) * mass[..., -1:])
    token = token.clamp(max=logits.shape[-1] - 1)  # of a replica that has become NaN
    return token.squeeze(-1), log_p.gather(-1, token).squeeze(-1), keep


def support_of(policy: Policy, tokens: Tensor, decoding: Decoding) -> UInt8[Tensor, "R B L bytes"] | None:
    """The support at every place of given sequences: what `sample` would have stored, for exact evaluation."""
    if not decoding.truncates:
        return None
    with torch.no_grad():
        z = temper(policy.logits(tokens).flatten(1, 2), decoding.temperature)
        return pack(decoding.support(z).unflatten(1, tokens.shape[1:]))
