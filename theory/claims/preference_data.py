"""Which preference pairs are used, and how they are labelled and weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.kl_regularised import RESPONSES
from fenchel.theory.claims.preference import bradley_terry, log_ratio, population, wide
from fenchel.theory.claims.reference_policy import dpo_misfit
from fenchel.theory.claims.tools import log_partition, misfit, tilt, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng


def _pair_weights(rng: Rng, n: int) -> Problem:
    return bradley_terry(rng, n) | dict(weight=rng.uniform(n, RESPONSES, low=0.1, high=2.0))


def _weighted(p: Problem, symmetric: bool = True) -> ClaimReport:
    """WPO: pairs weighted by w(y) w(y'), whoever won."""
    w = p["weight"]
    factor = w[:, :, None] * w[:, None, :] if symmetric else w[:, :, None].expand_as(p["P"])
    pairs = factor * p["mu"][:, :, None] * p["mu"][:, None, :]
    each = lambda w, l: loss.dpo(w, l, beta=wide(p["beta"]))  # noqa: E731, E741
    best = tilt(p["ref"], p["r"], p["beta"])
    return ClaimReport(misfit(lambda x: population(p, each, log_ratio(p, x), pairs), best, p["rivals"]), 1e-10)


WEIGHTED = Claim(
    paper=237,
    kind="theorem",
    statement="weighting pairs by w(y_w) w(y_l) > 0 leaves DPO's minimiser under Bradley-Terry where it is: ref "
    "e^{r/b} / Z",
    problems=_pair_weights,
    check=_weighted,
    source="derived",
    twin=Twin("the symmetry of the weight (w of the winner alone)", check=lambda p: _weighted(p, False)),
)


def _scored(rng: Rng, n: int) -> Problem:
    tau = rng.uniform(n, low=0.5, high=2.0)
    p = bradley_terry(rng, n)
    gap = (p["r"][:, :, None] - p["r"][:, None, :]) / tau[:, None, None]
    return p | dict(tau=tau, P=torch.sigmoid(gap))


def _soft_labels(p: Problem, soft: bool = True) -> ClaimReport:
    """RS-DPO's labels sigma((r - r')/tau), kept as probabilities, or made certain beyond the threshold 0.6."""
    if not soft:
        p = p | dict(P=(p["P"] > 0.6).to(p["P"].dtype))
    return ClaimReport(dpo_misfit(p, p["ref"], tilt(p["ref"], p["r"], p["tau"] * p["beta"])), 1e-10)


SOFT_LABELS = Claim(
    paper=304,
    kind="theorem",
    statement="DPO on sampled pairs labelled with sigma((r - r')/tau) is minimised by ref e^{r/(tau b)} / Z",
    problems=_scored,
    check=_soft_labels,
    source="derived",
    twin=Twin("the soft labels (pairs above a threshold, as certain winners)", check=lambda p: _soft_labels(p, False)),
)


def _constraints(rng: Rng, n: int) -> Problem:
    """Which of 6 constraints two responses satisfy."""
    return dict(first=rng.integers(2, n, 6).bool(), second=rng.integers(2, n, 6).bool())


def _reversed(p: Problem, reverse: bool = True) -> ClaimReport:
    """The chosen response satisfies more; reversing its violated constraints must leave no constraint against it."""
    swap = (p["second"].sum(-1) > p["first"].sum(-1))[:, None]
    chosen = torch.where(swap, p["second"], p["first"])
    rejected = torch.where(swap, p["first"], p["second"])
    wanted = chosen if reverse else torch.ones_like(chosen)
    kept, lost = chosen == wanted, rejected == wanted
    conflicts = (lost & ~kept).sum(-1)
    gap = kept.sum(-1) - lost.sum(-1)
    original = chosen.sum(-1) - rejected.sum(-1)
    different = (chosen != rejected).sum(-1)
    missing = (~kept).sum(-1)
    return ClaimReport(worst(conflicts, original - gap, (different - gap).abs(), missing).to(torch.float64), 0.0)


REVERSED = Claim(
    paper=295,
    kind="theorem",
    statement="reversing the constraints that the chosen response violates makes it perfect, leaves no constraint on "
    "which the rejected one is better, and widens the gap to their Hamming distance",
    problems=_constraints,
    check=_reversed,
    source="derived",
    twin=Twin("the reversal", check=lambda p: _reversed(p, False)),
)


def _two_prompts(rng: Rng, n: int) -> Problem:
    """Two prompts of 3 responses, with rewards shifted so that both have the same partition function."""
    p = dict(ref=rng.simplex(n, 2, 3), r=rng.normal(n, 2, 3), mu=rng.simplex(n, 2, 3))
    beta = rng.uniform(n, low=0.3, high=2.0)
    shift = beta[:, None] * log_partition(p["ref"], p["r"], beta[:, None].expand(-1, 2))
    return p | dict(beta=beta, r=p["r"] - shift[..., None])


def _unequal_prompts(rng: Rng, n: int) -> Problem:
    p = _two_prompts(rng, n)
    return p | dict(r=p["r"] + torch.tensor([0.0, 1.0]).to(p["r"])[:, None])


def _across_prompts(p: Problem) -> ClaimReport:
    """DPO's loss on pairs of any two prompts: its gradient in the logits of each prompt at the per-prompt optima."""
    best = tilt(p["ref"], p["r"], p["beta"][:, None])
    logits = best.log().requires_grad_(True)
    score = (torch.log_softmax(logits, -1) - p["ref"].log()).flatten(1)
    reward, mu = p["r"].flatten(1), p["mu"].flatten(1)
    chance = torch.sigmoid(reward[:, :, None] - reward[:, None, :])
    pairs = mu[:, :, None] * mu[:, None, :] * chance
    lost = (pairs * loss.dpo(score[:, :, None], score[:, None, :], beta=p["beta"][:, None, None])).sum()
    (gradient,) = torch.autograd.grad(lost, logits)
    return ClaimReport(gradient.abs().amax((1, 2)), 1e-12)


ACROSS_PROMPTS = Claim(
    paper=253,
    kind="theorem",
    statement="comparing responses of different prompts leaves the optima ref e^{r/b} / Z stationary if E_ref e^{r/b} "
    "is the same for every prompt",
    problems=_two_prompts,
    check=_across_prompts,
    source="derived",
    twin=Twin("equal partition functions", problems=_unequal_prompts),
)


def _weak_labels(rng: Rng, n: int) -> Problem:
    """12 inputs, their true class, and how often the weak supervisor errs on each."""
    draw = dict(truth=rng.integers(2, n, 12).to(rng.dtype), error=rng.uniform(n, 12, low=0.0, high=0.49))
    return draw | dict(rivals=rng.uniform(n, 32, 12))


def _systematic(rng: Rng, n: int) -> Problem:
    p = _weak_labels(rng, n)
    return p | dict(error=(p["error"] > 0.35).to(rng.dtype))


def _imitate(p: Problem) -> ClaimReport:
    """The minimiser of the cross-entropy to weak labels over all classifiers, and its accuracy on the truth."""
    label = p["truth"] * (1 - p["error"]) + (1 - p["truth"]) * p["error"]
    strong = label  # checked below to be the minimiser

    def cross_entropy(q: Tensor) -> Tensor:
        target = label[:, None]
        return -(torch.special.xlogy(target, q) + torch.special.xlog1py(1 - target, -q)).mean(-1)

    gain = (cross_entropy(strong[:, None]) - cross_entropy(p["rivals"])).amax(-1)
    wrong = ((strong > 0.5).to(label.dtype) - p["truth"]).abs().mean(-1)
    return ClaimReport(worst(gain, wrong), 1e-12)


WEAK_TO_STRONG = Claim(
    paper=107,
    kind="theorem",
    statement="a strong model that fits weak labels with independent errors at rates below 1/2 is right everywhere",
    problems=_weak_labels,
    check=_imitate,
    source="derived",
    twin=Twin("that errors are independent of the input (systematic ones are imitated)", problems=_systematic),
)
