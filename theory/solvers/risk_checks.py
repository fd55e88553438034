"""Certificates of risk measures: moments by Bellman recursion, and the dual of CVaR."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution

TRIED = 32


def check_cvar(mdp: TabularMDP, answer: Solution, level: float, horizon: int) -> dict[str, Tensor]:
    """attained: the law's CVaR, by sorting, is V. law: it is a distribution. upper: no policy does better at any
    tried b (all possible returns up to TRIED of them, else evenly spaced ones: then no full proof).

    upper recurses on the deficit itself, E(b - G)^+ = discount E(b' - G')^+ with b' = (b - r) / discount, without the
    table of returns so far.
    """
    atoms, p = answer.extra["atoms"], answer.extra["probabilities"]
    order = atoms.argsort()
    mass = p[order].cumsum(0).clamp(max=level)
    share = torch.diff(mass, prepend=mass.new_zeros(1))
    attained = (share * atoms[order]).sum() / level
    every = torch.unique(atoms)
    some = every[torch.linspace(0, len(every) - 1, min(len(every), TRIED), device=atoms.device).round().long()]
    bounds = torch.cat([answer.extra["threshold"][None], some])
    best = torch.stack([b - _least_shortfall(mdp, b, horizon) / level for b in bounds]).max()
    return {
        "attained": (attained - answer.V).abs(),
        "law": torch.maximum((p.sum() - 1).abs(), (-p).max().clamp(min=0)),
        "upper": (best - answer.V).clamp(min=0),
    }


def _least_shortfall(mdp: TabularMDP, b: Tensor, horizon: int) -> Tensor:
    """min over policies of E (b - G)^+ by depth-first recursion, cached on (time, state, rounded remaining deficit)."""
    gamma, cache = float(mdp.discount.max()), {}
    P, r, mask, over = mdp.P.tolist(), mdp.r.tolist(), mdp.mask.tolist(), (mdp.discount == 0).tolist()

    def least(t: int, s: int, deficit: float) -> float:
        if t == horizon:
            return max(deficit, 0.0)
        key = (t, s, round(deficit, 10))
        if key not in cache:
            cache[key] = min(value(t, s, a, deficit) for a in range(len(mask[s])) if mask[s][a])
        return cache[key]

    def value(t: int, s: int, a: int, deficit: float) -> float:
        left = deficit - r[s][a]
        if over[s][a] or gamma == 0:
            return max(left, 0.0)
        return gamma * sum(p * least(t + 1, n, left / gamma) for n, p in enumerate(P[s][a]) if p > 0)

    return mdp.r.new_tensor(sum(p * least(0, s, float(b)) for s, p in enumerate(mdp.mu0.tolist()) if p > 0))


def check_entropic(mdp: TabularMDP, answer: Solution, risk: float, horizon: int) -> dict[str, Tensor]:
    """Recursion on U = E exp(-risk discount^t G) of the policy (attained), and no action has a better U (greedy)."""
    V, policy = answer.V, answer.policy
    gamma = float(mdp.discount.max())
    attained, greedy = V.new_zeros(()), V.new_zeros(())
    goes = (mdp.discount > 0).to(V)[..., None]
    for t in range(horizon):
        level = risk * gamma**t
        # U' = exp(-level * discount * V') of the certified next value
        U = torch.exp(-level * mdp.r) * (mdp.P * torch.exp(-level * gamma * goes * V[t + 1])).sum(-1)
        Q = (-torch.log(U) / level).masked_fill(~mdp.mask, -torch.inf)
        attained = torch.maximum(attained, ((policy[t] * Q.nan_to_num(neginf=0.0)).sum(-1) - V[t]).abs().max())
        greedy = torch.maximum(greedy, (Q.amax(-1) - V[t]).clamp(min=0).max())
    return {"attained": attained, "greedy": greedy, "boundary": V[horizon].abs().max()}


def check_return_law(mdp: TabularMDP, answer: Solution, policy: Tensor, horizon: int) -> dict[str, Tensor]:
    """Mass one, and the first two moments by backward recursion: M2 = r^2 + 2 r discount M1' + discount^2 M2'."""
    atoms, p = answer.extra["atoms"], answer.extra["probabilities"]
    steps = policy.expand(horizon, *mdp.r.shape)
    m1 = m2 = mdp.r.new_zeros(mdp.num_states)
    for t in reversed(range(horizon)):
        next1, next2 = mdp.P @ m1, mdp.P @ m2
        second = mdp.r**2 + 2 * mdp.r * mdp.discount * next1 + mdp.discount**2 * next2
        m1, m2 = (steps[t] * (mdp.r + mdp.discount * next1)).sum(-1), (steps[t] * second).sum(-1)
    return {
        "law": torch.maximum((p.sum() - 1).abs(), (-p).max().clamp(min=0)),
        "mean": ((p * atoms).sum() - (mdp.mu0 * m1).sum()).abs(),
        "second_moment": ((p * atoms**2).sum() - (mdp.mu0 * m2).sum()).abs(),
    }
