"""KL-regularised reward maximisation over a finite set of responses: J(pi) = E_pi r - b KL(pi, ref).

A problem is `ref` (n, Y), `r` (n, Y), `beta` (n,), a policy `pi` (n, Y) and `rivals` (n, K, Y). The optimum is the tilt
pi* = ref e^{r/b} / Z with Z = E_ref e^{r/b}.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import (
    bisect,
    column,
    entropy,
    expect,
    kl,
    log_partition,
    regret,
    regularised,
    tilt,
    worst,
)
from fenchel.theory.rng import Rng

RESPONSES, RIVALS = 6, 32


def problems(rng: Rng, n: int) -> Problem:
    """Full-support reference and policies, rewards of order one, beta in [0.1, 3]."""
    draw = dict(ref=rng.simplex(n, RESPONSES), r=rng.normal(n, RESPONSES), pi=rng.simplex(n, RESPONSES))
    return draw | dict(beta=rng.uniform(n, low=0.1, high=3.0), rivals=rng.simplex(n, RIVALS, RESPONSES))


def _variational(p: Problem, temperature: float = 1.0) -> ClaimReport:
    posterior = tilt(p["ref"], p["r"], temperature * p["beta"])
    evidence = p["beta"] * log_partition(p["ref"], p["r"], p["beta"])
    value = regularised(p["pi"], p["r"], p["ref"], p["beta"])
    return ClaimReport((value - evidence + p["beta"] * kl(p["pi"], posterior)).abs(), 1e-11)


VARIATIONAL = Claim(
    paper=4,
    kind="identity",
    statement="E_pi r - b KL(pi, ref) = b log Z - b KL(pi, pi*) for every pi, with pi* = ref e^{r/b} / Z",
    problems=problems,
    check=_variational,
    twin=Twin("the right temperature (pi* with 2b)", check=lambda p: _variational(p, 2.0)),
)


def _pythagoras(p: Problem, sign: float = 1.0) -> ClaimReport:
    best, slope = tilt(p["ref"], p["r"], p["beta"]), 1 / p["beta"]
    shortfall = sign * (expect(best, p["r"]) - expect(p["pi"], p["r"]))
    excess = kl(p["pi"], p["ref"]) - kl(best, p["ref"])
    return ClaimReport((kl(p["pi"], best) - excess - slope * shortfall).abs() / (1 + slope), 1e-11)


PYTHAGORAS = Claim(
    paper=3,
    kind="identity",
    statement="KL(phi, phi_t) = KL(phi, p) - KL(phi_t, p) + t (E_phi_t r - E_phi r) for the tilt phi_t = p e^{tr} / Z: "
    "whoever reaches the same KL and reward is the tilt",
    problems=problems,
    check=_pythagoras,
    twin=Twin("the sign of the reward gap", check=lambda p: _pythagoras(p, -1.0)),
)


def _with_direction(rng: Rng, n: int) -> Problem:
    return problems(rng, n) | dict(direction=rng.normal(n, RIVALS, RESPONSES))


def _same_return(p: Problem, best: Tensor) -> Tensor:
    """(n, K, Y) policies around `best` with exactly its return: moves orthogonal to 1 and r."""
    span = torch.stack([torch.ones_like(p["r"]), p["r"]], -1)
    basis = torch.linalg.qr(span).Q
    move = p["direction"] - torch.einsum("nys,nzs,nkz->nky", basis, basis, p["direction"])
    step = 0.9 * (best[:, None] / move.abs()).amin(-1, keepdim=True)
    return torch.cat([best[:, None] + t * step * move for t in (1.0, -0.1, 1e-2)], 1)


def _minimal_change(p: Problem, forward: bool = False) -> ClaimReport:
    goal = expect(p["pi"], p["r"])
    slope = bisect(
        lambda s: expect(tilt(p["ref"], s[:, None] * p["r"], 1.0), p["r"]) - goal, -500 + 0 * goal, 500 + 0 * goal
    )
    best = tilt(p["ref"], slope[:, None] * p["r"], 1.0)
    ref = p["ref"][:, None]
    cost = (lambda pi: -kl(ref, pi)) if forward else (lambda pi: -kl(pi, ref))
    return ClaimReport(cost(_same_return(p, best)).amax(1) - cost(best[:, None])[:, 0], 1e-9)


MINIMAL_CHANGE = Claim(
    paper=323,
    kind="theorem",
    statement="the policy of a given return that is closest to pi_0 in KL(pi, pi_0) is a tilt pi_0 e^{s r} / Z",
    problems=_with_direction,
    check=_minimal_change,
    source="derived",
    twin=Twin("the direction of the KL: KL(pi_0, pi)", check=lambda p: _minimal_change(p, True)),
)


def _entropy_controlled(p: Problem, tempered: bool = True) -> ClaimReport:
    """Optimality of ref^{1/a} e^{r/(ab)} for E r + b (a H(pi) - H(pi, ref)) and the growth of entropy with a."""
    entropies, losses = [], []
    for a in (0.5, 0.8, 1.0, 1.5, 4.0):
        power = 1 / a if tempered else 1.0
        best = torch.softmax(power * p["ref"].log() + p["r"] / (a * column(p["beta"], p["ref"])), -1)
        losses.append(regret(partial(_sharpened, p, a), best, p["rivals"]))
        entropies.append(entropy(best))
    falls = torch.stack([a - b for a, b in pairwise(entropies)]).amax(0)
    return ClaimReport(worst(falls, *losses), 1e-9)


def _sharpened(p: Problem, a: float, pi: Tensor) -> Tensor:
    cross = -expect(pi, p["ref"].log()[:, None])
    return expect(pi, p["r"][:, None]) + p["beta"][:, None] * (a * entropy(pi) - cross)


ENTROPY_CONTROLLED = Claim(
    paper=297,
    kind="theorem",
    statement="max E_pi r + b (a H(pi) - H(pi, ref)) is attained by ref^{1/a} e^{r/(ab)} / Z; its entropy grows with a",
    problems=problems,
    check=_entropy_controlled,
    source="derived",
    twin=Twin("the exponent 1/a of ref", check=lambda p: _entropy_controlled(p, False)),
)


def _with_judges(rng: Rng, n: int) -> Problem:
    """At least one response is feasible and one is not."""
    allowed = rng.uniform(n, RESPONSES) < 0.5
    allowed[:, 0], allowed[:, 1] = True, False
    return problems(rng, n) | dict(allowed=allowed)


def _feasible(p: Problem, zeroed: bool = False) -> ClaimReport:
    inside = p["allowed"].to(p["r"].dtype)
    reward = torch.sigmoid(p["r"])  # calibrated rewards lie in (0, 1)
    best = tilt(p["ref"], reward * inside, p["beta"])
    if not zeroed:
        best = best * inside / (best * inside).sum(-1, keepdim=True)
    rivals = p["rivals"] * inside[:, None]
    rivals = rivals / rivals.sum(-1, keepdim=True)
    gain = regret(lambda pi: regularised(pi, reward[:, None], p["ref"][:, None], p["beta"][:, None]), best, rivals)
    return ClaimReport(worst(gain, expect(best, 1 - inside)), 1e-11)


FEASIBLE = Claim(
    paper=238,
    kind="theorem",
    statement="the best policy for E_pi R - b KL(pi, ref) that passes every judge is ref e^{R/b} 1[feasible] / Z",
    problems=_with_judges,
    check=_feasible,
    source="derived",
    assume=lambda p: p["allowed"].any(-1) & ~p["allowed"].all(-1),
    twin=Twin("the constraint (infeasible responses get reward 0)", check=lambda p: _feasible(p, True)),
)


def _with_estimate(rng: Rng, n: int) -> Problem:
    return problems(rng, n) | dict(estimate=rng.normal(n, RESPONSES))


def _suboptimality(p: Problem, refit: bool = True) -> ClaimReport:
    best = tilt(p["ref"], p["r"], p["beta"])
    chosen = tilt(p["ref"], p["estimate"], p["beta"]) if refit else p["pi"]
    error = p["r"] - p["estimate"]
    gap = regularised(best, p["r"], p["ref"], p["beta"]) - regularised(chosen, p["r"], p["ref"], p["beta"])
    return ClaimReport((gap - expect(best, error) + expect(chosen, error) + p["beta"] * kl(best, chosen)).abs(), 1e-10)


SUBOPTIMALITY = Claim(
    paper=320,
    kind="theorem",
    statement="J(pi*) - J(pi^) = E_pi*[r - r^] - E_pi^[r - r^] - b KL(pi*, pi^) for the optimum pi^ of an estimate r^",
    problems=_with_estimate,
    check=_suboptimality,
    source="derived",
    twin=Twin("that pi^ is optimal for the estimated reward", check=lambda p: _suboptimality(p, False)),
)

LADDER = (0.15, 0.4, 1.0)  # shares of 1/b reached by the successive rejection steps


def _rejection_chain(p: Problem, telescoping: bool = True) -> ClaimReport:
    """Follow multi-step rejection sampling exactly: accepted law and acceptance of every step."""
    law, done = p["ref"], 0.0
    chance = torch.ones_like(p["beta"])
    advantage = p["r"] - p["r"].amax(-1, keepdim=True)
    for share in LADDER:
        accept = torch.exp((share - (done if telescoping else 0.0)) * advantage / p["beta"][:, None])
        rate = expect(law, accept)
        law, chance, done = law * accept / rate[:, None], chance * rate, share
    one_step = expect(p["ref"], torch.exp(advantage / p["beta"][:, None]))
    error = (law - tilt(p["ref"], p["r"], p["beta"])).abs().amax(-1)
    return ClaimReport(worst(error, (chance / one_step - 1).abs()), 1e-10)


REJECTION_CHAIN = Claim(
    paper=320,
    kind="theorem",
    statement="rejection steps that accept with e^{(1/b_i - 1/b_{i-1})(r - max r)}, 1/b_i rising from 0 to 1/b, end "
    "at the tilt, and their acceptance rates multiply to the one-step rate",
    problems=problems,
    check=_rejection_chain,
    source="derived",
    twin=Twin("the difference (each step accepts with 1/b_i)", check=lambda p: _rejection_chain(p, False)),
)


def _features(rng: Rng, n: int) -> Problem:
    draw = dict(phi=rng.normal(n, RESPONSES, 3), a=rng.normal(n, 3), b=rng.normal(n, 3), r=rng.normal(n, RESPONSES))
    return draw | dict(beta=rng.uniform(n, low=0.1, high=3.0), rivals=rng.simplex(n, RIVALS, RESPONSES))


def _soup(p: Problem, geometric: bool = True) -> ClaimReport:
    first, second = (torch.softmax(torch.einsum("nyd,nd->ny", p["phi"], p[k]), -1) for k in "ab")
    souped = torch.softmax(torch.einsum("nyd,nd->ny", p["phi"], 0.3 * p["a"] + 0.7 * p["b"]), -1)
    if geometric:
        best = torch.softmax(0.3 * first.log() + 0.7 * second.log() + p["r"] / p["beta"][:, None], -1)
    else:
        best = tilt(0.3 * first + 0.7 * second, p["r"], p["beta"])
    value = lambda pi: regularised(pi, p["r"][:, None], souped[:, None], p["beta"][:, None])  # noqa: E731
    return ClaimReport(regret(value, best, p["rivals"]), 1e-10)


SOUP = Claim(
    paper=8,
    kind="theorem",
    statement="for the weight average of two log-linear policies as reference pi* = pi_A^a pi_B^{1-a} e^{r/b} / Z",
    problems=_features,
    check=_soup,
    source="derived",
    twin=Twin("the geometric mean (probabilities averaged instead of weights)", check=lambda p: _soup(p, False)),
)
