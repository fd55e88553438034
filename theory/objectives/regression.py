"""Policy optimisation as regression: losses whose minimiser is a tilt of a base policy, from any full-support data.

Shapes: `log_ratio` rho = log pi(y) - log base(y) is (..., B) of whole answers, summed over tokens, or (..., G) for the
G answers to one prompt. A hyper-parameter is a float or broadcasts. Arguments named `*_target` are detached, nothing
else is. `preference.rebel` and `preference.sppo` are of the same family.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.numerics import softplus
from fenchel.theory.objectives.policy_gradient import MAX_LOG_RATIO

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Group = Float[Tensor, "*prompts answers"]


def group_variance(log_ratio: Group, reward_target: Group, *, beta: Hyper) -> Group:
    """G / (2 (G - 1)) (beta (rho_i - mean rho) - (r_i - mean r))^2, whose mean over i is half the sample variance.

    Population minimiser: base e^(r / beta) / Z, for every full-support sampler and G >= 2. A group with a single answer
    says nothing and is refused. (GVPO, Zhang 2025 [168]; the released code detaches mean rho: the same gradient, since
    centred weights sum to 0.)
    """
    count = log_ratio.shape[-1]
    if count < 2:
        raise UserError("group_variance needs groups of at least 2 answers.")
    gap = beta * log_ratio - reward_target.detach()
    return count / (2 * (count - 1)) * (gap - gap.mean(-1, keepdim=True)).square()


def optimal_advantage(log_ratio: Values, advantage_target: Values, *, beta: Hyper) -> Values:
    """(beta rho - (r - V*))^2, the base policy being the reference.

    Zero exactly at ref e^((r - V*) / beta) if V* = beta log E_ref e^(r / beta) belongs to the same beta; otherwise the
    target is no log-ratio of policies and the loss stays positive. (A*-PO, Brantley 2025 [242].)
    """
    return (beta * log_ratio - advantage_target.detach()).square()


def contrastive(first: Values, second: Values, reward_gap_target: Values, *, beta: Hyper) -> Values:
    """(r - r' - beta (rho - rho'))^2 / (2 beta) of a pair.

    Its negative gradient is CoPG's direction (R - R') grad log(pi(y) / pi(y')), R = r - beta rho detached: each answer
    is the other's baseline. Minimiser: ref e^(r / beta) / Z for samplers of full support. (CoPG, Flet-Berliac 2024
    [55]; the paper's constant factor was not seen.)
    """
    return (reward_gap_target.detach() - beta * (first - second)).square() / (2 * beta)


def negative_aware(
    log_ratio: Values, correct_target: Float[Tensor, "*other"], success_target: Float[Tensor, "*third"], *, floor: Hyper
) -> Values:
    """- log R where correct = 1, - log max(v, floor) where 0: v = (1 - q R) / (1 - q) is the ratio of the implicit
    policy of wrong answers if R = pi / old is that of the right ones and q in (0, 1) the old success rate.

    The clamp is straight-through: it changes the value and the weight 1 / v, never the sign of the gradient. Minimiser
    (floor -> 0): old r / q, the right answers alone. (NFT, Chen 2025 [117].)
    """
    correct, q = correct_target.detach(), success_target.detach()
    x = log_ratio.clamp(max=MAX_LOG_RATIO)
    wrong = (1 - q * x.exp()) / (1 - q)
    wrong = wrong + (wrong.clamp(min=floor) - wrong).detach()
    return correct * -log_ratio - (1 - correct) * wrong.log()


def implicit_critic(log_ratio: Group, label_target: Group, *, beta: Hyper) -> Group:
    """- r log sigmoid(psi) - (1 - r) log sigmoid(- psi), psi_i = beta (rho_i - mean of the others' rho).

    At rho = 0 its gradient is - beta times that of the leave-one-out policy gradient; |d / d psi| <= 1 always.
    (PACS [31].)
    """
    count = log_ratio.shape[-1]
    if count < 2:
        raise UserError("implicit_critic needs groups of at least 2 answers.")
    label = label_target.detach()
    psi = beta * (log_ratio - log_ratio.mean(-1, keepdim=True)) * (count / (count - 1))
    return label * softplus(-psi) + (1 - label) * softplus(psi)


def discriminative(score: Group, label_target: Group, *, tau: Hyper) -> Float[Tensor, "*prompts"]:
    """- (mean of s over right answers - tau log mean e^(s / tau) over wrong ones); 0 where a group lacks either.

    The second term is the worst mean of wrong scores within a KL ball: its gradient weighs wrong answers by
    softmax(s / tau), and tends to the plain mean as tau grows. (DisCO, Li 2025 [1].)
    """
    right = label_target.detach() > 0
    both = right.any(-1, keepdim=True) & ~right.all(-1, keepdim=True)
    chosen = (right & both).to(score.dtype)
    mean = (chosen * score).sum(-1) / chosen.sum(-1).clamp(min=1)
    wrong = ~right | ~both  # never empty, so that what is left out has finite gradients
    count = wrong.to(score.dtype).sum(-1)
    worst = tau * torch.where(wrong, score / tau, -torch.inf).logsumexp(-1, keepdim=True)
    worst = worst - tau * count.log().unsqueeze(-1)
    return torch.where(both, worst - mean.unsqueeze(-1), 0.0).squeeze(-1)
