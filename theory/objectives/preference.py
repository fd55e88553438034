"""Losses of policies learned from preferences. Per pair (or per answer, per group), lower is better.

Shapes: the scores of answers are (..., B). `chosen` and `rejected` are log-ratios rho(y) = log pi(y|x) - log ref(y|x),
summed over the tokens of the answer, unless a docstring says otherwise; a hyper-parameter is a float or broadcasts to
(..., B), such as (R, 1). Arguments named `*_target` are detached, nothing else is (a frozen reference has no gradient).

"Minimiser" is over every policy with full support, for pairs drawn independently and labelled with P(y beats y'); BT
means P = sigmoid(r(y) - r(y')). pi* = ref exp(r / beta) / Z.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.divergences import Divergence, get_divergence
from fenchel.theory.numerics import sigmoid, softplus

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Group = Float[Tensor, "*batch answers"]


def _over_answers(hyper: Hyper) -> Hyper:
    return hyper.unsqueeze(-1) if isinstance(hyper, Tensor) else hyper


def bradley_terry(chosen_reward: Values, rejected_reward: Values, *, margin: Hyper = 0.0) -> Values:
    """- log sigmoid(r_w - r_l - margin).

    Minimiser at margin 0: r up to a constant per prompt. (Bradley and Terry 1952.)
    """
    return softplus(margin - (chosen_reward - rejected_reward))


def dpo(chosen: Values, rejected: Values, *, beta: Hyper, label_smoothing: Hyper = 0.0) -> Values:
    """- log sigmoid(beta D), D = rho_w - rho_l. Minimiser under BT: pi*. (DPO, Rafailov 2023, eq. 7.)

    label_smoothing eps mixes in the opposite label (cDPO): certain data then has the finite margin logit(1 - eps) /
    beta.
    """
    logit = beta * (chosen - rejected)
    return (1 - label_smoothing) * softplus(-logit) + label_smoothing * softplus(logit)


def robust_dpo(chosen: Values, rejected: Values, *, beta: Hyper, flip_rate: Hyper) -> Values:
    """((1 - eps) l(D) - eps l(-D)) / (1 - 2 eps), l = `dpo`: its mean over labels flipped at rate eps < 1/2 is the
    clean loss, so the minimiser is pi*. Unbounded below on a single pair. (rDPO, Chowdhury 2024 [254].)
    """
    if not isinstance(flip_rate, Tensor) and not 0 <= flip_rate < 0.5:
        raise UserError(f"flip_rate={flip_rate} is not valid; it lies in [0, 0.5).")
    logit = beta * (chosen - rejected)
    return ((1 - flip_rate) * softplus(-logit) - flip_rate * softplus(logit)) / (1 - 2 * flip_rate)


def length_dpo(
    chosen: Values, rejected: Values, chosen_length: Values, rejected_length: Values, *, beta: Hyper, penalty: Hyper
) -> Values:
    """- log sigmoid(beta D + penalty (L_w - L_l)).

    Minimiser under BT: ref exp((r - penalty L) / beta) / Z. (R-DPO, Park 2024.)
    """
    return softplus(-beta * (chosen - rejected) - penalty * (chosen_length - rejected_length))


def hinge(chosen: Values, rejected: Values, *, beta: Hyper) -> Values:
    """max(0, 1 - beta D). Minimiser on certain labels: any policy with beta D >= 1. (SLiC, Zhao 2023.)"""
    return (1 - beta * (chosen - rejected)).relu()


def ipo(chosen: Values, rejected: Values, *, tau: Hyper) -> Values:
    """(D - 1 / (2 tau))^2. Minimiser for any P: ref exp(P(y beats mu) / tau) / Z. (IPO, Azar 2023 [287], eq. 17.)

    With log-ratios averaged over tokens, as some released code has it, the optimum is a different one.
    """
    return (chosen - rejected - 1 / (2 * tau)).square()


def simpo(chosen: Values, rejected: Values, *, beta: Hyper, margin: Hyper) -> Values:
    """- log sigmoid(beta (l_w - l_l) - margin) of the mean log-probability per token l(y), without a reference.

    Minimiser per pair: exp(z) = (2 P - 1 + sqrt((2 P - 1)^2 + 4 P (1 - P) e^(-2 margin))) / (2 (1 - P) e^(-margin)),
    z = beta (l_w - l_l); at margin 0 it is logit P. (SimPO, Meng 2024 [284], eq. 6.)
    """
    return softplus(margin - beta * (chosen - rejected))


def f_dpo(chosen: Values, rejected: Values, *, beta: Hyper, divergence: str | Divergence) -> Values:
    """- log sigmoid(beta (f'(e^rho_w) - f'(e^rho_l))). Minimiser under BT: beta f'(pi / ref) - r is constant in y.

    kl is DPO; our js is half of the paper's, so its beta is twice theirs. A finite f'(0) (chi2, tv) allows optima
    without full support, which no log-ratio reaches: refused. (f-DPO, Wang 2024 [36].)
    """
    d = get_divergence(divergence)
    if math.isfinite(d.lowest):
        raise UserError(
            f"divergence={d.name} is not valid for f_dpo; it needs f'(0) = -inf, as kl, reverse_kl and js have."
        )
    return softplus(-beta * (d.score(chosen) - d.score(rejected)))


def h_dpo(
    chosen_logp: Values,
    rejected_logp: Values,
    chosen_reference: Values,
    rejected_reference: Values,
    *,
    beta: Hyper,
    alpha: Hyper,
) -> Values:
    """- log sigmoid(beta (alpha (log pi_w - log pi_l) - (log ref_w - log ref_l))).

    Minimiser under BT: ref^(1/alpha) exp(r / (alpha beta)) / Z, the DPO optimum at temperature alpha. (H-DPO [297].)
    """
    return softplus(-beta * (alpha * (chosen_logp - rejected_logp) - (chosen_reference - rejected_reference)))


def modpo(chosen: Values, rejected: Values, margin_target: Values, *, beta: Hyper, weight: Hyper) -> Values:
    """- log sigmoid((beta D - m) / w_1), m = sum over k >= 2 of w_k (r_k(y_w) - r_k(y_l)).

    Minimiser for BT labels of r_1: ref exp((w_1 r_1 + sum_k w_k r_k) / beta) / Z. (MODPO, Zhou 2023 [279], eq. 9.)
    """
    return softplus(-(beta * (chosen - rejected) - margin_target.detach()) / weight)


def rpo(chosen: Values, rejected: Values, chosen_logp: Values, *, beta: Hyper, eta: Hyper) -> Values:
    """- log sigmoid(beta D) - eta beta log pi(y_w): DPO with the SFT term of an adversarial reward. (RPO, Liu 2024
    [85].)

    `chosen_logp` is the sum over tokens of an answer of the base policy, the chosen one by default; a mean over tokens
    changes eta by the length.
    """
    return dpo(chosen, rejected, beta=beta) - eta * beta * chosen_logp


def exo(log_ratios: Group, rewards_target: Group, *, policy_beta: Hyper = 1.0, reward_beta: Hyper = 1.0) -> Values:
    """KL(q || p), q = softmax_k(policy_beta rho_k), p = softmax_k(r_k / reward_beta): K answers (..., B, K) -> (...,
    B).

    Minimiser: ref exp(r / (policy_beta reward_beta)) / Z. (EXO, Ji 2024 [286].) With two answers and the rewards
    reward_beta * (log(1 - eps), log eps) it is EXO-pref; q is not detached in either factor.
    """
    log_q = (_over_answers(policy_beta) * log_ratios).log_softmax(-1)
    log_p = (rewards_target.detach() / _over_answers(reward_beta)).log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def kto(
    log_ratio: Values,
    desirable: Float[Tensor, "*batch"],
    baseline_target: Float[Tensor, "*other"],
    *,
    beta: Hyper,
    desirable_weight: Hyper = 1.0,
    undesirable_weight: Hyper = 1.0,
) -> Values:
    """w (1 - sigmoid(+- (beta rho - z0))), + where desirable = 1, - where 0; z0 = beta KL(pi || ref) >= 0, a constant.

    No finite minimiser in a table: the gradient is - beta w sigmoid' in the direction of the label. (KTO, Ethayarajh
    2024.)
    """
    sign = 2 * desirable - 1
    weight = desirable * desirable_weight + (1 - desirable) * undesirable_weight
    return weight * sigmoid(-sign * (beta * log_ratio - baseline_target.detach()))


def cpl(chosen_logp: Values, rejected_logp: Values, *, alpha: Hyper, conservative: Hyper = 1.0) -> Values:
    """- log sigmoid(S_w - conservative S_l), S = alpha sum_t gamma^t log pi(a_t|s_t).

    Minimiser at conservative = 1 for regret preferences, P = sigmoid(A*(w) - A*(l)): the soft-optimal policy, with
    alpha log pi* = A*. (CPL, Hejna 2023 [22], eqs. 5 and 6.)
    """
    return softplus(-alpha * (chosen_logp - conservative * rejected_logp))


def sppo(log_ratio: Values, win_rate_target: Values, *, eta: Hyper) -> Values:
    """(rho - eta (P(y beats pi_t) - 1/2))^2 with the reference pi_t. (SPPO, Wu 2024 [241].)

    Minimiser without normalisation: pi_t exp(eta (P - 1/2)), which is the multiplicative-weights step up to its Z.
    """
    return (log_ratio - eta * (win_rate_target.detach() - 0.5)).square()


def rebel(first: Values, second: Values, reward_gap_target: Values, *, eta: Hyper) -> Values:
    """((rho(y) - rho(y')) / eta - (r(y) - r(y')))^2 with the reference pi_t.

    Minimiser: pi_t exp(eta r) / Z. (REBEL [246].)
    """
    return ((first - second) / eta - reward_gap_target.detach()).square()


def dno(first: Values, second: Values, reward_gap_target: Values, *, eta: Hyper) -> Values:
    """- sigmoid(d) log sigmoid(x) - sigmoid(- d) log sigmoid(- x), x = eta (rho - rho'), d = r(y) - r(y').

    With the reference pi_t and win rates r against it the minimiser is pi_t e^(r / eta) / Z. (DNO [249].)
    """
    logit, target = eta * (first - second), sigmoid(reward_gap_target.detach())
    return target * softplus(-logit) + (1 - target) * softplus(logit)


def wpo_weight(token_logp: Float[Tensor, "*batch tokens"], mask: Float[Tensor, "*batch tokens"]) -> Values:
    """exp of the mean log-probability per token: the weight of an answer, to be detached and multiplied in.

    (WPO [237].)
    """
    return ((token_logp * mask).sum(-1) / mask.sum(-1).clamp(min=1)).exp()
