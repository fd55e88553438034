"""What the reference policy of a preference loss does: moved, guided, weakened, refined.

Problems are those of `preference` with Bradley-Terry labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.kl_regularised import RESPONSES
from fenchel.theory.claims.preference import bradley_terry, population, wide
from fenchel.theory.claims.tools import column, expect, misfit, regret, regularised, tilt, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng


def dpo_misfit(p: Problem, reference: Tensor, best: Tensor) -> Tensor:
    """How far `best` is from minimising DPO's population loss with that reference."""
    each = lambda w, l: loss.dpo(w, l, beta=wide(p["beta"]))  # noqa: E731, E741
    return misfit(lambda x: population(p, each, x - reference.log()[:, None]), best, p["rivals"])


def _mild(rng: Rng, n: int) -> Problem:
    """Weights b >= 0.5, so that four tilts in a row stay inside float64."""
    return bradley_terry(rng, n) | dict(beta=rng.uniform(n, low=0.5, high=3.0))


def _hard_updates(p: Problem, moved: bool = True) -> ClaimReport:
    reference, fits = p["ref"], []
    for k in range(1, 5):
        best = tilt(p["ref"], k * p["r"], p["beta"])
        fits.append(dpo_misfit(p, reference, best))
        reference = best if moved else p["ref"]
    return ClaimReport(worst(*fits), 1e-10)


HARD_UPDATES = Claim(
    paper=261,
    kind="theorem",
    statement="TR-DPO with hard updates after convergence gives pi_k = ref_0 e^{k r/b} / Z: the pull to ref_0 fades "
    "like 1/k",
    problems=_mild,
    check=_hard_updates,
    source="derived",
    n=64,
    twin=Twin("the updates of the reference", check=lambda p: _hard_updates(p, False)),
)


def _resets(p: Problem, hard: bool = True) -> ClaimReport:
    """Every stage solves E_pi r - b KL(pi, reference) exactly; four of them beside one solve with b/4."""
    reference, residuals = p["ref"], []
    before = expect(reference, p["r"])
    for _ in range(4):
        best = tilt(reference, p["r"], p["beta"])
        anchor = reference[:, None]
        value = lambda pi, a=anchor: regularised(pi, p["r"][:, None], a, p["beta"][:, None])  # noqa: E731
        residuals += [regret(value, best, p["rivals"]), before - expect(best, p["r"])]
        before = expect(best, p["r"])
        reference = best if hard else (best + reference) / 2
    return ClaimReport(worst(*residuals, (best - tilt(p["ref"], p["r"], p["beta"] / 4)).abs().amax(-1)), 1e-10)


RESETS = Claim(
    paper=105,
    kind="theorem",
    statement="m solves with weight b, each resetting the reference to the last policy, equal one solve with b/m; "
    "every one of them raises the reward",
    problems=_mild,
    check=_resets,
    source="derived",
    twin=Twin("the full reset (the reference moves half-way)", check=lambda p: _resets(p, False)),
)


def _guide(p: Problem, guided: bool = True) -> ClaimReport:
    """Gradient weights of DPO at pi = ref, for all pairs, and the minimiser when the guide has converged."""
    guide = tilt(p["ref"], p["r"], p["beta"]) if guided else p["ref"]
    chosen = (p["ref"] / guide).log()[:, :, None].expand(-1, -1, RESPONSES).clone().requires_grad_(True)
    each = loss.dpo(chosen, chosen.mT, beta=p["beta"][:, None, None])
    upper = torch.triu(torch.ones_like(p["P"]), 1).bool()
    (slope,) = torch.autograd.grad(each[upper].sum(), chosen)
    gain = (guide / p["ref"]).log()
    margin = gain[:, :, None] - gain[:, None, :]
    expected = p["beta"][:, None, None] * torch.sigmoid(p["r"][:, :, None] - p["r"][:, None, :])
    weights = torch.where(upper, (-slope - expected).abs(), 0).amax((1, 2))
    order = torch.where(upper & (margin > 1e-6), p["beta"][:, None, None] / 2 + slope, -1.0).amax((1, 2))
    fit = dpo_misfit(p, guide, tilt(p["ref"], 2 * p["r"], p["beta"]))
    return ClaimReport(worst(weights, order, fit), 1e-10)


GUIDE = Claim(
    paper=291,
    kind="theorem",
    statement="with DPO's optimum M as reference the weight of a pair at pi = ref is b sigma(r_w - r_l), above b/2 "
    "where M raised the margin; and the minimiser is ref e^{2r/b} / Z",
    problems=_mild,
    check=_guide,
    source="derived",
    n=64,
    twin=Twin("the guide (at pi = ref every pair of plain DPO weighs b/2)", check=lambda p: _guide(p, False)),
)


def _strength(p: Problem, powered: bool = True) -> ClaimReport:
    fits = []
    for kappa in (0.0, 0.5, 1.0):
        power = kappa if powered else 1.0
        best = torch.softmax(power * p["ref"].log() + p["r"] / column(p["beta"], p["r"]), -1)
        fits.append(dpo_misfit(p, p["ref"] ** kappa, best))
    return ClaimReport(worst(*fits), 1e-10)


STRENGTH = Claim(
    paper=331,
    kind="theorem",
    statement="DPO on b (log pi - k log ref) is minimised by ref^k e^{r/b} / Z: without a reference (k = 0) the prior "
    "is uniform",
    problems=bradley_terry,
    check=_strength,
    source="derived",
    n=64,
    twin=Twin("the power of the reference in the optimum", check=lambda p: _strength(p, False)),
)


def _qualities(rng: Rng, n: int) -> Problem:
    return bradley_terry(rng, n) | dict(quality=rng.normal(n, RESPONSES), weight=rng.uniform(n, low=0.1, high=1.0))


def _refined(p: Problem, signed: bool = True) -> ClaimReport:
    """Sr-DPO: -log sigma(b D - lam (q_w - q_l))."""
    gap = p["quality"][:, :, None] - p["quality"][:, None, :]
    gap = (gap if signed else gap.abs())[:, None]
    best = tilt(p["ref"], p["r"] + p["weight"][:, None] * p["quality"], p["beta"])

    def each(w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        return loss.bradley_terry(wide(p["beta"]) * w, wide(p["beta"]) * l, margin=wide(p["weight"]) * gap)

    fit = misfit(lambda x: population(p, each, x - p["ref"].log()[:, None]), best, p["rivals"])
    return ClaimReport(fit, 1e-10)


REFINED = Claim(
    paper=337,
    kind="theorem",
    statement="DPO with the margin lam (q(y_w) - q(y_l)) of a quality q is minimised by ref e^{(r + lam q)/b} / Z",
    problems=_qualities,
    check=_refined,
    source="derived",
    twin=Twin("that the margin changes sign with the pair (|q_w - q_l|)", check=lambda p: _refined(p, False)),
)
