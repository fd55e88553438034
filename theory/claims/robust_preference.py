"""Games behind preference losses: adversarial rewards, value-incentivised rewards, self-improvement, groups.

Problems are those of `preference`: `ref`, `r`, `pi`, `mu` (n, Y), `P` (n, Y, Y), `beta` (n,), `rivals` (n, K, Y).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.kl_regularised import RESPONSES
from fenchel.theory.claims.preference import bradley_terry, intransitive, log_ratio, population, wide
from fenchel.theory.claims.tools import expect, kl, misfit, regret, regularised, tilt, worst
from fenchel.theory.objectives import preference as loss
from fenchel.theory.rng import Rng

# -- RPO: the SFT term is an adversary ---------------------------------------------------------------------------------


def _adversarial(rng: Rng, n: int) -> Problem:
    """Labels P, and the baseline that makes r the adversary's optimum: base = pi_r + grad L(r) / eta."""
    p = intransitive(rng, n)
    p |= dict(r=rng.uniform(n, RESPONSES), beta=rng.uniform(n, low=0.5, high=2.0), ref=0.1 / RESPONSES + 0.9 * p["ref"])
    slope = _slope(p, p["r"])
    best = tilt(p["ref"], p["r"], p["beta"])
    eta = 2 * (slope.abs() / best).amax(-1)
    base = best + slope / eta[:, None]
    return p | dict(eta=eta, base=base / base.sum(-1, keepdim=True), rewards=rng.normal(n, 64, RESPONSES))


def likelihood(p: Problem, r: Tensor) -> Tensor:
    """Bradley-Terry negative log-likelihood of rewards r (n, K, Y), (n, K)."""
    return population(p, lambda w, l: torch.nn.functional.softplus(l - w), r)  # noqa: E741


def _slope(p: Problem, r: Tensor) -> Tensor:
    r = r[:, None].detach().requires_grad_(True)
    return torch.autograd.grad(likelihood(p, r).sum(), r)[0][:, 0]


def _adversary(p: Problem, imitated: str = "base") -> ClaimReport:
    """(pi_r, r) is a saddle point of L(r) + eta (E_pi r - E_base r - b KL(pi, ref)), and pi_r minimises RPO's loss."""
    best, eta, base = tilt(p["ref"], p["r"], p["beta"]), p["eta"], p["base"]

    def game(pi: Tensor, r: Tensor) -> Tensor:
        gain = expect(pi - base[:, None], r) - p["beta"][:, None] * kl(pi, p["ref"][:, None])
        return likelihood(p, r) + eta[:, None] * gain

    r = p["r"][:, None]
    near = torch.cat([r + t * p["rewards"] for t in (1.0, 0.1, 1e-3)], 1)
    adversary = (game(best[:, None], r) - game(best[:, None], near)).amax(1)
    player = regret(lambda pi: game(pi, r), best, p["rivals"])

    def fit(x: Tensor) -> Tensor:
        taught = expect(p[imitated][:, None], x)[..., None, None]
        each = lambda w, l: loss.rpo(w, l, taught, beta=wide(p["beta"]), eta=wide(2 * eta))  # noqa: E731, E741
        return population(p, each, log_ratio(p, x))

    return ClaimReport(worst(adversary, player, misfit(fit, best, p["rivals"])) / (1 + eta), 1e-10)


ADVERSARY = Claim(
    paper=85,
    kind="theorem",
    statement="max_pi min_r L(r) + eta (E_pi r - E_base r - b KL(pi, ref)) has a saddle point, whose policy minimises "
    "the DPO loss + eta b E_base[-log pi]",
    problems=_adversarial,
    check=_adversary,
    n=64,
    twin=Twin("the baseline in the SFT term (ref is imitated instead)", check=lambda p: _adversary(p, "ref")),
)

# -- VPO -------------------------------------------------------------------------------------------------------------


def _calibrated(p: Problem, centre: bool = True) -> ClaimReport:
    """J*(r) = max_pi J(pi) and -b E_mu log(pi_r / ref), for a reward with E_mu r = 0."""
    r = p["r"] - expect(p["mu"], p["r"])[:, None] if centre else p["r"]
    best = tilt(p["ref"], r, p["beta"])
    value = regularised(best, r, p["ref"], p["beta"])
    gain = regret(lambda pi: regularised(pi, r[:, None], p["ref"][:, None], p["beta"][:, None]), best, p["rivals"])
    return ClaimReport(worst(gain, (value + p["beta"] * expect(p["mu"], (best / p["ref"]).log())).abs()), 1e-11)


CALIBRATED = Claim(
    paper=338,
    kind="theorem",
    statement="for a reward with E_mu r = 0 its optimal value is max_pi J(pi) = -b E_mu log(pi_r / ref): optimism "
    "without an inner maximisation",
    problems=bradley_terry,
    check=_calibrated,
    source="derived",
    twin=Twin("the calibration E_mu r = 0", check=lambda p: _calibrated(p, False)),
)

# -- SRPO ------------------------------------------------------------------------------------------------------------


def _improvers(rng: Rng, n: int) -> Problem:
    """`reference` (n, Y, Y): row y is the reference improver's law of a revision of y."""
    return intransitive(rng, n) | dict(reference=rng.simplex(n, RESPONSES, RESPONSES))


def _self_improvement(p: Problem, right_sign: bool = True) -> ClaimReport:
    """The generator ref / Z(y) and the improver ref(.|y) e^{P(. beats y)/b} / Z(y), from their min-max problem, and the
    equation between pairs that is regressed on data of any law."""
    beta = p["beta"]
    beats = p["P"].mT  # [y, y'] = P(y' beats y)
    log_z = torch.logsumexp(p["reference"].log() + beats / beta[:, None, None], -1)
    improver = p["reference"] * torch.exp(beats / beta[:, None, None] - log_z[..., None])
    generator = torch.softmax(p["ref"].log() - (log_z if right_sign else -log_z), -1)
    inner = beta[:, None] * log_z  # max over improvers of E P - b KL
    reply = (improver * beats).sum(-1) - beta[:, None] * kl(improver, p["reference"])
    outer = regret(
        lambda pi: -expect(pi, inner[:, None]) - beta[:, None] * kl(pi, p["ref"][:, None]), generator, p["rivals"]
    )
    revised = (improver / p["reference"]).log()  # [y, y']
    own = (generator / p["ref"]).log()
    pairs = revised - revised.mT + own[:, None, :] - own[:, :, None]
    equation = (beats - 0.5 - beta[:, None, None] / 2 * pairs).abs().amax((1, 2))
    return ClaimReport(worst((reply - inner).abs().amax(-1), outer, equation), 1e-9)


SELF_IMPROVEMENT = Claim(
    paper=269,
    kind="theorem",
    statement="SRPO's min-max is solved by pi = ref / Z(y) and pi'(.|y) = ref(.|y) e^{P(. > y)/b} / Z(y), for which "
    "P(y' > y) - 1/2 = (b/2) [log pi'(y'|y)/pi'(y|y') + log pi(y')/pi(y), relative to ref] on every pair: no data law "
    "enters",
    problems=_improvers,
    check=_self_improvement,
    twin=Twin("that generator and improver are opponents", check=lambda p: _self_improvement(p, False)),
)

# -- Group-robust DPO --------------------------------------------------------------------------------------------------


def _two_groups(rng: Rng, n: int) -> Problem:
    return dict(P=rng.uniform(n, 2, low=0.05, high=0.95), z=3 * rng.normal(n, 256))


def _robust_margin(p: Problem, robust: bool = True) -> ClaimReport:
    """The margin clip(1/2, P_2, P_1) in logits, beside every other, for the worse of two groups' DPO losses."""
    low, high = p["P"].amin(-1), p["P"].amax(-1)
    chance = torch.minimum(torch.maximum(torch.full_like(low, 0.5), low), high) if robust else p["P"].mean(-1)
    best = torch.logit(chance)

    def worse(z: Tensor) -> Tensor:
        won, lost = loss.dpo(z, 0 * z, beta=1.0), loss.dpo(0 * z, z, beta=1.0)
        return torch.maximum(
            low[:, None] * won + (1 - low)[:, None] * lost, high[:, None] * won + (1 - high)[:, None] * lost
        )

    rivals = torch.cat([p["z"], best[:, None] + 1e-2 * p["z"]], -1)
    return ClaimReport((worse(best[:, None]) - worse(rivals)).amax(-1), 1e-12)


ROBUST_MARGIN = Claim(
    paper=223,
    kind="theorem",
    statement="for groups that prefer y with chances P_1 >= P_2 the worst group's DPO loss is smallest at the margin "
    "logit(clip(1/2, P_2, P_1))",
    problems=_two_groups,
    check=_robust_margin,
    source="derived",
    twin=Twin("robustness (pooled data: the margin logit of the mean)", check=lambda p: _robust_margin(p, False)),
)
