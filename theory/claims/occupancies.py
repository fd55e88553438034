"""What the claims about occupancies share: flows, f-divergences written out again, and a Newton minimiser.

Occupancies here sum to 1, the discount being one number gamma: d = (1 - gamma) sum_t gamma^t Pr(s_t, a_t). Nothing
calls `theory.objectives` or `theory.divergences`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Problem
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng

GAMMA = 0.9
# name: (f, f', max(0, (f')^{-1})) with f(1) = f'(1) = 0
F: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "kl": (lambda w: torch.special.xlogy(w, w) - w + 1, torch.log, torch.exp),
    "chi2": (lambda w: (w - 1) ** 2, lambda w: 2 * (w - 1), lambda y: (1 + y / 2).clamp(min=0)),
    "soft_chi2": (
        lambda w: torch.where(w < 1, torch.special.xlogy(w, w) - w + 1, (w - 1) ** 2 / 2),
        lambda w: torch.where(w < 1, w.log(), w - 1),
        lambda y: torch.where(y < 0, y.exp(), 1 + y),
    ),
    "reverse_kl": (lambda w: w - 1 - w.log(), lambda w: 1 - 1 / w, lambda y: 1 / (1 - y)),
    "hellinger": (lambda w: (w.sqrt() - 1) ** 2, lambda w: 1 - w**-0.5, lambda y: (1 - y) ** -2),
    "js": (
        lambda w: (torch.special.xlogy(w, w) - (1 + w) * ((1 + w) / 2).log()) / 2,
        lambda w: (2 * w / (1 + w)).log() / 2,
        lambda y: (2 * y).exp() / (2 - (2 * y).exp()),
    ),
    "alpha:1.5": (
        lambda w: (w**1.5 - 1.5 * w + 0.5) / 0.75,
        lambda w: 2 * (w.sqrt() - 1),
        lambda y: (1 + y / 2).clamp(min=0) ** 2,
    ),
}


def total(x: Tensor) -> Tensor:
    """The sum over states and actions, (n,)."""
    return x.sum((-2, -1))


def divergence(name: str, d: Tensor, ref: Tensor) -> Tensor:
    """D_f(d || ref), (n,), over (n, S, A)."""
    return total(ref * F[name][0](d / ref))


def problems(rng: Rng, n: int, states: int = 4, actions: int = 2) -> Problem:
    """Garnets, a behaviour and a policy, and a reference measure `ref` with full support that is no occupancy."""
    mdp = garnet(rng, n, states, actions, 3, GAMMA)
    return dict(
        mdp=mdp,
        ref=(0.7 * rng.simplex(n, states * actions) + 0.3 / (states * actions)).unflatten(-1, (states, actions)),
        behaviour=0.8 * rng.simplex(n, states, actions) + 0.2 / actions,
        policy=0.8 * rng.simplex(n, states, actions) + 0.2 / actions,
        V=rng.normal(n, states),
        Q=rng.normal(n, states, actions),
    )


def start(mdp: TabularMDP) -> Tensor:
    """(1 - gamma) mu0, (n, S)."""
    return (1 - mdp.discount[:, :1, 0]) * mdp.mu0


def occupancy(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """(n, S, A), by the flow equations."""
    eye = torch.eye(mdp.num_states).to(mdp.P)
    visits = torch.linalg.solve(eye - mdp.policy_kernel(policy).mT, start(mdp))
    return visits[..., None] * policy


def inflow(mdp: TabularMDP, d: Tensor) -> Tensor:
    """gamma sum d(s, a) P(s' | s, a), (n, S)."""
    return torch.einsum("nsa,nsat->nt", d, mdp.kernel)


def flow_error(mdp: TabularMDP, d: Tensor, initial: Tensor | None = None) -> Tensor:
    """(n,) the largest violation of sum_a d(s, a) = initial(s) + gamma sum d P, initial = (1 - gamma) mu0."""
    return (d.sum(-1) - (start(mdp) if initial is None else initial) - inflow(mdp, d)).abs().amax(-1)


def residual(mdp: TabularMDP, V: Tensor, reward: Tensor | float | None = None) -> Tensor:
    """r + gamma P V - V, (n, S, A)."""
    r = mdp.r if reward is None else reward
    return r + torch.einsum("nsat,nt->nsa", mdp.kernel, V) - V[..., None]


def residual_q(mdp: TabularMDP, Q: Tensor, policy: Tensor, reward: Tensor | float | None = None) -> Tensor:
    """r + gamma P Q(s', policy) - Q, (n, S, A)."""
    r = mdp.r if reward is None else reward
    return r + torch.einsum("nsat,nt->nsa", mdp.kernel, (policy * Q).sum(-1)) - Q


def action_values(mdp: TabularMDP, policy: Tensor, reward: Tensor) -> Tensor:
    """Q of a policy for a reward (n, S, A), by a linear solve over pairs."""
    n, S, A = reward.shape
    kernel = torch.einsum("nsat,ntb->nsatb", mdp.kernel, policy).reshape(n, S * A, S * A)
    eye = torch.eye(S * A).to(kernel)
    return torch.linalg.solve(eye - kernel, reward.flatten(1)).unflatten(-1, (S, A))


def newton(loss: Callable[[Tensor], Tensor], x: Tensor, steps: int = 60, tol: float = 1e-11) -> Tensor:
    """The minimiser (n, k) of convex losses (n, k) -> (n,) by damped Newton steps from x, where they are finite."""
    for _ in range(steps):
        value, gradient, hessian = _derivatives(loss, x)
        if bool((gradient.abs().amax(-1) < tol).all()):
            break
        ridge = 1e-13 + 1e-12 * hessian.diagonal(dim1=-2, dim2=-1).amax(-1)
        system = hessian + ridge[:, None, None] * torch.eye(x.shape[-1]).to(x)
        step = -torch.linalg.solve(system, gradient)
        x = _search(loss, x, value, step, (gradient * step).sum(-1))
    return x


def _derivatives(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = loss(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        rows = [torch.autograd.grad(g.sum(), x, retain_graph=True)[0] for g in gradient.unbind(-1)]
    return value.detach(), gradient.detach(), torch.stack(rows, -2)


def root(function: Callable[[Tensor], Tensor], x: Tensor, steps: int = 60, tol: float = 1e-11) -> Tensor:
    """A zero (n, k) of functions (n, k) -> (n, k) by Newton steps from x, damped until the sum of squares falls."""

    def size(x: Tensor) -> Tensor:
        return function(x).square().sum(-1) / 2

    for _ in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = function(x)
            rows = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in value.unbind(-1)]
        value, x = value.detach(), x.detach()
        if bool((value.abs().amax(-1) < tol).all()):
            break
        step = -torch.linalg.solve(torch.stack(rows, -2), value)
        x = _search(size, x, value.square().sum(-1) / 2, step, -value.square().sum(-1))
    return x


def _search(loss: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, step: Tensor, slope: Tensor) -> Tensor:
    """The first x + step / 2^k that lowers the loss enough, problem by problem."""
    size = torch.ones_like(value)
    slack = 1e-14 * (1 + value.abs())  # at the minimum the loss falls by less than it is rounded
    for _ in range(40):
        found = loss(x + size[:, None] * step).detach()
        short = ~(found <= value + 1e-4 * size * slope + slack)
        if not bool(short.any()):
            break
        size = torch.where(short, size / 2, size)
    return x + torch.where(torch.isfinite(size), size, math.nan)[:, None] * step
