"""What preference data do not cover: uncovered responses, misspecified rewards and misspecified policies.

Losses are enumerated; policies are compared by V(pi) = E_pi r - b KL(pi, ref).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import expect, kl, regularised, tilt, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng


def pair_loss(P: Tensor, pairs: Tensor, beta: Tensor, score: Tensor) -> Tensor:
    """DPO's mean loss per labelled pair; P, pairs (n, Y, Y), score (n, K, Y) of log-ratios -> (n, K)."""
    each = loss.dpo(score[..., :, None], score[..., None, :], beta=beta[:, None, None, None])
    return ((pairs * P)[:, None] * each).sum((-1, -2)) / (pairs * P).sum((-1, -2))[:, None]


def _third_unseen(rng: Rng, n: int) -> Problem:
    """Three responses; pairs of the first two only; the third is rare under the reference."""
    rare = torch.exp(-rng.uniform(n, low=4.0, high=20.0))
    ref = torch.cat([rng.simplex(n, 2) * (1 - rare)[:, None], rare[:, None]], -1)
    r = rng.normal(n, 3)
    seen = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).to(ref).expand(n, 3, 3)
    draw = dict(ref=ref, r=r, pairs=seen, P=torch.sigmoid(r[:, :, None] - r[:, None, :]))
    return draw | dict(beta=rng.uniform(n, low=0.3, high=2.0))


def _all_seen(rng: Rng, n: int) -> Problem:
    p = _third_unseen(rng, n)
    return p | dict(pairs=torch.ones_like(p["pairs"]))


def _with_mass(best: Tensor, mass: float) -> Tensor:
    """The policy with that mass on the last response and the others in proportion."""
    rest = best[:, :-1] / best[:, :-1].sum(-1, keepdim=True)
    return torch.cat([(1 - mass) * rest, torch.full_like(rest[:, :1], mass)], -1)


def _unseen(p: Problem) -> ClaimReport:
    """DPO's loss at the RLHF optimum and with 1% to 99% of the mass on the third response, and RLHF's bound on it."""
    best = tilt(p["ref"], p["r"], p["beta"])
    choices = torch.stack([best, *(_with_mass(best, m) for m in (0.01, 0.5, 0.99))], 1)
    losses = pair_loss(p["P"], p["pairs"], p["beta"], (choices / p["ref"][:, None]).log())
    spread = losses.amax(-1) - losses.amin(-1)
    ceiling = p["ref"][:, 2] * torch.exp((p["r"][:, 2] - p["r"].amin(-1)) / p["beta"])
    return ClaimReport(worst(spread, best[:, 2] - ceiling), 1e-12)


UNSEEN = Claim(
    paper=303,
    kind="theorem",
    statement="if y3 is in no pair, DPO's loss is the same for any mass on y3, while RLHF's optimum keeps pi(y3) <= "
    "ref(y3) e^{(r(y3) - min r)/b}: RLHF's solutions are a strict subset of DPO's",
    problems=_third_unseen,
    check=_unseen,
    source="derived",
    twin=Twin("that y3 is in no pair", problems=_all_seen),
)

GRID = 40


def _simplex_grid(like: Tensor) -> Tensor:
    """Policies over three responses with masses k / 40, moved inside by 1e-6, (K, 3)."""
    points = [(i, j, GRID - i - j) for i, j in itertools.product(range(GRID + 1), repeat=2) if i + j <= GRID]
    return (1 - 3e-6) * torch.tensor(points).to(like) / GRID + 1e-6


def _online_kl(p: Problem, online: bool = True) -> ClaimReport:
    """The minimisers of L_DPO + lam KL(pi, ref) on a grid of the simplex, and the largest KL among them."""
    grid = _simplex_grid(p["ref"]).expand(len(p["ref"]), -1, -1)
    policies = torch.cat([grid, p["ref"][:, None]], 1)
    losses = pair_loss(p["P"], p["pairs"], p["beta"], (policies / p["ref"][:, None]).log())
    distance = kl(policies, p["ref"][:, None])
    total = losses + (p["lam"][:, None] * distance if online else 0)
    chosen = total <= total.amin(-1, keepdim=True) + 1e-9
    bound = (math.log(2) - losses.amin(-1)) / p["lam"]
    return ClaimReport(torch.where(chosen, distance, -torch.inf).amax(-1) - bound, 1e-8)


def _penalised(rng: Rng, n: int) -> Problem:
    return _third_unseen(rng, n) | dict(lam=rng.uniform(n, low=0.2, high=1.0))


ONLINE_KL = Claim(
    paper=325,
    kind="theorem",
    statement="a minimiser of L_DPO + lam KL(pi, ref) (HyPO) has KL(pi, ref) <= (log 2 - min L_DPO) / lam, whatever "
    "the data cover",
    problems=_penalised,
    check=_online_kl,
    source="derived",
    n=32,
    twin=Twin("the KL term on online data", check=lambda p: _online_kl(p, False)),
)


def _one_feature(rng: Rng, n: int) -> Problem:
    """Full coverage of 4 responses; a class of one feature, whose parameter runs over a grid."""
    r = rng.normal(n, 4)
    draw = dict(ref=rng.simplex(n, 4), r=r, phi=rng.normal(n, 4), beta=rng.uniform(n, low=0.3, high=2.0))
    return draw | dict(pairs=torch.ones(n, 4, 4).to(r), P=torch.sigmoid(r[:, :, None] - r[:, None, :]))


def _class(p: Problem) -> Tensor:
    """(n, 161, 4) rewards theta phi, theta in [-8, 8]."""
    return torch.linspace(-8, 8, 161).to(p["phi"])[:, None] * p["phi"][:, None]


def _policies(p: Problem) -> Tensor:
    """The class of policies ref e^{theta phi / b} / Z."""
    return torch.softmax(p["ref"].log()[:, None] + _class(p) / p["beta"][:, None, None], -1)


def _values(p: Problem, policies: Tensor) -> Tensor:
    return regularised(policies, p["r"][:, None], p["ref"][:, None], p["beta"][:, None])


def _narrow_policies(p: Problem) -> tuple[Tensor, Tensor]:
    """V of RLHF and of DPO when any reward, but only the one-feature policies can be represented."""
    policies = _policies(p)
    values = _values(p, policies)
    losses = pair_loss(p["P"], p["pairs"], p["beta"], (policies / p["ref"][:, None]).log())
    return values.amax(-1), values.gather(-1, losses.argmin(-1, keepdim=True))[:, 0]


def _narrow_rewards(p: Problem) -> tuple[Tensor, Tensor]:
    """V of RLHF and of DPO when any policy, but only the one-feature rewards can be represented."""
    rewards = _class(p)
    fit = pair_loss(p["P"], p["pairs"], torch.ones_like(p["beta"]), rewards).argmin(-1)
    fitted = rewards.gather(1, fit[:, None, None].expand(-1, 1, 4))[:, 0]
    both = torch.stack([tilt(p["ref"], fitted, p["beta"]), tilt(p["ref"], p["r"], p["beta"])], 1)
    return _values(p, both).unbind(-1)  # type: ignore[return-value]


def _rlhf_leads(p: Problem, narrow=_narrow_policies) -> ClaimReport:
    rlhf, dpo = narrow(p)
    return ClaimReport(dpo - rlhf, 1e-10)


def _dpo_leads(p: Problem, narrow=_narrow_rewards) -> ClaimReport:
    rlhf, dpo = narrow(p)
    return ClaimReport(rlhf - dpo, 1e-10)


NARROW_POLICIES = Claim(
    paper=318,
    kind="theorem",
    statement="if the reward is realisable and the optimal policy is not, V(RLHF) >= V(DPO) in the population",
    problems=_one_feature,
    check=_rlhf_leads,
    n=128,
    twin=Twin("a realisable reward (policies are, rewards are not)", check=lambda p: _rlhf_leads(p, _narrow_rewards)),
)

NARROW_REWARDS = Claim(
    paper=318,
    kind="theorem",
    statement="if the optimal policy is realisable and the reward is not, V(DPO) = V* >= V(RLHF) in the population",
    problems=_one_feature,
    check=_dpo_leads,
    n=128,
    twin=Twin("a realisable policy (rewards are, policies are not)", check=lambda p: _dpo_leads(p, _narrow_policies)),
)


def _isomorphic(rng: Rng, n: int) -> Problem:
    """One feature for rewards and policies, neither right; a reference that hardly shows the good response."""
    one = lambda *x: torch.tensor([x], dtype=rng.dtype, device=rng.device)  # noqa: E731
    r = one(-1.0, 1.0, 5.0, -7.0)
    draw = dict(
        ref=one(4.0, 4.0, 2.0, 17.0) / 27, r=r, phi=one(0.0, -1.0, 2.0, 0.0), beta=torch.full_like(r[:, 0], 0.5)
    )
    return draw | dict(P=torch.sigmoid(r[:, :, None] - r[:, None, :]))


def _online_leads(p: Problem) -> ClaimReport:
    """DPO on pairs from ref, beside DPO whose pairs come from its own last policy, ten rounds."""
    policies = _policies(p)
    score, values = (policies / p["ref"][:, None]).log(), _values(p, policies)
    sampler, history = p["ref"], []
    for _ in range(10):
        pairs = sampler[:, :, None] * sampler[:, None, :]
        chosen = pair_loss(p["P"], pairs, p["beta"], score).argmin(-1, keepdim=True)
        sampler = policies.gather(1, chosen[..., None].expand(-1, 1, 4))[:, 0]
        history.append(values.gather(-1, chosen)[:, 0])
    return ClaimReport(1 - (history[-1] - history[0]), 0.0)


ONLINE_LEADS = Claim(
    paper=318,
    kind="counterexample",
    statement="with one feature for rewards and policies, both misspecified, online DPO is better than DPO and RLHF "
    "on offline pairs (by more than 1 on a problem of four responses)",
    problems=_isomorphic,
    check=_online_leads,
    n=1,
)


def _mismatch(rng: Rng, n: int) -> Problem:
    """The last response is rare and bad; R1 is right on the common pair but inflates the last, R2 is the reverse."""
    one = lambda *x: torch.tensor([x], dtype=rng.dtype, device=rng.device)  # noqa: E731
    draw = dict(ref=one(0.49, 0.49, 0.02), gold=one(1.0, 0.5, -1.0), beta=one(0.5)[:, 0])
    return draw | dict(first=one(1.0, 0.5, 8.0), second=one(0.5, 0.6, -1.0))


def _accuracy(ref: Tensor, reward: Tensor, gold: Tensor) -> Tensor:
    order = lambda r: (r[:, :, None] - r[:, None, :]).sign()  # noqa: E731
    pairs = ref[:, :, None] * ref[:, None, :] * (1 - torch.eye(3).to(ref))
    return (pairs * (order(reward) == order(gold))).sum((-1, -2)) / pairs.sum((-1, -2))


def _objective_mismatch(p: Problem) -> ClaimReport:
    better = _accuracy(p["ref"], p["first"], p["gold"]) - _accuracy(p["ref"], p["second"], p["gold"])
    worth = [expect(tilt(p["ref"], p[k], p["beta"]), p["gold"]) for k in ("first", "second")]
    return ClaimReport(worst(0.5 - better, 0.5 - (worth[1] - worth[0])), 0.0)


OBJECTIVE_MISMATCH = Claim(
    paper=39,
    kind="counterexample",
    statement="a reward model with 0.5 more accuracy on pairs of ref trains a policy with 0.5 less true reward",
    problems=_mismatch,
    check=_objective_mismatch,
    source="derived",
    n=1,
)
