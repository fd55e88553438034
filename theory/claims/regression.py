"""Policy optimisation as regression: losses whose minimiser is the tilt pi* = ref e^{r/b} / Z, whatever data they use.

A problem is that of `kl_regularised`, plus sampling distributions `mu`, `nu` (n, Y).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.kl_regularised import RESPONSES, problems
from fenchel.theory.claims.tools import bisect, expect, kl, log_partition, misfit, regularised, tilt, toward, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng


def sampled(rng: Rng, n: int) -> Problem:
    return problems(rng, n) | dict(mu=rng.simplex(n, RESPONSES), nu=rng.simplex(n, RESPONSES))


def _uncovered(rng: Rng, n: int) -> Problem:
    """The sampler never draws response 0."""
    p = sampled(rng, n)
    p["mu"][:, 0] = 0
    p["mu"] = p["mu"] / p["mu"].sum(-1, keepdim=True)
    return p


def implicit_error(p: Problem, log_pi: Tensor) -> Tensor:
    """b log(pi / ref) - r, (n, K, Y): constant in y exactly at pi*."""
    return p["beta"][:, None, None] * (log_pi - p["ref"].log()[:, None]) - p["r"][:, None]


# -- A*-PO ---------------------------------------------------------------------------------------------------------


def _optimal_advantage(p: Problem, exact: bool = True) -> ClaimReport:
    """Regret against the root of the on-policy regression loss, for far and near policies."""
    best = tilt(p["ref"], p["r"], p["beta"])
    value = p["beta"] * log_partition(p["ref"], p["r"], p["beta"]) if exact else expect(p["ref"], p["r"])
    policies = torch.cat([best[:, None], toward(best, p["rivals"])], 1)
    error = expect(policies, (implicit_error(p, policies.log()) + value[:, None, None]).square())
    worth = regularised(policies, p["r"][:, None], p["ref"][:, None], p["beta"][:, None])
    lost = worth[:, :1] - worth
    return ClaimReport(worst((lost.square() - error).amax(-1), error[:, 0]), 1e-10)


OPTIMAL_ADVANTAGE = Claim(
    paper=242,
    kind="theorem",
    statement="with V* = b log E_ref e^{r/b}, E_pi (r - V* - b log pi/ref)^2 is 0 at pi* and >= (J(pi*) - J(pi))^2",
    problems=problems,
    check=_optimal_advantage,
    source="derived",
    twin=Twin("the optimal value (E_ref r instead of V*)", check=lambda p: _optimal_advantage(p, False)),
)


def _value_bias(p: Problem, sign: float = 1.0) -> ClaimReport:
    """E b log mean_k e^{r(y_k)/b} over all k-tuples, k = 1, 2, 3."""
    beta = sign * p["beta"][:, None]
    weight = torch.exp(p["r"] / beta)
    estimates = []
    for k in (1, 2, 3):
        index = torch.tensor(list(itertools.product(range(p["r"].shape[-1]), repeat=k)), device=weight.device)
        estimates.append(expect(p["ref"][:, index].prod(-1), beta * weight[:, index].mean(-1).log()))
    estimates.append(beta[:, 0] * expect(p["ref"], weight).log())
    return ClaimReport(worst(*(a - b for a, b in itertools.pairwise(estimates))), 1e-11)


VALUE_BIAS = Claim(
    paper=242,
    kind="theorem",
    statement="the estimate b log mean_k e^{r(y_k)/b} of V* from k draws of ref is biased low, less so with every draw",
    problems=problems,
    check=_value_bias,
    source="derived",
    twin=Twin("b > 0", check=lambda p: _value_bias(p, -1.0)),
)


# -- GVPO, CoPG ----------------------------------------------------------------------------------------------------


def variance(mu: Tensor, x: Tensor) -> Tensor:
    """Var_mu x, mu (n, Y), x (n, K, Y)."""
    mean = expect(mu[:, None], x)[..., None]
    return expect(mu[:, None], (x - mean).square())


def _group_variance(p: Problem) -> ClaimReport:
    """The loss is a minimum at pi*, and grows with the distance from it wherever the sampler goes."""
    best, mu = tilt(p["ref"], p["r"], p["beta"]), p["mu"]
    fit = misfit(lambda log_pi: variance(mu, implicit_error(p, log_pi)) / 2, best, p["rivals"])
    moved = best.clone()
    moved[:, 0] *= 2
    rivals = torch.cat([p["rivals"], (moved / moved.sum(-1, keepdim=True))[:, None]], 1)
    error = implicit_error(p, rivals.log())
    rarest = torch.where(mu > 0, mu, torch.inf).amin(-1, keepdim=True)
    growth = rarest / 2 * (error.amax(-1) - error.amin(-1)).square()
    return ClaimReport(worst(fit, (growth - variance(mu, error)).amax(-1)), 1e-9)


GROUP_VARIANCE = Claim(
    paper=168,
    kind="theorem",
    statement="Var_mu(b log pi/ref - r) is smallest at pi* alone, for every full-support sampler mu",
    problems=sampled,
    check=_group_variance,
    twin=Twin("the sampler's full support", problems=_uncovered),
)


def _contrastive(p: Problem, contrastive: bool = True) -> ClaimReport:
    """CoPG's direction E (R(y) - R(y')) grad log pi(y)/pi(y'), R = r - b log pi/ref: zero at pi* for mu x nu, and twice
    the gradient of J at any pi when both samplers are pi."""

    def direction(pi: Tensor, mu: Tensor, nu: Tensor) -> Tensor:
        reward = -implicit_error(p, pi.log()[:, None])[:, 0]
        other = expect(nu, reward) if contrastive else expect(nu, p["r"])
        mine = expect(mu, reward) if contrastive else expect(mu, p["r"])
        weight = mu * (reward - other[:, None]) + nu * (reward - mine[:, None])
        return weight - pi * weight.sum(-1, keepdim=True)

    best = tilt(p["ref"], p["r"], p["beta"])
    logits = p["pi"].log().requires_grad_(True)
    (exact,) = torch.autograd.grad(regularised(torch.softmax(logits, -1), p["r"], p["ref"], p["beta"]).sum(), logits)
    on_policy = (direction(p["pi"], p["pi"], p["pi"]) - 2 * exact).abs().amax(-1)
    return ClaimReport(worst(direction(best, p["mu"], p["nu"]).abs().amax(-1), on_policy), 1e-11)


CONTRASTIVE = Claim(
    paper=55,
    kind="theorem",
    statement="E_{y~mu, y'~nu} (R(y) - R(y')) grad log pi(y)/pi(y'), R = r - b log pi/ref, vanishes at pi* for all mu, "
    "nu and is 2 grad J on-policy",
    problems=sampled,
    check=_contrastive,
    twin=Twin("the right baseline (the mean reward, unregularised)", check=lambda p: _contrastive(p, False)),
)


# -- REBEL, EXO: log-linear policies ---------------------------------------------------------------------------------


def _log_linear(rng: Rng, n: int) -> Problem:
    draw = dict(phi=rng.normal(n, RESPONSES, 3), theta=rng.normal(n, 3), r=rng.normal(n, RESPONSES))
    return draw | dict(ref=rng.simplex(n, RESPONSES), beta=rng.uniform(n, low=0.2, high=2.0))


def _policy(p: Problem, theta: Tensor) -> Tensor:
    return torch.softmax(torch.einsum("nyd,nd->ny", p["phi"], theta), -1)


def _natural_step(p: Problem, on_policy: bool = True) -> ClaimReport:
    """The gradient of REBEL's population loss, a convex quadratic in theta, at theta_t + eta F^{-1} grad J."""
    phi, r, eta = p["phi"], p["r"], p["beta"]
    pi = _policy(p, p["theta"])
    score = phi - torch.einsum("ny,nyd->nd", pi, phi)[:, None]
    fisher = torch.einsum("ny,nyd,nye->nde", pi, score, score)
    natural = eta[:, None] * torch.linalg.solve(fisher, torch.einsum("ny,nyd,ny->nd", pi, score, r))
    theta = (p["theta"] + natural).requires_grad_(True)
    log_ratio = (_policy(p, theta) / pi).log()
    mu = pi if on_policy else torch.full_like(pi, 1 / pi.shape[-1])
    gap = r[:, :, None] - r[:, None, :]
    each = loss.rebel(log_ratio[:, :, None], log_ratio[:, None, :], gap, eta=eta[:, None, None])
    (gradient,) = torch.autograd.grad((mu[:, :, None] * mu[:, None, :] * each).sum(), theta)
    return ClaimReport(gradient.abs().amax(-1), 1e-9)


NATURAL_STEP = Claim(
    paper=246,
    kind="theorem",
    statement="for log-linear policies and y, y' ~ pi_t the minimiser of REBEL's loss is theta_t + eta F^{-1} grad J: "
    "the natural policy gradient step",
    problems=_log_linear,
    check=_natural_step,
    twin=Twin("that both responses come from pi_t", check=lambda p: _natural_step(p, False)),
)


def _same_direction(p: Problem, mode_seeking: bool = True) -> ClaimReport:
    """1 - cosine between -grad KL(pi_theta, pi*) and grad J; forward: -grad KL(pi*, pi_theta)."""
    best = tilt(p["ref"], p["r"], p["beta"])
    theta = p["theta"].clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(regularised(_policy(p, theta), p["r"], p["ref"], p["beta"]).sum(), theta)
    pi = _policy(p, theta)
    (given,) = torch.autograd.grad(-(kl(pi, best) if mode_seeking else kl(best, pi)).sum(), theta)
    return ClaimReport(1 - torch.cosine_similarity(wanted, given, -1), 1e-10)


SAME_DIRECTION = Claim(
    paper=286,
    kind="theorem",
    statement="-grad KL(pi_theta, pi*) has the direction of grad J for every parametrisation (EXO), fitting or not",
    problems=_log_linear,
    check=_same_direction,
    twin=Twin("the direction of the KL: KL(pi*, pi_theta)", check=lambda p: _same_direction(p, False)),
)


# -- APA -----------------------------------------------------------------------------------------------------------


def _lambert(log_x: Tensor) -> Tensor:
    """W(e^{log_x}) by Newton on w + log w = log_x."""
    w = torch.where(log_x > 1, log_x, torch.exp(log_x.clamp(max=1.0)))
    for _ in range(12):
        w = (w * (1 + log_x - w.log()) / (1 + w)).clamp(min=1e-300)
    return w


def _advantages(rng: Rng, n: int) -> Problem:
    """Centred advantages under the old policy, in units of lambda."""
    old, a = rng.simplex(n, RESPONSES), rng.normal(n, RESPONSES)
    return dict(old=old, a=a - expect(old, a)[:, None], rivals=rng.simplex(n, 32, RESPONSES))


def _least_squares(p: Problem, normalised: bool = False) -> ClaimReport:
    old, a = p["old"], p["a"]
    if normalised:
        best = tilt(old, a, 1.0)
    else:
        shift = lambda c: old * torch.exp(a - _lambert(a + c[:, None]))  # noqa: E731
        c = bisect(lambda x: 1 - shift(x).sum(-1), torch.full_like(a[:, 0], -60.0), torch.full_like(a[:, 0], 20.0))
        best = shift(c)
    squares = lambda log_pi: expect(old[:, None], (log_pi - old.log()[:, None] - a[:, None]).square())  # noqa: E731
    return ClaimReport(misfit(squares, best / best.sum(-1, keepdim=True), p["rivals"]), 1e-8)


LEAST_SQUARES = Claim(
    paper=278,
    kind="theorem",
    statement="APA's E_old (log pi/pi_old - A/l)^2 is smallest at log pi/pi_old = a - W(c e^a), a = A/l, W Lambert's "
    "function, c from normalisation",
    problems=_advantages,
    check=_least_squares,
    source="derived",
    twin=Twin("Lambert's correction (the Gibbs policy pi_old e^a / Z)", check=lambda p: _least_squares(p, True)),
)


def _six_arms(rng: Rng, n: int) -> Problem:
    old = torch.tensor([[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]], dtype=rng.dtype, device=rng.device)
    a = torch.tensor([[0.5, -0.5, 0.0, 1.0, -1.5, 1.0]], dtype=rng.dtype, device=rng.device)
    return dict(old=old, a=a)


def _unnormalised(p: Problem) -> ClaimReport:
    a = p["a"] - expect(p["old"], p["a"])[:, None]
    return ClaimReport(0.1 - (expect(p["old"], a.exp()) - 1), 0.0)


UNNORMALISED = Claim(
    paper=278,
    kind="counterexample",
    statement="APA's target pi_old e^{A/l} is no policy: it sums to more than 1.1 on six arms with |A| of order l",
    problems=_six_arms,
    check=_unnormalised,
    source="derived",
    n=1,
)
