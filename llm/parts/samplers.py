"""Which prompts come next. State is a dict of tensors (R, M) over M prompts, changed by pure functions:

init(R, M) -> state;  draw(state, uniforms (R, DRAWS, M), N) -> ids (R, N), without repeats;
update(state, ids, reward (R, N, G)) -> state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.parts.part import Part, at

State = dict[str, Tensor]
Weight = float | list[float]


def _top(keys: Tensor, count: int) -> Tensor:
    if count > keys.shape[-1]:
        raise UserError(f"{count} prompts are asked for, but there are {keys.shape[-1]}.")
    return keys.topk(count, -1).indices


def _weighted(uniform: Tensor, log_weight: Tensor, count: int) -> Tensor:
    """Ids in proportion to weights, without repeats: the largest of log w + Gumbel noise."""
    return _top(log_weight - torch.log(-torch.log(uniform)), count)


def _set(old: Tensor, ids: Tensor, new: Tensor) -> Tensor:
    return old.scatter(1, ids, new.to(old.dtype))


def _zeros(replicas: int, prompts: int, *names: str, device: torch.device | str = "cpu") -> State:
    return {name: torch.zeros(replicas, prompts, dtype=torch.float64, device=device) for name in names}


@dataclass(frozen=True)
class Uniform(Part):
    """Every prompt alike."""

    DRAWS: ClassVar[int] = 1

    def init(self, replicas: int, prompts: int, device: torch.device | str = "cpu") -> State:
        return {}

    def draw(self, state: State, uniforms: Tensor, count: int) -> Tensor:
        return _top(uniforms[:, 0], count)

    def update(self, state: State, ids: Tensor, reward: Tensor) -> State:
        return state


@dataclass(frozen=True)
class Difficulty(Part):
    """Prompts whose running success rate lies in [easiest, hardest], and unseen ones; others at a small weight. [25]"""

    DRAWS: ClassVar[int] = 1
    hardest: Weight = field(default=0.25, metadata={"range": (0, 1)})
    """least success rate of a prompt in the band"""
    easiest: Weight = field(default=0.75, metadata={"range": (0, 1)})
    """largest success rate of a prompt in the band"""
    memory: Weight = field(default=0.5, metadata={"range": (0, 1)})
    """share of the old success rate that a new group leaves"""
    outside: Weight = field(default=0.05, metadata={"range": (1e-9, 1)})
    """weight of a prompt outside the band"""

    def init(self, replicas: int, prompts: int, device: torch.device | str = "cpu") -> State:
        return _zeros(replicas, prompts, "mean", "seen", device=device)

    def draw(self, state: State, uniforms: Tensor, count: int) -> Tensor:
        mean = state["mean"]
        inside = (mean >= at(self.hardest, mean)) & (mean <= at(self.easiest, mean)) | (state["seen"] == 0)
        low = torch.ones_like(mean) * at(self.outside, mean)
        return _weighted(uniforms[:, 0].double(), torch.where(inside, torch.ones_like(mean), low).log(), count)

    def update(self, state: State, ids: Tensor, reward: Tensor) -> State:
        old, seen = state["mean"].gather(1, ids), state["seen"].gather(1, ids)
        now = reward.mean(-1).double()
        keep = torch.where(seen > 0, torch.ones_like(old) * at(self.memory, old), torch.zeros_like(old))
        return {
            "mean": _set(state["mean"], ids, keep * old + (1 - keep) * now),
            "seen": _set(state["seen"], ids, torch.ones_like(now)),
        }


@dataclass(frozen=True)
class UCB(Part):
    """softmax of (L + sqrt(2 ln(n + 1) / (n_d + 1))) / temperature, L a running mean of |r - group mean|. (DUMP [313].)

    Differs from the paper: one arm per prompt instead of per data set, a running mean instead of a window of 300.
    """

    DRAWS: ClassVar[int] = 1
    ucb_temperature: Weight = field(default=0.1, metadata={"range": (1e-6, None)})
    """of the softmax over scores"""
    memory: Weight = field(default=0.5, metadata={"range": (0, 1)})
    """share of the old mean that a new group leaves"""

    def init(self, replicas: int, prompts: int, device: torch.device | str = "cpu") -> State:
        return _zeros(replicas, prompts, "signal", "count", device=device)

    def scores(self, state: State) -> Tensor:
        count = state["count"]
        return state["signal"] + (2 * torch.log(count.sum(-1, keepdim=True) + 1) / (count + 1)).sqrt()

    def draw(self, state: State, uniforms: Tensor, count: int) -> Tensor:
        scores = self.scores(state)
        return _weighted(uniforms[:, 0].double(), scores / at(self.ucb_temperature, scores), count)

    def update(self, state: State, ids: Tensor, reward: Tensor) -> State:
        old, seen = state["signal"].gather(1, ids), state["count"].gather(1, ids)
        now = (reward - reward.mean(-1, keepdim=True)).abs().mean(-1).double()
        keep = torch.where(seen > 0, torch.ones_like(old) * at(self.memory, old), torch.zeros_like(old))
        return {
            "signal": _set(state["signal"], ids, keep * old + (1 - keep) * now),
            "count": _set(state["count"], ids, seen + reward.shape[-1]),
        }


def gamma_quantile(shape: Tensor, uniform: Tensor, steps: int = 60) -> Tensor:
    """x with P(Gamma(shape) <= x) = uniform, by bisection on log x: one uniform number per draw."""
    low, high = torch.full_like(shape, -80.0), torch.log(shape + 12 * shape.sqrt() + 40)
    for _ in range(steps):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle.exp()) < uniform
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).exp()


@dataclass(frozen=True)
class Thompson(Part):
    """p ~ Beta(a, b) per prompt, the prompts with the largest p (1 - p). (VADE [61].)

    The counts of sampled prompts are forgotten by `forget`, those of all others drawn towards the prior by `drift`. The
    paper's gain and decays were not seen: p (1 - p) is the variance of a binary reward.
    """

    DRAWS: ClassVar[int] = 2
    forget: Weight = field(default=0.8, metadata={"range": (0, 1)})
    """share of a prompt's counts that a new group leaves"""
    drift: Weight = field(default=0.99, metadata={"range": (0, 1)})
    """share of its distance from the prior that an unsampled prompt keeps per update"""

    def init(self, replicas: int, prompts: int, device: torch.device | str = "cpu") -> State:
        return {k: v + 1 for k, v in _zeros(replicas, prompts, "success", "failure", device=device).items()}

    def draw(self, state: State, uniforms: Tensor, count: int) -> Tensor:
        x, y = (gamma_quantile(state[k], uniforms[:, i].double()) for i, k in enumerate(("success", "failure")))
        p = x / (x + y)
        return _top(p * (1 - p), count)

    def update(self, state: State, ids: Tensor, reward: Tensor) -> State:
        new = {}
        for name, now in (("success", reward.sum(-1)), ("failure", (1 - reward).sum(-1))):
            old = state[name]
            drifted = 1 + (old - 1) * at(self.drift, old)
            mine = old.gather(1, ids)
            new[name] = _set(drifted, ids, at(self.forget, mine) * mine + now)
        return new
