"""Bellman's operator over a flat batch, and the two-sided bounds that certify a value.

Let M = discount * P, h > 0 any function with slack(s, a) = h(s) - (M h)(s, a) > 0, and e = r + M V - V. Then

    V + c h  is superharmonic for  c = max_{s, a} e / slack                 =>  V*   <= V + c h
    V + c h  is subharmonic under a policy for  c = min_s e(s, pi) / slack  =>  V^pi >= V + c h

and one more backup tightens both. With one discount and h = 1 these are MacQueen's (1966) and Porteus' (1971) bounds;
h = 1 serves whenever every discount is below 1. Where some are 1, h is the longest time to termination.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP

CHUNK = 4 << 20  # bytes of P that are worked on at once: the last-level cache decides, not the batch
STRICT = 1e-12  # relative gain below which an improvement is rounding, on which policy iteration could cycle
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Backup:
    """An MDP as float64 tensors with one batch axis. A discount per successor is folded into P, others stay apart."""

    P: Float[Tensor, "B S A S"]
    r: Float[Tensor, "B S A"]
    mu0: Float[Tensor, "B S"]
    discount: Float[Tensor, "B S A"]
    missing: Tensor | None  # (B, S, A) bool: actions that do not exist

    def __getitem__(self, index) -> Backup:
        missing = None if self.missing is None else self.missing[index]
        return Backup(self.P[index], self.r[index], self.mu0[index], self.discount[index], missing)

    def __len__(self) -> int:
        return self.P.shape[0]

    def expect(self, V: Float[Tensor, "B S"]) -> Float[Tensor, "B S A"]:
        """M V; not meaningful where the action does not exist."""
        B, S, A, _ = self.P.shape
        return torch.bmm(self.P.reshape(B, S * A, S), V[..., None]).reshape(B, S, A).mul_(self.discount)

    def q(self, V: Float[Tensor, "B S"]) -> Float[Tensor, "B S A"]:
        Q = self.expect(V).add_(self.r)
        return Q if self.missing is None else Q.masked_fill_(self.missing, -torch.inf)

    def greedy(self, actions: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B S S"], Float[Tensor, "B S"]]:
        """(discounted kernel, reward) of a deterministic policy."""
        b = torch.arange(len(self), device=self.P.device)[:, None]
        s = torch.arange(self.P.shape[1], device=self.P.device)
        return self.P[b, s, actions].mul_(self.discount[b, s, actions][..., None]), self.r[b, s, actions]


def flatten(mdp: TabularMDP) -> Backup:
    """One batch axis, float64 (policy iteration cycles on ties in float32). Raises UserError for reward channels."""
    if mdp.num_channels:
        raise UserError("r has channels; valid is one reward, as by mdp.channel(k) or mdp.scalarize(weights).")
    flat = mdp.map(lambda t: t.reshape(-1, *t.shape[len(mdp.batch_shape) :])).to(dtype=torch.float64)
    missing = None if mdp.action_mask is None else ~flat.mask
    P, discount = flat.P, flat.discount
    if discount.ndim == P.ndim:
        P, discount = discount * P, torch.ones_like(flat.r)
    return Backup(P, flat.r, flat.mu0, discount, missing)


def chunks(problem: Backup) -> list[slice]:
    """Slices of the batch whose P fits into the cache."""
    size = max(1, CHUNK // max(1, problem.P[0].numel() * 8))
    return [slice(i, i + size) for i in range(0, len(problem), size)]


def take(values: Tensor, actions: Int[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    return values.gather(-1, actions[..., None])[..., 0]


@dataclass(frozen=True)
class Weight:
    """h and slack of the bounds above."""

    h: Float[Tensor, "B S"]
    slack: Float[Tensor, "B S A"]

    def __getitem__(self, index) -> Weight:
        return Weight(self.h[index], self.slack[index])


def weight(problem: Backup) -> Weight:
    """h = 1 where every discount is below 1, else the longest time to termination.

    Raises UserError when some policy never terminates and never discounts: then no bound of this kind exists.
    """
    ones = torch.ones_like(problem.mu0)
    slack = 1 - problem.expect(ones)
    if problem.missing is not None:
        slack = slack.masked_fill(problem.missing, 1.0)
    if bool((slack > 1e-9).all()):
        return Weight(ones, slack)
    unit = Backup(problem.P, torch.ones_like(problem.r), problem.mu0, problem.discount, problem.missing)
    h = _longest_time(unit)
    slack = h[..., None] - unit.expect(h)
    return Weight(h, slack if problem.missing is None else slack.masked_fill(problem.missing, 1.0))


def _longest_time(unit: Backup, limit: int = 1000) -> Float[Tensor, "B S"]:
    """sup over policies of the expected discounted time, by policy iteration; its fixed point proves it finite."""
    actions = unit.q(torch.zeros_like(unit.mu0)).argmax(-1)
    eye = torch.eye(unit.P.shape[1], dtype=unit.P.dtype, device=unit.P.device)
    for _ in range(limit):
        kernel, reward = unit.greedy(actions)
        h, info = torch.linalg.solve_ex(eye - kernel, reward)
        if bool((info != 0).any()) or not bool(((h > 0.5) & (h < 1e12)).all()):
            break
        Q = unit.q(h)
        best, greedy = Q.max(-1)
        better = best > take(Q, actions) + 1e-9 * h.amax(-1, keepdim=True)
        if not better.any():
            return h
        actions = torch.where(better, greedy, actions)
    raise UserError(
        "discount is 1 along a cycle that some policy never leaves; valid are discounts below 1, or 1 where every policy terminates."
    )  # noqa: E501


@dataclass(frozen=True)
class Bounds:
    lower: Float[Tensor, "B S"]  # of the value of `actions`, hence of V*
    upper: Float[Tensor, "B S"]  # of V*
    actions: Int[Tensor, "B S"]

    @property
    def middle(self) -> Float[Tensor, "B S"]:
        return (self.lower + self.upper) / 2

    @property
    def gap(self) -> Float[Tensor, " B"]:
        """Width relative to max(1, |V|)."""
        scale = torch.maximum(self.lower.abs(), self.upper.abs()).amax(-1).clamp(min=1)
        return (self.upper - self.lower).amax(-1) / scale


def bounds(
    V: Float[Tensor, "B S"], Q: Float[Tensor, "B S A"], w: Weight, actions: Int[Tensor, "B S"] | None = None
) -> Bounds:
    """Two-sided bounds from V and Q = r + M V, widened by the rounding of one backup; actions default to greedy."""
    if actions is None:
        actions = Q.argmax(-1)
    excess = (Q - V[..., None]) / w.slack
    own = take(Q, actions)
    rounding = 4 * EPS * torch.maximum(V.abs(), own.abs()).amax(-1) / w.slack.amin((-2, -1))
    high = excess.amax((-2, -1)) + rounding
    low = take(excess, actions).amin(-1) - rounding
    later = w.h[..., None] - w.slack
    upper = torch.addcmul(Q, high[:, None, None], later).amax(-1)
    return Bounds(own + low[:, None] * take(later, actions), upper, actions)
