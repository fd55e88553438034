"""Policy improvement in discounted MDPs: performance difference, trust regions, mirror descent, guidance.

A problem is an `mdp` (n Garnets) with policies `p` and `q` (n, S, A). Values come from exact linear solves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import kl
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import occupancy, policy_iteration, policy_value, q_values

STATES, ACTIONS, GAMMA = 5, 3, 0.8


def problems(rng: Rng, n: int) -> Problem:
    mdp = garnet(rng, n, STATES, ACTIONS, 3, GAMMA)
    p = rng.simplex(n, STATES, ACTIONS)
    return dict(mdp=mdp, p=p, q=0.7 * p + 0.3 * rng.simplex(n, STATES, ACTIONS))


def unit_rewards(rng: Rng, n: int) -> Problem:
    """Rewards in [0, 1]."""
    p = problems(rng, n)
    return p | dict(mdp=replace_reward(p["mdp"], torch.sigmoid(2 * p["mdp"].r)))


def value(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """J = mu0 V, (n,)."""
    return (mdp.mu0 * policy_value(mdp, policy)).sum(-1)


def advantage(mdp: TabularMDP, policy: Tensor) -> Tensor:
    V = policy_value(mdp, policy)
    return q_values(mdp, V) - V[..., None]


def optimum(mdp: TabularMDP) -> Tensor:
    return (mdp.mu0 * policy_iteration(mdp)[0]).sum(-1)


def surrogate(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """L = J(old) + sum_s d_old(s) sum_a new(a|s) A_old(s, a), d unnormalised."""
    state = occupancy(mdp, old).sum(-1)
    return value(mdp, old) + (state * (new * advantage(mdp, old)).sum(-1)).sum(-1)


def _difference(p: Problem, own_visits: bool = True) -> ClaimReport:
    mdp = p["mdp"]
    visits = occupancy(mdp, p["q"] if own_visits else p["p"]).sum(-1)
    gain = (visits * (p["q"] * advantage(mdp, p["p"])).sum(-1)).sum(-1)
    return ClaimReport((value(mdp, p["q"]) - value(mdp, p["p"]) - gain).abs(), 1e-11)


DIFFERENCE = Claim(
    paper=228,
    kind="theorem",
    statement="performance difference: J(q) - J(p) = sum_s d_q(s) sum_a q(a|s) A_p(s, a)",
    problems=problems,
    check=_difference,
    twin=Twin("the new policy's state visits", check=lambda p: _difference(p, False)),
    source="derived",
)


def _trust_region(p: Problem, penalty: float = 1.0) -> ClaimReport:
    mdp = p["mdp"]
    eps = advantage(mdp, p["p"]).abs().amax((-2, -1))
    divergence = kl(p["p"], p["q"]).amax(-1)
    bound = surrogate(mdp, p["p"], p["q"]) - penalty * 4 * eps * GAMMA / (1 - GAMMA) ** 2 * divergence
    return ClaimReport(bound - value(mdp, p["q"]), 1e-11)


TRUST_REGION = Claim(
    paper=228,
    kind="theorem",
    statement="TRPO's bound: J(q) >= L_p(q) - 4 eps gamma / (1 - gamma)^2 max_s KL(p, q), eps = max |A_p|",
    problems=problems,
    check=_trust_region,
    twin=Twin("the penalty", check=lambda p: _trust_region(p, 0.0)),
    source="derived",
)


def _mirror_descent(p: Problem, stale: bool = False) -> ClaimReport:
    """Ten exact steps pi ~ pi e^{t A}: no state's value may fall."""
    mdp, pi = p["mdp"], p["p"]
    first = advantage(mdp, pi)
    drops = []
    for step in (0.3, 1.0, 3.0, 0.1, 10.0, 0.5, 1.0, 2.0, 5.0, 1.0):
        following = torch.softmax(pi.clamp(min=1e-300).log() + step * (first if stale else advantage(mdp, pi)), -1)
        drops.append((policy_value(mdp, pi) - policy_value(mdp, following)).amax(-1))
        pi = following
    return ClaimReport(torch.stack(drops).amax(0), 1e-10)


MIRROR_DESCENT = Claim(
    paper=69,
    kind="theorem",
    statement="exact mirror-descent steps pi' ~ pi e^{t A_pi} never lower the value of any state, whatever t",
    problems=problems,
    check=_mirror_descent,
    twin=Twin("the current policy's advantage (the first one's for ever)", check=lambda p: _mirror_descent(p, True)),
    source="derived",
)


def npg_problems(rng: Rng, n: int) -> Problem:
    p = unit_rewards(rng, n)
    mdp = p["mdp"]
    return dict(mdp=TabularMDP(mdp.P, mdp.r, mdp.mu0, 0.5))


def _natural_gradient(p: Problem, entropy_term: bool = True, eta: float = 0.05, rounds: int = 40) -> ClaimReport:
    mdp = p["mdp"]
    gamma = mdp.discount.amax((-2, -1))
    pi = torch.full_like(mdp.r, 1 / ACTIONS)
    for _ in range(rounds):
        pi = torch.softmax(pi.log() + eta * q_values(mdp, policy_value(mdp, pi)), -1)
    bound = (math.log(ACTIONS) / (eta * rounds) if entropy_term else 0.0) + 1 / ((1 - gamma) ** 2 * rounds)
    return ClaimReport(optimum(mdp) - value(mdp, pi) - bound, 1e-11)


NATURAL_GRADIENT = Claim(
    paper=64,
    kind="theorem",
    statement="tabular natural policy gradient, r in [0, 1]: J* - J_T <= log A / (eta T) + 1 / ((1 - gamma)^2 T)",
    problems=npg_problems,
    check=_natural_gradient,
    twin=Twin("the term log A / (eta T)", check=lambda p: _natural_gradient(p, False)),
    source="derived",
)


def _domination(p: Problem, scale: float = 1.0) -> ClaimReport:
    """Softmax with the last logit fixed: J* - J <= M_g / mu_F |grad J|, mu_F the least eigenvalue of the Fisher
    matrix."""
    mdp, pi = p["mdp"], p["p"]
    visits = occupancy(mdp, pi).sum(-1)
    free = pi[..., :-1]
    fisher = torch.diag_embed(free) - free[..., :, None] * free[..., None, :]
    weight = (1 - GAMMA) * visits
    least = (weight[..., None] * torch.linalg.eigvalsh(fisher)).amin((-2, -1))
    score = (torch.eye(ACTIONS).to(pi) - pi[..., None, :])[..., :-1].norm(dim=-1).amax((-2, -1))
    gradient = (visits[..., None] * pi * advantage(mdp, pi))[..., :-1].flatten(1).norm(dim=-1)
    return ClaimReport(optimum(mdp) - value(mdp, pi) - scale * score / least * gradient, 1e-10)


DOMINATION = Claim(
    paper=53,
    kind="theorem",
    statement="Fisher-non-degenerate softmax policies: J* - J <= (M_g / mu_F) |grad J|, so no stationary point is bad",
    problems=problems,
    check=_domination,
    twin=Twin("the factor M_g / mu_F (a hundredth of it)", check=lambda p: _domination(p, 0.01)),
    source="derived",
)


def _guidance(p: Problem, sign: float = 1.0) -> ClaimReport:
    """f(A) = e^{w A} for a range of w: pi f(A) / normaliser improves every state's value."""
    mdp, pi = p["mdp"], p["p"]
    a, before = advantage(mdp, pi), policy_value(mdp, pi)
    drops = []
    for w in (0.1, 1.0, 3.0, 30.0):
        guided = torch.softmax(pi.log() + sign * w * a, -1)
        drops.append((before - policy_value(mdp, guided)).amax(-1))
    return ClaimReport(torch.stack(drops).amax(0), 1e-10)


GUIDANCE = Claim(
    paper=280,
    kind="theorem",
    statement="CFGRL: pi(a|s) f(A(s, a)) with f >= 0 non-decreasing, renormalised, improves the value of every state",
    problems=problems,
    check=_guidance,
    twin=Twin("a non-decreasing f", check=lambda p: _guidance(p, -1.0)),
    source="derived",
)


def _guidance_weight(p: Problem) -> ClaimReport:
    """Among random MDPs, J(pi e^{wA}) must fall somewhere along increasing w by more than the margin."""
    mdp, pi = p["mdp"], p["p"]
    a = advantage(mdp, pi)
    path = torch.stack([value(mdp, torch.softmax(pi.log() + w * a, -1)) for w in torch.linspace(0, 40, 81).tolist()])
    fall = (path[:-1] - path[1:]).clamp(min=0).sum(0).amax()
    return ClaimReport((1e-2 - fall).reshape(1), 0.0)


GUIDANCE_WEIGHT = Claim(
    paper=280,
    kind="counterexample",
    statement="more guidance is not always better: J(pi e^{wA}) is not monotone in w (some of 256 Garnets fall by > "
    "0.01)",
    problems=problems,
    check=_guidance_weight,
    source="derived",
)
