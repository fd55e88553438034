"""Certificate of a regularised occupancy: the four tests that cvxpy applies, and flow balance."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.divergences import Divergence, get_divergence
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman_checks import expected, flow, off_policy_simplex
from fenchel.theory.solvers.solution import Solution


def check_occupancy_dual(
    mdp: TabularMDP, answer: Solution, divergence: str | Divergence = "kl", alpha: float = 1.0,
    reference: Tensor | None = None, behaviour: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Primal feasibility (flow, sign, support), the values, their gap, complementarity (Fenchel-Young), stationarity.

    Fenchel-Young:  f(w) + f*(y) - w y >= 0 with equality iff y is a slope of f at w. Stationarity: where w > 0,
    f'(w) = y in units of 1 / f''; where w = 0, the dual's own w is 0 too.
    """
    div = get_divergence(divergence)
    ref = answer.extra["reference"] if reference is None else reference.to(answer.V)
    if reference is None:
        pi = mdp.mask / mdp.mask.sum(-1, keepdim=True).to(answer.V) if behaviour is None else behaviour.to(answer.V)
        claimed = ref.sum(-1) - flow(mdp, ref) - mdp.mu0
        off = torch.maximum(claimed.abs().amax(-1), (ref - ref.sum(-1, keepdim=True) * pi).abs().amax((-2, -1)))
    else:
        off = (ref - answer.extra["reference"]).abs().amax((-2, -1))
    d, V, used = answer.occupancy, answer.V, ref > 0
    r = mdp.r.masked_fill(~mdp.mask, 0)
    y = torch.where(used, (r + expected(mdp, V) - V[..., None]) / alpha, 0)
    w = torch.where(used, d / torch.where(used, ref, 1), 1)
    young = torch.where(used, ref * (div.f(w) + div.conjugate_nonneg(y) - w * y), 0)
    primal = (d * r).sum((-2, -1)) - alpha * torch.where(used, ref * div.f(w), 0).sum((-2, -1))
    dual = (mdp.mu0 * V).sum(-1) + alpha * torch.where(used, ref * div.conjugate_nonneg(y), 0).sum((-2, -1))
    size = dual.abs().clamp(min=1)
    mass = d.sum((-2, -1)).clamp(min=1)
    return {
        "flow": (d.sum(-1) - flow(mdp, d) - mdp.mu0).abs().amax(-1) / mass,
        "nonnegative": (-d).clamp(min=0).amax((-2, -1)) / mass,
        "support": (d * ~used).abs().amax((-2, -1)),
        "reference": off / mass,
        "primal": (primal - answer.lower).abs() / size,
        "dual": (dual - answer.upper).abs() / size,
        "dual_domain": (~torch.isfinite(dual)).to(dual),
        "gap": (dual - primal).abs() / size,
        "complementarity": alpha * young.abs().sum((-2, -1)) / size,
        "policy": torch.maximum(
            off_policy_simplex(mdp, answer.policy),
            (d - d.sum(-1, keepdim=True) * answer.policy).abs().amax((-2, -1)) / mass,
        ),
    }
