"""Derivatives of exact solutions: V*, occupancy and multipliers as torch functions of P, r, discount and budgets.

No iteration is differentiated. At the optimum the active policy (or the optimal basis) is locally constant, so the
solution is a linear system in the problem's tensors and its gradient is one adjoint solve (implicit function theorem;
for values this is Danskin's theorem). At a tie the derivative is that of the policy found.
Regularised problems have smooth policies, differentiated through the fixed point. Each answer keeps the graph, so a
bilevel objective is an ordinary loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import evaluate, occupancy, one_hot, policy_iteration
from fenchel.theory.solvers.cmdp import solve_cmdp


class _FixedPoint(torch.autograd.Function):
    """x = kernel x + reward, solved once; backward is the transposed solve (an occupancy of the gradient)."""

    @staticmethod
    def forward(ctx, kernel: Tensor, reward: Tensor) -> Tensor:
        x = evaluate(kernel, reward)
        ctx.save_for_backward(kernel, x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        kernel, x = ctx.saved_tensors
        adjoint = _FixedPoint.apply(kernel.mT, grad)  # through itself, so that second derivatives exist
        return adjoint[..., :, None] * x[..., None, :], adjoint


def fixed_point(kernel: Float[Tensor, "*b S S"], reward: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S"]:
    """(I - kernel)^{-1} reward with an adjoint-solve gradient."""
    return _FixedPoint.apply(kernel, reward)


def detached(mdp: TabularMDP) -> TabularMDP:
    return mdp.map(Tensor.detach)


def optimal_value(mdp: TabularMDP) -> Float[Tensor, "*b S"]:
    """V*(P, r, discount), differentiable: dV*/dr(s', a') = discounted visits of (s', a') under the optimal policy."""
    _, actions, _ = policy_iteration(detached(mdp))
    policy = one_hot(actions, mdp.num_actions, mdp.dtype)
    return fixed_point(mdp.policy_kernel(policy), mdp.policy_reward(policy))


def policy_occupancy(mdp: TabularMDP, policy: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S A"]:
    """Unnormalised discounted occupancy, differentiable in P, discount, mu0 and the policy."""
    return fixed_point(mdp.policy_kernel(policy).mT, mdp.mu0)[..., None] * policy


class _Soft(torch.autograd.Function):
    """V = alpha log sum exp(Q(V) / alpha): Newton forward; the backward solve uses the kernel of the soft policy."""

    @staticmethod
    def forward(ctx, kernel: Tensor, r: Tensor, log_reference: Tensor, alpha: float, tol: float) -> Tensor:
        V = r.new_zeros(r.shape[:-1])
        for _ in range(1000):
            logits = log_reference + (r + torch.einsum("...sat,...t->...sa", kernel, V)) / alpha
            policy = torch.softmax(logits, -1)
            residual = alpha * torch.logsumexp(logits, -1) - V
            if float(residual.abs().max()) <= tol * (1 + float(V.abs().max())):
                ctx.save_for_backward(kernel, V, policy)
                return V
            V = V + evaluate(torch.einsum("...sa,...sat->...st", policy, kernel), residual)
        raise UserError("the soft value did not settle; valid are discounts below 1 and a larger alpha.")

    @staticmethod
    def backward(ctx, grad: Tensor):
        kernel, V, policy = ctx.saved_tensors
        visits = evaluate(torch.einsum("...sa,...sat->...st", policy, kernel).mT, grad)[..., None] * policy
        return visits[..., None] * V[..., None, None, :], visits, None, None, None


def soft_value(
    mdp: TabularMDP, alpha: float, reference: Tensor | None = None, tol: float = 1e-13
) -> tuple[Float[Tensor, "*b S"], Float[Tensor, "*b S A"]]:
    """(V, policy) of max E sum r - alpha KL(policy, reference) (reference None: plain entropy), both differentiable."""
    if not alpha > 0:
        raise UserError(f"alpha={alpha} is not valid; it must be positive.")
    base = torch.zeros_like(mdp.r) if reference is None else reference.log()
    base = base.detach().masked_fill(~mdp.mask, -torch.inf)
    V = _Soft.apply(mdp.kernel, mdp.r, base, alpha, tol)
    Q = mdp.r + torch.einsum("...sat,...t->...sa", mdp.kernel, V)
    return V, torch.softmax(base + Q / alpha, -1)


def constrained_value(
    mdp: TabularMDP, budgets: Float[Tensor, " K"], unit: str = "discounted"
) -> tuple[Tensor, Float[Tensor, " K"]]:
    """(value (), multipliers (K,)) of a constrained MDP, differentiable in P, r, discount and budgets.

    The value's gradient is the Lagrangian's (envelope theorem): d value / d budget = multipliers. The multipliers come
    from the active system: at the optimum K' binding budgets leave K' + 1 deterministic policies with equal Lagrangian,
    J_0(i) - lam . J_c(i) = equal for all i, whose occupancies are differentiated by adjoint solves.
    """
    if unit != "discounted" or mdp.batch_shape:
        raise UserError("constrained_value takes one MDP and unit=discounted.")
    plain = detached(mdp)
    answer = solve_cmdp(plain, budgets=budgets.detach(), unit=unit, method="lp")
    assert answer.multipliers is not None
    assert answer.policy is not None
    lam, policy = answer.multipliers, answer.policy
    d = policy_occupancy(mdp, policy)
    J = (mdp.r * d).sum((-2, -1))
    value = J[0] - (lam * (J[1:] - budgets)).sum()
    binding = torch.nonzero(lam > 1e-9)[:, 0]
    if not len(binding):
        return value, lam
    vertices = _vertices(plain, policy)
    if len(vertices) != len(binding) + 1:
        raise UserError("the multipliers are degenerate here: the optimum does not mix one policy per binding budget.")
    returns = torch.stack([(mdp.r * policy_occupancy(mdp, v)).sum((-2, -1)) for v in vertices])
    costs = returns[:, 1:][:, binding]
    solved = torch.linalg.solve(costs[1:] - costs[:1], returns[1:, 0] - returns[0, 0])
    return value, torch.zeros_like(lam).index_put((binding,), solved)


def _vertices(mdp: TabularMDP, policy: Float[Tensor, "S A"]) -> list[Tensor]:
    """One deterministic policy, and one more per extra action in the support of `policy` at a visited state."""
    visited = occupancy(mdp, policy).sum(-1) > 1e-12
    first = one_hot(policy.argmax(-1), mdp.num_actions, mdp.dtype)
    found = [first]
    for state in torch.nonzero(visited)[:, 0].tolist():
        for action in torch.nonzero(policy[state] > 1e-9)[:, 0].tolist():
            if not first[state, action]:
                other = first.clone()
                other[state] = 0
                other[state, action] = 1
                found.append(other)
    return found
