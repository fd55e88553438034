"""Certificate of a robust value by one-step tests and weak duality; nothing here sorts or bisects as the solver does.

    upper   nature's rows lie in the set and V >= max_a r + rows . (discount V): no policy has a robust value above V
    lower   V <= sum_a pi_a [...] against a dual bound of nature's minimum: the policy's robust value is at least V

Dual bounds, each valid for every eta and lam > 0 (the best is searched for, so a poor search only loosens them):
    l1        E0 min(z, eta) - radius / 2 (eta - min z)              best eta among the z
    interval  eta + low . (z - eta)_+ - high . (eta - z)_+           best eta among the z
    chi2      eta - sqrt(1 + radius) sqrt(E0 (eta - z)_+^2)
    kl        -lam log E0 exp(-z / lam) - lam radius
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution

GOLDEN = (5**0.5 - 1) / 2


def maximise(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int = 60) -> Tensor:
    """The greatest value seen by a golden-section search of a unimodal f, batched."""
    best = torch.maximum(f(low), f(high))
    for _ in range(steps):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        f_left, f_right = f(left), f(right)
        best = torch.maximum(best, torch.maximum(f_left, f_right))
        low, high = torch.where(f_left < f_right, left, low), torch.where(f_left < f_right, high, right)
    return best


def dual_bound(name: str, p0: Tensor, z: Tensor, radius: Any, bounds: Any) -> Tensor:
    """A lower bound of min p . z over the set, (...,)."""
    eta = z[..., :, None]  # candidates (..., eta, 1) against (..., 1, successor)
    zz, p = z[..., None, :], p0[..., None, :]
    if name == "l1":
        kept = (p * torch.minimum(zz, eta)).sum(-1)
        return (kept - radius[..., None] / 2 * (z - z.amin(-1, keepdim=True))).amax(-1)
    if name in ("linf", "interval"):
        low, high = bounds or ((p0 - radius[..., None]).clamp(min=0), (p0 + radius[..., None]).clamp(max=1))
        slack = low[..., None, :] * (zz - eta).clamp(min=0) - high[..., None, :] * (eta - zz).clamp(min=0)
        return (z + slack.sum(-1)).amax(-1)
    base, spread = _range(p0, z)
    x = (z - base[..., None]) / spread[..., None]

    def f(t: Tensor) -> Tensor:
        scale = t.exp()
        if name == "kl":
            return -scale * (torch.logsumexp(p0.log() - x / scale[..., None], -1) + radius)
        return scale - ((1 + radius) * (p0 * (scale[..., None] - x).clamp(min=0) ** 2).sum(-1)).sqrt()

    found = torch.maximum(
        maximise(f, torch.full_like(base, -30.0), torch.full_like(base, 18.0)), torch.zeros_like(base)
    )
    return torch.where(radius > 0, base + spread * found, (p0 * z).sum(-1))


def _range(p0: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    low = z.masked_fill(p0 <= 0, torch.inf).amin(-1)
    return low, (z.masked_fill(p0 <= 0, -torch.inf).amax(-1) - low).clamp(min=1e-300)


def penalised(name: str, p0: Tensor, z: Tensor, lam: Tensor) -> Tensor:
    """A lower bound of min over the simplex of p . z + lam distance(p, p0), for kl and chi2."""
    if name == "kl":
        return -lam * torch.logsumexp(p0.log() - z / lam[..., None], -1)
    base, spread = _range(p0, z)
    top = base + spread + 2 * lam  # eta lies between the least z and the greatest plus 2 lam
    f = lambda eta: (  # noqa: E731
        eta + lam - lam * (p0 * (1 + (eta[..., None] - z) / (2 * lam[..., None])).clamp(min=0) ** 2).sum(-1)
    )
    return maximise(f, base - 2 * lam, top, 45)


def joint_bound(name: str, p0: Tensor, z: Tensor, radius: Tensor) -> Tensor:
    """A lower bound (..., ) of min sum_a p_a . z_a with sum_a distance(p_a, p0_a) <= radius; z already holds pi_a."""
    if name in ("l1", "linf"):
        flat = zip(p0.reshape(-1, *p0.shape[-2:]), z.reshape(-1, *z.shape[-2:]), radius.reshape(-1), strict=True)
        values = [_joint_lp(name, p.cpu().numpy(), q.cpu().numpy(), float(k)) for p, q, k in flat]
        return torch.tensor(values, dtype=z.dtype, device=z.device).reshape(z.shape[:-2])
    spread = _range(p0, z)[1].amax(-1).clamp(min=1e-12)

    def f(t: Tensor) -> Tensor:
        lam = t.exp() * spread
        return penalised(name, p0, z, lam[..., None].expand(z.shape[:-1])).sum(-1) - lam * radius

    found = maximise(f, torch.full_like(radius, -25.0), torch.full_like(radius, 25.0))
    return torch.where(radius > 0, found, (p0 * z).sum((-2, -1)))


def _joint_lp(name: str, p0: np.ndarray, z: np.ndarray, radius: float) -> float:
    """variables p (A S), distances t (A S for l1, A for linf)."""
    A, S = p0.shape
    n, m = A * S, A * S if name == "l1" else A
    spread = np.eye(n) if name == "l1" else np.kron(np.eye(A), np.ones((S, 1)))
    budget = np.r_[np.zeros(n), np.ones(m)][None]
    result = linprog(
        np.r_[z.ravel(), np.zeros(m)], np.r_[np.c_[np.eye(n), -spread], np.c_[-np.eye(n), -spread], budget],
        np.r_[p0.ravel(), -p0.ravel(), radius], np.c_[np.kron(np.eye(A), np.ones(S)), np.zeros((A, m))], np.ones(A),
        method="highs", options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    return float(result.fun)


def check_robust(
    mdp: TabularMDP, answer: Solution, ambiguity: str, radius: Any = None, rectangular: str = "sa", bounds: Any = None,
) -> dict[str, Tensor]:  # fmt: skip
    V, policy, rows = answer.V, answer.policy, answer.extra["kernel"]
    gamma = mdp.discount if mdp.discount.ndim == mdp.P.ndim else mdp.discount[..., None]
    z = (gamma * V[..., None, None, :]).expand(mdp.P.shape)
    away = _excess(mdp, rows, ambiguity, radius, rectangular, bounds)
    worst = (mdp.r + (rows * z).sum(-1)).masked_fill(~mdp.mask, -torch.inf).amax(-1)
    shape = mdp.P.shape[:-1] if rectangular == "sa" else mdp.P.shape[:-2]
    radius = None if radius is None else torch.as_tensor(radius, dtype=mdp.dtype, device=mdp.device).expand(shape)
    if rectangular == "sa":
        earned = (policy * (mdp.r + dual_bound(ambiguity, mdp.P, z, radius, bounds))).sum(-1)
    else:
        earned = (policy * mdp.r).sum(-1) + joint_bound(ambiguity, mdp.P, policy[..., None] * z, radius)
    return {
        "member": away, "upper": (worst - V).clamp(min=0).amax(-1), "lower": (V - earned).clamp(min=0).amax(-1)
    }  # fmt: skip


def _excess(mdp: TabularMDP, rows: Tensor, name: str, radius: Any, rectangular: str, bounds: Any) -> Tensor:
    """How far nature's rows leave the simplex or the set, (...)."""
    off = torch.maximum((-rows).amax(-1).clamp(min=0), (rows.sum(-1) - 1).abs()).amax((-2, -1))
    if name == "interval":
        out = torch.maximum(bounds[0] - rows, rows - bounds[1]).clamp(min=0).amax((-3, -2, -1))
        return torch.maximum(off, out)
    gap = (rows - mdp.P).abs()
    if name in ("l1", "linf"):
        far = gap.sum(-1) if name == "l1" else gap.amax(-1)
    else:
        ratio = rows / torch.where(mdp.P > 0, mdp.P, torch.ones_like(mdp.P))
        far = (torch.special.xlogy(rows, ratio) if name == "kl" else gap * (ratio - 1).abs()).sum(-1)
        new = (rows * (mdp.P <= 0)).sum(-1)
        far = torch.where(new > 1e-12, torch.full_like(far, torch.inf), far)
    far = far * mdp.mask if rectangular == "sa" else (far * mdp.mask).sum(-1)
    excess = (far - torch.as_tensor(radius, dtype=far.dtype)).clamp(min=0)
    return torch.maximum(off, excess.flatten(rows.ndim - 3).amax(-1))
