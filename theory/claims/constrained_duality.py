"""Lagrangian duality of constrained MDPs: multipliers, primal-dual iterates, how much an optimum randomises."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.limits import constrained
from fenchel.theory.claims.tools import worst
from fenchel.theory.instances.generated import garnet
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value


def _optimum(p: Problem) -> tuple[Tensor, Tensor]:
    """(v*, lambda*) (n,) by the linear program."""
    found = [
        solve(p["mdp"][i], "cmdp", budgets=p["budget"][i : i + 1], unit="discounted", method="lp")
        for i in range(len(p["budget"]))
    ]
    return torch.stack([a.lower for a in found]), torch.stack([a.multipliers[0] for a in found])


def _slater(p: Problem, strictly: bool = True) -> ClaimReport:
    """Over all deterministic policies on one side of the limit."""
    value, lam = _optimum(p)
    slack = p["budget"][:, None] - p["cost"]
    bound = (value[:, None] - p["reward"]) / slack
    side = slack > 1e-6 if strictly else slack < -1e-6
    over = torch.where(side, lam[:, None] - bound, -torch.inf).amax(-1)
    return ClaimReport(over, 1e-6 * (1 + lam))


SLATER = Claim(
    paper=108,
    kind="theorem",
    statement="constrained MDP: lambda* <= (v* - J_r(pi)) / (d - J_c(pi)) for every policy pi strictly within the "
    "limit",
    problems=constrained,
    check=_slater,
    twin=Twin("strict feasibility (policies beyond the limit)", check=lambda p: _slater(p, False)),
    source="derived",
    n=16,
)


def _iterates(p: Problem, respond: bool = True, steps: int = 200) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(Lagrangians (n, K), rewards (n, K), costs (n, K), last multiplier (n,)) of lam <- (lam + eta (J_c - d))_+
    against the best policy for each lam, or against the cheapest one."""
    lam, budget = torch.zeros_like(p["budget"]), p["budget"]
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        value = p["reward"] - lam[:, None] * (p["cost"] - budget[:, None])
        best = (value if respond else -p["cost"]).argmax(-1, keepdim=True)
        reward, cost = p["reward"].gather(1, best)[:, 0], p["cost"].gather(1, best)[:, 0]
        rows.append((reward - lam * (cost - budget), reward, cost))
        lam = (lam + p["step"] * (cost - budget)).clamp(min=0)
    value, reward, cost = (torch.stack(column, -1) for column in zip(*rows, strict=True))
    return value, reward, cost, lam


def _stepped(rng: Rng, n: int) -> Problem:
    return constrained(rng, n) | dict(step=rng.uniform(n, low=0.01, high=0.3))


def _weak_duality(p: Problem, respond: bool = True) -> ClaimReport:
    lagrangians = _iterates(p, respond)[0]
    return ClaimReport((_optimum(p)[0][:, None] - lagrangians).amax(-1), 1e-7)


WEAK_DUALITY = Claim(
    paper=108,
    kind="theorem",
    statement="along lam <- (lam + eta (J_c - d))_+ every max over pi of J_r - lam (J_c - d) is at least v*",
    problems=_stepped,
    check=_weak_duality,
    twin=Twin("the maximum over policies (the cheapest one)", check=lambda p: _weak_duality(p, False)),
    source="derived",
    n=16,
)


def _average_iterate(p: Problem, mean: bool = True) -> ClaimReport:
    """Residual of both sides: what the limit is exceeded by, and what v* is missed by, beyond the bounds."""
    _, reward, cost, lam = _iterates(p)
    over, eta, K = cost - p["budget"][:, None], p["step"], cost.shape[1]
    if not mean:
        reward, over = reward[:, -1:], over[:, -1:]
    spent = over.mean(-1) - lam / (eta * K)
    # sum lam (J_c - d) >= - eta sum (J_c - d)^2 / 2, from lam_{k+1}^2 <= lam_k^2 + 2 eta lam (J_c - d) + eta^2 (...)^2
    lost = _optimum(p)[0] - reward.mean(-1) - eta * (cost - p["budget"][:, None]).square().mean(-1) / 2
    return ClaimReport(worst(spent, lost), 1e-7)


AVERAGE_ITERATE = Claim(
    paper=108,
    kind="theorem",
    statement="K primal-dual steps: the uniform mixture of their policies exceeds the limit by at most lam_K / (eta K) "
    "and misses v* by at most eta mean (J_c - d)^2 / 2",
    problems=_stepped,
    check=_average_iterate,
    twin=Twin("the mixture (the last best response alone)", check=lambda p: _average_iterate(p, False)),
    source="derived",
    n=16,
)


def _two_budgets(rng: Rng, n: int) -> Problem:
    """Two costs, whose limits are what a random policy pays."""
    mdp = garnet(rng, n, 6, 3, 3, 0.9, channels=3)
    paid = (mdp.mu0[..., None, :] * policy_value(mdp, rng.simplex(n, 6, 3))).sum(-1)
    return dict(mdp=mdp, budget=paid[:, 1:])


def _randomised(p: Problem, allowed: int = 2) -> ClaimReport:
    """The number of states in which a basic optimal occupancy has more than one action."""
    counts = []
    for i in range(len(p["budget"])):
        d = solve(p["mdp"][i], "cmdp", budgets=p["budget"][i], unit="discounted", method="lp").occupancy
        counts.append(((d > 1e-9).sum(-1) > 1).sum())
    return ClaimReport(torch.stack(counts).to(p["budget"]) - allowed, 0.0)


RANDOMISATION = Claim(
    paper=108,
    kind="theorem",
    statement="a basic optimal solution of a constrained MDP with m costs randomises in at most m states (checked: m = "
    "2)",
    problems=_two_budgets,
    check=_randomised,
    twin=Twin("one of the m states", check=lambda p: _randomised(p, 1)),
    source="derived",
    n=32,
)


def _one_policy(p: Problem, mixed: bool = False) -> ClaimReport:
    """At lambda* no deterministic policy among the Lagrangian's optima spends the limit: all are over it or below."""
    value, lam = _optimum(p)
    lagrangian = p["reward"] - lam[:, None] * (p["cost"] - p["budget"][:, None])
    optimal = lagrangian >= value[:, None] - 1e-6 * (1 + value.abs()[:, None])
    apart = torch.where(optimal, (p["cost"] - p["budget"][:, None]).abs(), torch.inf).amin(-1)
    if mixed:  # of the two nearest, one on either side, a mixture spends it exactly
        apart = torch.zeros_like(apart)
    return ClaimReport(1e-6 - apart, 0.0)


ONE_POLICY = Claim(
    paper=108,
    kind="counterexample",
    statement="at lambda* no deterministic maximiser of the Lagrangian spends the limit exactly: it breaks it or "
    "wastes some of it",
    problems=constrained,
    check=_one_policy,
    twin=Twin("determinism (a mixture of two maximisers)", check=lambda p: _one_policy(p, True)),
    source="derived",
    n=16,
)
