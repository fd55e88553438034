"""What a reward can say, clocks of hierarchical values, and the potential behind exploration bounds."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng


def bandits(rng: Rng, n: int) -> Problem:
    return dict(r=rng.normal(n, 2))


def _markov_reward(p: Problem, entropy_weight: float = 0.0) -> ClaimReport:
    """J(uniform) <= max of the two arms for every reward: "uniform strictly best" is not expressible."""
    mixed = p["r"].mean(-1) + entropy_weight * math.log(2)
    return ClaimReport(mixed - p["r"].amax(-1), 1e-12)


MARKOV_REWARD = Claim(
    paper=5,
    kind="theorem",
    statement="no Markov reward makes the uniform policy of a two-armed bandit strictly best; an entropy bonus does",
    problems=bandits,
    check=_markov_reward,
    twin=Twin("a reward without regularisation", check=lambda p: _markov_reward(p, 5.0)),
    source="derived",
)


def corridors(rng: Rng, n: int) -> Problem:
    """A chain of length d, a clock of n steps per decision, and a subgoal k steps ahead."""
    return dict(d=(400 + rng.integers(600, n)).to(torch.float64), n=(2 + rng.integers(4, n)).to(torch.float64))


def _option_clock(p: Problem, same_clock: bool = False) -> ClaimReport:
    """V_n(d) = -(1 - g^ceil(d/n))/(1 - g) by its recursion, and a slower clock amplifies the advantage of 25 steps."""
    gamma, recursion = 0.99, [torch.zeros_like(p["d"])]
    for _ in range(1000):
        recursion.append(-1 + gamma * recursion[-1])
    table = torch.stack(recursion, -1)

    def value(d: Tensor, clock: Tensor) -> Tensor:
        steps = (d / clock).ceil()
        closed = -(1 - gamma**steps) / (1 - gamma)
        exact = table.gather(-1, steps.long()[:, None])[:, 0]
        return torch.where((closed - exact).abs() < 1e-9, exact, torch.nan)

    one = torch.ones_like(p["d"])
    clock = one if same_clock else p["n"]
    slow, fast = (value(p["d"] - 25, c) - value(p["d"], c) for c in (clock, one))
    return ClaimReport(1.2 * fast - slow, 0.0)


OPTION_CLOCK = Claim(
    paper=147,
    kind="theorem",
    statement="OTA: with n steps per clock tick V = -(1 - g^ceil(d/n))/(1 - g), and far from the goal the advantage "
    "of a "
    "subgoal 25 steps ahead grows",
    problems=corridors,
    check=_option_clock,
    twin=Twin("the slower clock", check=lambda p: _option_clock(p, True)),
    source="derived",
)


def features(rng: Rng, n: int) -> Problem:
    x = rng.normal(n, 200, 4)
    return dict(x=x / x.norm(dim=-1, keepdim=True))


def _elliptical(p: Problem, scale: float = 1.0) -> ClaimReport:
    """sum_t min(1, |x_t|^2 in Lambda_t^{-1}) <= 2 d log(1 + T/d), Lambda_0 = I."""
    rounds, d = p["x"].shape[1:]
    inverse, total = torch.eye(d).to(p["x"]).expand(len(p["x"]), d, d), torch.zeros(len(p["x"])).to(p["x"])
    for t in range(rounds):
        move = torch.einsum("nij,nj->ni", inverse, p["x"][:, t])
        size = (p["x"][:, t] * move).sum(-1)
        total = total + size.clamp(max=1)
        inverse = inverse - move[:, :, None] * move[:, None] / (1 + size)[:, None, None]
    return ClaimReport(total - scale * 2 * d * math.log(1 + rounds / d), 1e-9)


ELLIPTICAL = Claim(
    paper=245,
    kind="theorem",
    statement="elliptical potential: sum_t min(1, |phi_t|^2_{Lambda^-1}) <= 2 d log(1 + T/(d lambda)), so few policy "
    "switches",
    problems=features,
    check=_elliptical,
    twin=Twin("the factor 2 d log (a quarter of it)", check=lambda p: _elliptical(p, 0.25)),
    source="derived",
    n=64,
)


def chains(rng: Rng, n: int) -> Problem:
    """Four steps of a Markov chain with rewards, started in a fixed state."""
    return dict(P=rng.simplex(n, 4, 3, 3), r=rng.normal(n, 4, 3))


def _total_variance(p: Problem, steps: int = 4) -> ClaimReport:
    """Var(sum r) by enumeration of paths against E sum_h Var(V_{h+1})."""
    n = len(p["r"])
    values = [torch.zeros(n, 3, dtype=p["r"].dtype)]
    for h in reversed(range(4)):
        values.insert(0, p["r"][:, h] + torch.einsum("nst,nt->ns", p["P"][:, h], values[0]))
    law = torch.zeros(n, 3, dtype=p["r"].dtype)
    law[:, 0] = 1.0
    inside = torch.zeros(n, dtype=p["r"].dtype)
    for h in range(steps):
        mean = torch.einsum("nst,nt->ns", p["P"][:, h], values[h + 1])
        square = torch.einsum("nst,nt->ns", p["P"][:, h], values[h + 1].square())
        inside = inside + (law * (square - mean.square())).sum(-1)
        law = torch.einsum("ns,nst->nt", law, p["P"][:, h])
    paths = torch.tensor([(0, *rest) for rest in itertools.product(range(3), repeat=4)])
    prob = torch.stack([p["P"][:, h, paths[:, h], paths[:, h + 1]] for h in range(4)], -1).prod(-1)
    total = torch.stack([p["r"][:, h, paths[:, h]] for h in range(4)], -1).sum(-1)
    variance = (prob * total.square()).sum(-1) - (prob * total).sum(-1).square()
    return ClaimReport((variance - inside).abs(), 1e-11)


TOTAL_VARIANCE = Claim(
    paper=33,
    kind="theorem",
    statement="law of total variance along the horizon: Var(sum_h r_h) = E sum_h Var_P V_{h+1}(s_h)",
    problems=chains,
    check=_total_variance,
    twin=Twin("the second step's variance (only the first step's)", check=lambda p: _total_variance(p, 1)),
    source="derived",
)
