"""Regularised control: maximum entropy, its derivative in the reward, and a reference policy as the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.policy_improvement import ACTIONS, GAMMA, STATES, optimum, problems, value
from fenchel.theory.claims.tools import kl
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import occupancy, policy_iteration, policy_value, q_values


def soft(rng: Rng, n: int) -> Problem:
    return dict(mdp=garnet(rng, n, STATES, ACTIONS, 3, GAMMA), alpha=rng.uniform(n, low=0.1, high=2.0))


def soft_values(mdp: TabularMDP, alpha: Tensor, rounds: int = 250) -> tuple[Tensor, Tensor]:
    """Q, V of maximum-entropy control by iterating its backup."""
    V = torch.zeros_like(mdp.mu0)
    for _ in range(rounds):
        Q = q_values(mdp, V)
        V = alpha[:, None] * torch.logsumexp(Q / alpha[:, None, None], -1)
    return q_values(mdp, V), V


def _regret_preference(p: Problem, hard: bool = False) -> ClaimReport:
    """alpha log pi* = A* on the entropy-regularised optimum found independently by policy iteration on soft
    policies."""
    mdp, alpha = p["mdp"], p["alpha"][:, None, None]
    pi = torch.full_like(mdp.r, 1 / ACTIONS)
    for _ in range(60):
        bonus = replace_reward(mdp, mdp.r - alpha * pi.log())
        pi = torch.softmax(q_values(mdp, policy_value(bonus, pi)) / alpha, -1)
    if hard:
        V = policy_iteration(mdp)[0]
        a = q_values(mdp, V) - V[..., None]
    else:
        Q, V = soft_values(mdp, p["alpha"])
        a = Q - V[..., None]
    return ClaimReport((alpha * pi.log() - a).abs().amax((-2, -1)), 1e-8)


REGRET_PREFERENCE = Claim(
    paper=22,
    kind="theorem",
    statement="CPL: in maximum-entropy control the optimal advantage is alpha log pi*, so preferences by regret fix "
    "pi*",
    problems=soft,
    check=_regret_preference,
    twin=Twin("entropy regularisation (the hard advantage)", check=lambda p: _regret_preference(p, True)),
    source="derived",
    n=64,
)


def _hypergradient(p: Problem, occupancy_term: bool = True) -> ClaimReport:
    """d U(pi_nu) / d nu(s, a) for pi_nu soft-optimal for reward nu, utility u: formula against finite differences."""
    mdp, alpha = p["mdp"], p["alpha"]
    utility = replace_reward(mdp, p["u"])
    Q, _ = soft_values(mdp, alpha, 400)
    pi = torch.softmax(Q / alpha[:, None, None], -1)
    q_u = q_values(utility, policy_value(utility, pi))
    visits = occupancy(mdp, pi).sum(-1)
    # direction e: G(s, a) = derivative of Q(s, a) = discounted sum of e from (s, a); centred under pi
    direction = replace_reward(mdp, p["e"])
    g = q_values(direction, policy_value(direction, pi))
    centred = (g - (pi * g).sum(-1, keepdim=True)) / alpha[:, None, None]
    weight = visits if occupancy_term else mdp.mu0
    formula = (weight[..., None] * pi * q_u * centred).sum((-2, -1))

    def upper(step: float) -> Tensor:
        shifted, _ = soft_values(replace_reward(mdp, mdp.r + step * p["e"]), alpha, 400)
        return value(utility, torch.softmax(shifted / alpha[:, None, None], -1))

    numeric = (upper(1e-5) - upper(-1e-5)) / 2e-5
    return ClaimReport((formula - numeric).abs() / (1 + numeric.abs()), 1e-6)


HYPERGRADIENT = Claim(
    paper=18,
    kind="theorem",
    statement="PARL: the upper objective's gradient contains the reward's effect on the occupancy: sum_s d(s) sum_a "
    "pi Q_u "
    "(G - G_bar) / tau",
    problems=lambda rng, n: soft(rng, n) | dict(u=rng.normal(n, STATES, ACTIONS), e=rng.normal(n, STATES, ACTIONS)),
    check=_hypergradient,
    twin=Twin("the effect on later states", check=lambda p: _hypergradient(p, False)),
    source="derived",
    n=32,
)


def _demonstrations(p: Problem, weight: float = 1.0) -> ClaimReport:
    """V* - V^{pi_lam} <= eps_E + lam KL_traj(pi_E, pi_BC) for the exact regularised optimum pi_lam."""
    mdp, alpha = p["mdp"], p["alpha"]
    reference, expert = p["p"], p["q"]
    V = torch.zeros_like(mdp.mu0)
    for _ in range(250):
        V = alpha[:, None] * torch.logsumexp(reference.log() + q_values(mdp, V) / alpha[:, None, None], -1)
    pi = torch.softmax(reference.log() + q_values(mdp, V) / alpha[:, None, None], -1)
    trajectory = (occupancy(mdp, expert).sum(-1) * kl(expert, reference)).sum(-1)
    expert_gap = optimum(mdp) - value(mdp, expert)
    gap = optimum(mdp) - value(mdp, pi)
    return ClaimReport(gap - expert_gap - weight * alpha * trajectory, 1e-9)


DEMONSTRATIONS = Claim(
    paper=14,
    kind="theorem",
    statement="demonstration-regularised RL: V* - V^{pi_lam} <= eps_E + lam KL_traj(pi_E, pi_BC)",
    problems=lambda rng, n: problems(rng, n) | dict(alpha=rng.uniform(n, low=0.5, high=30.0)),
    check=_demonstrations,
    twin=Twin("the term lam KL_traj", check=lambda p: _demonstrations(p, 0.0)),
    source="derived",
)
