"""A recipe is a value: the parts of one estimator. `prepare` sees the whole batch, `loss` any slice of its prompts.

    loss = sum over tokens of  weight * surrogate(ratio(log pi, log pi_old), advantage)  +  regularisers
    weight = aggregate(mask) * token_weight

All that takes the whole batch to know (advantages, masks, denominators) is in the weights, so that the losses of any
partition of the prompts add up to the batch's, in value and gradient. Lower is better.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, get_type_hints

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.parts.advantages import GAE
from fenchel.llm.parts.critics import Critic
from fenchel.llm.parts.part import Part
from fenchel.llm.parts.references import Fixed
from fenchel.llm.parts.samplers import Uniform
from fenchel.llm.rollout import Live, Prepared, Rollout


@dataclass(frozen=True, kw_only=True)
class Method:
    """What policy-gradient and preference recipes share: their names, and options that live in their parts."""

    title: str
    family: str
    formula: str
    paper: int | None = None
    """its id in docs/papers.toml"""
    departures: str = ""
    """where it deliberately differs from the paper or from released code"""
    group_size: int = 8
    """answers per prompt, unless the command line says otherwise"""
    reference: Any = field(default_factory=Fixed)
    dtype: torch.dtype | None = None
    """of weights and denominators, set by `bind`; without it that of the rollout's numbers"""

    @property
    def parts(self) -> dict[str, Any]:
        """slot -> part, or tuple of parts."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Part | tuple)}

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of a rollout, and `live_*` statistics, that must be there."""
        return frozenset(need for part in flat(self.parts) for need in part.NEEDS)

    def bind(self, replicas: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Self:
        """The recipe with every float option as a tensor (R,), so that bits do not depend on R or on a sweep."""

        def bound(part: Part) -> Part:
            changes = {}
            for f in fields(part):
                value, hint = getattr(part, f.name), get_type_hints(type(part))[f.name]
                if "list[float]" in str(hint) and value is not None:
                    given = torch.as_tensor(value, dtype=dtype, device=device)
                    if given.ndim and len(given) != replicas:
                        raise UserError(f"{f.name} has {len(given)} values for {replicas} replicas; valid is one each.")
                    changes[f.name] = given.expand(replicas).contiguous()
            return replace(part, **changes)

        return replace(self, dtype=dtype, **{slot: _map(bound, value) for slot, value in self.parts.items()})


def flat(parts: dict[str, Any]) -> list[Part]:
    """All parts of a recipe, those of tuples included."""
    return [part for value in parts.values() for part in (value if isinstance(value, tuple) else (value,))]


def _map(function: Any, value: Any) -> Any:
    return tuple(function(part) for part in value) if isinstance(value, tuple) else function(value)


def total(weight: Tensor, element: Tensor) -> Tensor:
    """(R,): the weighted sum. An element per answer meets the sum of its tokens' weights.

    Where nothing counts an element may be NaN: it reaches neither the value nor the gradient.
    """
    if element.ndim < weight.ndim:
        weight = weight.sum(-1)
    return (weight * torch.where(weight == 0, 0.0, element)).flatten(1).sum(-1)


@dataclass(frozen=True, kw_only=True)
class Recipe(Method):
    """A method that learns from scored answers."""

    family: str = "policy-gradient"
    reward: Any
    advantage: Any
    ratio: Any
    surrogate: Any
    aggregate: Any
    mask: tuple[Any, ...] = ()
    token_weight: tuple[Any, ...] = ()
    regulariser: tuple[Any, ...] = ()
    critic: Critic | None = None
    sampler: Any = field(default_factory=Uniform)
    replay: Any = None
    sft: Any = None
    data: str = "policy"
    """policy: answers that it gives to the sampler's prompts; demonstrations: worked solutions, of reward 1"""
    steps: str = "plain"
    """extragradient: every other update is undone after it has shown where the policy would go"""

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Prepared:
        """Advantages, weights and denominators of a whole batch, without a gradient."""
        reward = self.reward(rollout).to(self.dtype or rollout.dtype)
        outcome = reward.sum(-1)
        keep = rollout.mask
        for mask in (m for m in self.mask if not m.LIVE):
            keep = keep & mask(rollout, outcome)[..., None]
        counted = keep.to(reward.dtype)
        plain = self.aggregate(counted, rollout)
        weight = plain
        for part in self.token_weight:
            weight = weight * part(rollout, counted)
        answers = counted.amax(-1)
        prepared = Prepared(
            data=rollout,
            weight=weight,
            plain=plain,
            each=answers / answers.sum((1, 2), keepdim=True).clamp(min=1),
            advantage=self.advantage(rollout, reward, counted),
            reward=outcome,
            returns=self.advantage.targets(rollout, reward) if isinstance(self.advantage, GAE) else None,
        )
        return replace(prepared, penalties=tuple(r.weigh(prepared, counted) for r in self.regulariser))

    def loss(
        self,
        prepared: Prepared,
        logp: Tensor,
        entropy: Tensor | None = None,
        mean_logp: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Tensor:
        """(R,): what these prompts add to the batch's loss; logp (R, n, G, L) and the rest as in `Live`."""
        live = Live(logp, entropy, mean_logp, value)
        element = self.surrogate(self.ratio(live, prepared), live, prepared)
        for mask in (m for m in self.mask if m.LIVE):
            kept = mask(live, prepared).to(element.dtype)
            element = element * (kept if element.ndim == kept.ndim else kept[..., None])
        answer = total(prepared.weight, element)
        for regulariser, weight in zip(self.regulariser, prepared.penalties, strict=True):
            answer = answer + total(weight, regulariser(live, prepared))
        if self.critic is not None:
            answer = answer + total(prepared.plain, self.critic(live, prepared))
        return answer


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe(Method):
    """A method that learns from preferences: link(scores of a prompt's answers) + regularisers, averaged over prompts.

    A rollout holds G = 2 answers, chosen and rejected, unless the link says otherwise.
    """

    family: str = "preference"
    group_size: int = 2
    score: Any
    link: Any
    weight: tuple[Any, ...] = ()
    regulariser: tuple[Any, ...] = ()
    data: str = "offline"
    """offline: a set of preferences; online: pairs drawn from the policy before each phase"""

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Prepared:
        counted = rollout.mask.to(self.dtype or rollout.dtype)
        each = counted.amax(-1)
        each = each / each.sum((1, 2), keepdim=True).clamp(min=1)
        return Prepared(rollout, counted, counted, each, advantage=each, reward=each)

    def loss(self, prepared: Prepared, logp: Tensor) -> Tensor:
        """(R,): what these prompts add to the batch's loss; logp (R, n, G, L)."""
        live = Live(logp)
        scores = self.score(live, prepared)
        element = self.link(scores, prepared)
        for part in self.weight:
            element = element * part(live, prepared)
        for part in self.regulariser:
            element = element + part(live, prepared)
        each = prepared.each if element.ndim == prepared.each.ndim else prepared.each.sum(-1)
        return (each * element).flatten(1).sum(-1)
