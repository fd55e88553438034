"""What losses on preference pairs learn: their population minimisers over every policy, by enumeration.

A problem is that of `kl_regularised` plus `mu` (n, Y), the law of each response of a pair, and `P` (n, Y, Y), the
chance that y beats y'. Bradley-Terry means P = sigmoid(r(y) - r(y')).

The closed forms are written here, the losses are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.f_divergence import optimum
from fenchel.theory.claims.kl_regularised import RESPONSES, problems
from fenchel.theory.claims.tools import column, misfit, tilt, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng


def bradley_terry(rng: Rng, n: int) -> Problem:
    p = problems(rng, n)
    return p | dict(mu=rng.simplex(n, RESPONSES), P=torch.sigmoid(p["r"][:, :, None] - p["r"][:, None, :]))


def intransitive(rng: Rng, n: int) -> Problem:
    """Any preference: no reward explains it."""
    noise = rng.normal(n, RESPONSES, RESPONSES)
    return bradley_terry(rng, n) | dict(P=torch.sigmoid(noise - noise.mT))


def log_ratio(p: Problem, log_pi: Tensor) -> Tensor:
    return log_pi - p["ref"].log()[:, None]


def population(p: Problem, per_pair: Callable[[Tensor, Tensor], Tensor], score: Tensor, pairs: Tensor | None = None):
    """E over pairs (both from mu unless `pairs` (n, Y, Y) is given) and labels of per_pair(chosen, rejected); score
    (n, K, Y) -> (n, K)."""
    pairs = p["mu"][:, :, None] * p["mu"][:, None, :] if pairs is None else pairs
    each = per_pair(score[..., :, None], score[..., None, :])
    return ((pairs * p["P"])[:, None] * each).sum((-1, -2))


def wide(x: Tensor | float) -> Tensor:
    """(n,) against the (n, K, Y, Y) of all pairs."""
    return torch.as_tensor(x)[..., None, None, None]


def _dpo(p: Problem) -> ClaimReport:
    each = lambda w, l: loss.dpo(w, l, beta=wide(p["beta"]))  # noqa: E731, E741
    best = tilt(p["ref"], p["r"], p["beta"])
    return ClaimReport(misfit(lambda x: population(p, each, log_ratio(p, x)), best, p["rivals"]), 1e-11)


DPO = Claim(
    paper=318,
    kind="theorem",
    statement="over all policies and rewards, under Bradley-Terry, DPO's minimiser is RLHF's: ref e^{r/b} / Z",
    problems=bradley_terry,
    check=_dpo,
    twin=Twin("Bradley-Terry labels", problems=intransitive),
)


def _ipo(p: Problem, product: bool = True) -> ClaimReport:
    pairs = None
    if not product:  # neighbours are compared more often
        near = 1.0 + 4 * torch.eye(p["mu"].shape[-1]).to(p["mu"]).roll(1, 0)
        pairs = (near + near.mT) * p["mu"][:, :, None] * p["mu"][:, None, :]
    wins = (p["P"] * p["mu"][:, None, :]).sum(-1)
    best = tilt(p["ref"], wins, p["beta"])
    each = lambda w, l: loss.ipo(w, l, tau=wide(p["beta"]))  # noqa: E731, E741
    fit = misfit(lambda x: population(p, each, log_ratio(p, x), pairs), best, p["rivals"])
    return ClaimReport(fit, 1e-10 * (1 + p["beta"].pow(-2)))


IPO = Claim(
    paper=287,
    kind="theorem",
    statement="for any P, transitive or not, and pairs from mu x mu IPO's minimiser is ref e^{P(y > mu)/tau} / Z",
    problems=intransitive,
    check=_ipo,
    source="derived",
    twin=Twin("that the two responses of a pair are independent", check=lambda p: _ipo(p, False)),
)


def _certain(rng: Rng, n: int) -> Problem:
    """Two responses, the first always preferred."""
    half = torch.full((n, 2), 0.5, dtype=rng.dtype, device=rng.device)
    P = torch.tensor([[0.5, 1.0], [0.0, 0.5]], dtype=rng.dtype, device=rng.device).expand(n, 2, 2)
    return dict(
        ref=rng.simplex(n, 2), mu=half, P=P, beta=rng.uniform(n, low=0.1, high=2.0), rivals=rng.simplex(n, 64, 2)
    )


def _bounded_margin(p: Problem, identity: bool = True) -> ClaimReport:
    """The margin log pi(1)ref(2) / pi(2)ref(1) = 1/(2 tau) is optimal."""
    best = tilt(p["ref"], torch.stack([0.5 / p["beta"], 0 * p["beta"]], -1), 1.0)
    tau = wide(p["beta"])
    each = (lambda w, l: loss.ipo(w, l, tau=tau)) if identity else (lambda w, l: loss.dpo(w, l, beta=tau))  # noqa: E741
    return ClaimReport(misfit(lambda x: population(p, each, log_ratio(p, x)), best, p["rivals"]), 1e-10)


BOUNDED_MARGIN = Claim(
    paper=287,
    kind="theorem",
    statement="when one of two responses always wins, IPO's optimum keeps the margin log pi ref'/(pi' ref) = 1/(2 tau)",
    problems=_certain,
    check=_bounded_margin,
    source="derived",
    twin=Twin("the identity link (DPO's optimal margin is infinite)", check=lambda p: _bounded_margin(p, False)),
)


def _noisy(rng: Rng, n: int) -> Problem:
    draw = dict(chosen=rng.normal(n), rejected=rng.normal(n), beta=rng.uniform(n, low=0.05, high=3.0))
    return draw | dict(flip=rng.uniform(n, low=0.01, high=0.45))


def _flipped(p: Problem, robust: bool = True) -> ClaimReport:
    clean = loss.dpo(p["chosen"], p["rejected"], beta=p["beta"])
    if robust:
        each = lambda w, l: loss.robust_dpo(w, l, beta=p["beta"], flip_rate=p["flip"])  # noqa: E731, E741
    else:
        each = lambda w, l: loss.dpo(w, l, beta=p["beta"], label_smoothing=p["flip"])  # noqa: E731, E741
    mean = (1 - p["flip"]) * each(p["chosen"], p["rejected"]) + p["flip"] * each(p["rejected"], p["chosen"])
    return ClaimReport((mean - clean).abs(), 1e-10)


FLIPPED = Claim(
    paper=254,
    kind="theorem",
    statement="the mean of rDPO's loss over labels flipped at rate eps is the DPO loss on clean labels",
    problems=_noisy,
    check=_flipped,
    twin=Twin("the de-biasing (label smoothing at the same rate)", check=lambda p: _flipped(p, False)),
)


def _h_dpo(p: Problem, split: bool = True) -> ClaimReport:
    """ref^{1/a} e^{r/(ab)} / Z for a = 0.7."""
    a, ref = 0.7, p["ref"].log()[:, None]
    best = torch.softmax(p["ref"].log() / a + p["r"] / (a * column(p["beta"], p["r"])), -1)

    def total(x: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, ref)
        args = (x[..., :, None], x[..., None, :], y[..., :, None], y[..., None, :])
        beta, alpha = (wide(p["beta"]), a) if split else (a * wide(p["beta"]), 1.0)
        pairs = (p["mu"][:, :, None] * p["mu"][:, None, :] * p["P"])[:, None]
        return (pairs * loss.h_dpo(*args, beta=beta, alpha=alpha)).sum((-1, -2))

    return ClaimReport(misfit(total, best, p["rivals"]), 1e-10)


H_DPO = Claim(
    paper=297,
    kind="theorem",
    statement="H-DPO's minimiser under Bradley-Terry is ref^{1/a} e^{r/(ab)} / Z",
    problems=bradley_terry,
    check=_h_dpo,
    source="derived",
    twin=Twin("the split (a scales the reference term too: DPO at ab)", check=lambda p: _h_dpo(p, False)),
)


def _objectives(rng: Rng, n: int) -> Problem:
    return bradley_terry(rng, n) | dict(other=rng.normal(n, 2, RESPONSES), w=0.1 + 0.9 * rng.simplex(n, 3))


def _modpo(p: Problem, weighted: bool = True) -> ClaimReport:
    first, rest = p["w"][:, 0], (p["w"][:, 1:, None] * p["other"]).sum(1)
    best = tilt(p["ref"], first[:, None] * p["r"] + rest, p["beta"])
    margin = (rest[:, :, None] - rest[:, None, :])[:, None]
    scale = wide(first) if weighted else 1.0
    each = lambda w, l: loss.modpo(w, l, margin, beta=wide(p["beta"]), weight=scale)  # noqa: E731, E741
    return ClaimReport(misfit(lambda x: population(p, each, log_ratio(p, x)), best, p["rivals"]), 1e-9)


MODPO = Claim(
    paper=279,
    kind="theorem",
    statement="MODPO on labels of r_1 with margins of the others is minimised by ref e^{w.r/b} / Z: RLHF on w.r",
    problems=_objectives,
    check=_modpo,
    twin=Twin("the division by w_1", check=lambda p: _modpo(p, False)),
)


def _pairs(rng: Rng, n: int) -> Problem:
    return dict(
        P=rng.uniform(n, low=0.02, high=0.98), margin=rng.uniform(n, low=0.1, high=2.0), z=3 * rng.normal(n, 64)
    )


def _simpo(p: Problem, shifted: bool = True) -> ClaimReport:
    """The root z of the risk's derivative, beside every other z, and its distance from logit P."""
    gap, decay, logit = 2 * p["P"] - 1, torch.exp(-p["margin"]), torch.logit(p["P"])
    root = torch.sqrt(gap.square() + 4 * p["P"] * (1 - p["P"]) * decay.square())
    best = torch.log((gap + root) / (2 * (1 - p["P"]) * decay)) if shifted else logit

    def risk(z: Tensor) -> Tensor:
        zero, margin, P = torch.zeros_like(z), p["margin"][:, None], p["P"][:, None]
        lost = loss.simpo(zero, z, beta=1.0, margin=margin)
        return P * loss.simpo(z, zero, beta=1.0, margin=margin) + (1 - P) * lost

    near = best[:, None] + 1e-3 * p["z"]
    gain = risk(best[:, None]) - torch.cat([risk(p["z"]), risk(near)], -1)
    between = worst(logit.abs() - best.abs(), best.abs() - logit.abs() - p["margin"])
    return ClaimReport(worst(gain.amax(-1), between), 1e-12)


SIMPO = Claim(
    paper=284,
    kind="theorem",
    statement="SimPO with margin g is minimised on a pair of preference P at z, |logit P| <= |z| <= |logit P| + g",
    problems=_pairs,
    check=_simpo,
    source="derived",
    twin=Twin("the effect of the margin (z = logit P, as without it)", check=lambda p: _simpo(p, False)),
)


def _exo(p: Problem, both: bool = True) -> ClaimReport:
    """Mean over all 3-subsets of the responses, policy temperature 0.5."""
    groups = torch.tensor(list(combinations(range(p["r"].shape[-1]), 3)), device=p["r"].device)
    best = tilt(p["ref"], p["r"], 0.5 * p["beta"] if both else p["beta"])
    beta = wide(p["beta"])[..., 0]
    rewards = p["r"][:, None, groups]

    def total(x: Tensor) -> Tensor:
        ratios = log_ratio(p, x)[..., groups]
        return loss.exo(ratios, rewards.expand_as(ratios), policy_beta=0.5, reward_beta=beta).mean(-1)

    return ClaimReport(worst(misfit(total, best, p["rivals"]), total(best.log()[:, None])[:, 0]), 1e-10)


EXO = Claim(
    paper=286,
    kind="theorem",
    statement="EXO's reverse KL over groups of responses is zero, its minimum, at ref e^{r/(b_pi b_r)} / Z",
    problems=bradley_terry,
    check=_exo,
    source="derived",
    n=64,
    twin=Twin("the policy's own temperature", check=lambda p: _exo(p, False)),
)


def _f_dpo(p: Problem, matched: bool = True) -> ClaimReport:
    def fit(name: str) -> Tensor:
        each = lambda w, l: loss.f_dpo(w, l, beta=wide(p["beta"]), divergence=name)  # noqa: E731, E741
        best = optimum(name if matched else "kl", p)
        return misfit(lambda x: population(p, each, log_ratio(p, x)), best, p["rivals"])

    return ClaimReport(worst(*(fit(name) for name in ("reverse_kl", "js", "alpha:0.3"))), 1e-8)


F_DPO = Claim(
    paper=36,
    kind="theorem",
    statement="f-DPO's minimiser under Bradley-Terry maximises E_pi r - b D_f(pi || ref) (forward KL, JS, alpha)",
    problems=bradley_terry,
    check=_f_dpo,
    n=64,
    twin=Twin("the same f in loss and constraint", check=lambda p: _f_dpo(p, False)),
)
