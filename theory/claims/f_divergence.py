"""f-divergences between policies: D_f(pi || q) = E_q f(pi / q).

The generators below are written out again, so that they judge `theory.divergences` instead of calling it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.kl_regularised import problems
from fenchel.theory.claims.tools import bisect, expect, regret, regularised, tilt, worst
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives.kl import f_policy_gradient
from fenchel.theory.rng import Rng

GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda w: w * w.log(),
    "reverse_kl": lambda w: -w.log(),
    "js": lambda w: (w * w.log() - (1 + w) * ((1 + w) / 2).log()) / 2,
    "hellinger": lambda w: (w.sqrt() - 1) ** 2,
    "alpha:0.3": lambda w: (w**0.3 - 1) / (0.3 * (0.3 - 1)),
    "chi2": lambda w: (w - 1) ** 2,
    "tv": lambda w: (w - 1).abs() / 2,
}
BARRIERS = ("kl", "reverse_kl", "js", "hellinger", "alpha:0.3")  # f'(0+) = -inf: 0 is not in the domain of f'


def divergence(name: str, pi: Tensor, q: Tensor) -> Tensor:
    return (q * GENERATORS[name](pi / q)).sum(-1)


def _gradient(p: Problem, scale: float = 1.0) -> ClaimReport:
    """E_pi of our f-DPG loss against the definition, by their derivatives in logits."""
    errors = []
    for name in GENERATORS:
        logits = p["pi"].log().requires_grad_(True)
        (exact,) = torch.autograd.grad(divergence(name, torch.softmax(logits, -1), p["ref"]).sum(), logits)
        log_prob = torch.log_softmax(logits, -1)
        each = f_policy_gradient(log_prob, log_prob - (scale * p["ref"]).log(), divergence=name)
        (estimate,) = torch.autograd.grad((p["pi"] * each).sum(), logits)
        errors.append(((exact - estimate) / (1 + exact.abs())).abs().amax(-1))
    return ClaimReport(worst(*errors), 1e-9)


F_DPG = Claim(
    paper=29,
    kind="theorem",
    statement="grad D_f(pi || q) = E_pi[f'(pi/q) grad log pi] for KL both ways, JS, Hellinger, alpha, chi2 and TV",
    problems=problems,
    check=_gradient,
    source="derived",
    twin=Twin("that the target is normalised (only the KLs forgive it)", check=lambda p: _gradient(p, 3.0)),
)


def optimum(name: str, p: Problem) -> Tensor:
    """ref w*((r - nu) / b) with our w* and nu from normalisation."""
    d = get_divergence(name)
    beta = p["beta"][:, None]
    scaled = p["r"] / beta
    # at nu = high no ratio exceeds 1; at nu = low the largest reward's ratio alone brings the mass to 1
    high = scaled.amax(-1) - float(d.f_prime(torch.ones((), dtype=scaled.dtype)))
    mass = 1 / p["ref"].gather(-1, scaled.argmax(-1, keepdim=True))[:, 0]
    low = scaled.amax(-1) - d.f_prime(mass)
    nu = bisect(lambda x: 1 - expect(p["ref"], d.ratio(scaled - x[:, None])), low, high)
    pi = p["ref"] * d.ratio(scaled - nu[:, None])
    return pi / pi.sum(-1, keepdim=True)


def _spread(name: str, p: Problem, pi: Tensor) -> Tensor:
    """How far r - b f'(pi/ref) is from a constant: what a pairwise loss on f' recovers of the reward."""
    score = get_divergence(name).f_prime(pi / p["ref"])
    residual = p["r"] - p["beta"][:, None] * score
    return residual.amax(-1) - residual.amin(-1)


def _f_dpo(p: Problem, names: tuple[str, ...] = BARRIERS) -> ClaimReport:
    residuals = []
    for name in names:
        pi = optimum(name, p)

        def value(x: Tensor, name: str = name) -> Tensor:
            return expect(x, p["r"][:, None]) - p["beta"][:, None] * divergence(name, x, p["ref"][:, None])

        residuals += [regret(value, pi, p["rivals"]), _spread(name, p, pi) / (1 + p["beta"])]
    return ClaimReport(worst(*residuals), 1e-7)


F_DPO = Claim(
    paper=36,
    kind="theorem",
    statement="if f'(0+) = -inf, E_pi r - b D_f(pi || ref) is largest at ref (f')^{-1}((r - nu)/b), where "
    "r(y) - r(y') = b f'(u(y)) - b f'(u(y')), u = pi/ref: no normaliser is left in pairs",
    problems=problems,
    check=_f_dpo,
    twin=Twin("f'(0+) = -inf (chi2: the best policy drops responses)", check=lambda p: _f_dpo(p, ("chi2",))),
)


def _three_arms(rng: Rng, n: int) -> Problem:
    """Three responses, uniform reference, the first much better than the other two, which differ by 1."""
    t = torch.tensor([[8.0, 1.0, 0.0]], dtype=rng.dtype, device=rng.device)
    one = torch.ones(1, dtype=rng.dtype, device=rng.device)
    return dict(ref=torch.full_like(t, 1 / 3), r=t, beta=one, rivals=rng.simplex(1, 64, 3))


def _dropped(p: Problem) -> ClaimReport:
    """chi2 gives responses 2 and 3 no mass, so the difference of their rewards cannot be read off the policy."""
    pi = optimum("chi2", p)

    def value(x: Tensor) -> Tensor:
        return expect(x, p["r"][:, None]) - p["beta"][:, None] * divergence("chi2", x, p["ref"][:, None])

    score = get_divergence("chi2").f_prime(pi / p["ref"])
    recovered = p["beta"] * (score[:, 1] - score[:, 2]).abs()
    true = p["r"][:, 1] - p["r"][:, 2]
    return ClaimReport(worst(regret(value, pi, p["rivals"]), pi[:, 1:].amax(-1), recovered, 0.9 - true), 1e-9)


CHI2_DROPS = Claim(
    paper=36,
    kind="counterexample",
    statement="with chi2 (f' finite at 0), rewards (8, 1, 0), uniform ref and b = 1 the optimum is (1, 0, 0): the "
    "rewards of the two dropped responses cannot be recovered",
    problems=_three_arms,
    check=_dropped,
    source="derived",
    n=1,
)


def _floor(p: Problem, mass_covering: bool = True) -> ClaimReport:
    """The optimum against KL(ref, pi), found by bisection on its normaliser, and its floor."""
    beta, top = p["beta"], p["r"].amax(-1)
    if mass_covering:
        nu = bisect(lambda x: 1 - (beta[:, None] * p["ref"] / (x[:, None] - p["r"])).sum(-1), top + 1e-12, top + beta)
        pi = beta[:, None] * p["ref"] / (nu[:, None] - p["r"])

        def value(x: Tensor) -> Tensor:
            return expect(x, p["r"][:, None]) - beta[:, None] * divergence("reverse_kl", x, p["ref"][:, None])

        gain = regret(value, pi / pi.sum(-1, keepdim=True), p["rivals"])
    else:
        pi = tilt(p["ref"], p["r"], beta)
        gain = regret(lambda x: regularised(x, p["r"][:, None], p["ref"][:, None], beta[:, None]), pi, p["rivals"])
    floor = p["ref"] * beta[:, None] / (beta[:, None] + top[:, None] - p["r"])
    return ClaimReport(worst((floor - pi).amax(-1), gain), 1e-9)


FLOOR = Claim(
    paper=41,
    kind="theorem",
    statement="the optimum of E_pi r - b KL(ref, pi) keeps pi(y) >= ref(y) b / (b + max r - r(y)) on every response",
    problems=problems,
    check=_floor,
    source="derived",
    twin=Twin("the mass-covering direction: KL(pi, ref)", check=lambda p: _floor(p, False)),
)


def _generators(p: Problem, halved: bool = True) -> ClaimReport:
    """E_{pi_0} f(u) with our f against the divergences from their own definitions."""
    pi, ref = p["pi"], p["ref"]
    mean = (pi + ref) / 2
    kl = lambda a, b: (a * (a / b).log()).sum(-1)  # noqa: E731
    a = 0.2
    exact = {
        "reverse_kl": kl(ref, pi),
        "js": (0.5 if halved else 1.0) * (kl(pi, mean) + kl(ref, mean)),
        f"alpha:{1 - a}": (1 - (ref**a * pi ** (1 - a)).sum(-1)) / (a * (1 - a)),
    }
    errors = [(expect(ref, get_divergence(name).f(pi / ref)) - value).abs() for name, value in exact.items()]
    return ClaimReport(worst(*errors), 1e-11)


GENERATOR = Claim(
    paper=41,
    kind="identity",
    statement="E_{pi_0} f(pi/pi_0) is KL(pi_0, pi), JS and (1 - sum pi_0^a pi^{1-a}) / (a(1-a)) for the generators "
    "u - 1 - log u, JS's and alpha's: samples of pi_0 suffice",
    problems=problems,
    check=_generators,
    source="derived",
    twin=Twin("the factor 1/2 of JS", check=lambda p: _generators(p, False)),
)
