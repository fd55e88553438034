"""Average reward: relative value iteration and Howard's iteration, with two-sided bounds on the gain.

For any bias h:  min_s (T_pi h - h)(s) <= gain of pi <= optimal gain <= max_s (T h - h)(s)   (Odoni 1969)
Valid are MDPs whose optimal gain is the same from every state (unichain and weakly communicating ones); where it is
not the bounds cannot meet, and the problem is refused. Discounts are ignored: they only mark termination elsewhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import EPS, STRICT, Backup, flatten, one_hot, take
from fenchel.theory.solvers.solution import Certificate, Solution

LAZINESS = 0.5  # staying put with this probability keeps gains and policies, and makes periodic chains converge
HEAD_START = 50


def solve_average(problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, limit: int = 20_000) -> Solution:
    """V (..., S): the optimal gain (equal over states), lower and upper bounds on it, extra["bias"] (..., S).

    method: "vi" (relative), "pi" (unichain policies; others fall to "vi" in "auto"). Q = r + P bias.
    Raises UserError when the bounds do not close: the optimal gain depends on the state (multichain).
    """
    if method not in ("auto", "vi", "pi"):
        raise unknown("method", method, ("auto", "vi", "pi"))
    with torch.no_grad():
        flat = flatten(TabularMDP(problem.P, problem.r, problem.mu0, 1.0, problem.action_mask, check=False))
        start = torch.zeros_like(flat.mu0)
        h, actions = _relative(flat, start, tol, HEAD_START if method != "vi" else limit)
        iterations = HEAD_START
        if method != "vi":
            h, actions, iterations = _howard(flat, h, actions, limit)
            if method == "auto" and bool((~(_gap(flat, h, actions) <= tol)).any()):
                h, actions = _relative(flat, torch.where(h.isfinite(), h, 0.0), tol, limit)
        lower, upper = gain_bounds(flat, h, actions)
        gap = (upper - lower) / torch.maximum(lower.abs(), upper.abs()).clamp(min=1)
        if not bool((gap <= tol).all()):
            worst = int(gap.nan_to_num(torch.inf).argmax())
            raise UserError(
                f"the gain bounds [{float(lower[worst]):.6g}, {float(upper[worst]):.6g}] did not meet tol={tol:g}; "
                "valid are problems whose optimal gain is the same from every state, and a larger limit."
            )
        batch, dtype, S = problem.batch_shape, problem.dtype, problem.num_states

        def states(t: Tensor) -> Tensor:
            return t[:, None].expand(-1, S).reshape(*batch, S).to(dtype)

        policy = one_hot(actions, problem.num_actions, torch.float64).reshape(problem.P.shape[:-1]).to(dtype)
        return Solution(
            V=states((lower + upper) / 2), Q=flat.q(h).reshape(policy.shape).to(dtype), policy=policy,
            lower=states(lower), upper=states(upper), iterations=iterations,
            extra={"bias": h.reshape(*batch, S).to(dtype)},
            certificate=Certificate("average", {"gap": gap.reshape(batch)}, tol),
        )  # fmt: skip


def gain_bounds(
    flat: Backup, h: Float[Tensor, "B S"], actions: Int[Tensor, "B S"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    Q = flat.q(h)
    rounding = 4 * EPS * h.abs().amax(-1)
    return (take(Q, actions) - h).amin(-1) - rounding, (Q.amax(-1) - h).amax(-1) + rounding


def _gap(flat: Backup, h: Tensor, actions: Tensor) -> Tensor:
    lower, upper = gain_bounds(flat, h, actions)
    return (upper - lower) / torch.maximum(lower.abs(), upper.abs()).clamp(min=1)


def _relative(flat: Backup, h: Tensor, tol: float, limit: int) -> tuple[Tensor, Tensor]:
    """Relative value iteration of the lazy chain; the whole batch goes on until every gap is below `tol`."""
    for _ in range(limit):
        Q = flat.q(h)
        best, actions = Q.max(-1)
        step = best - h
        size = step.abs().amax(-1).clamp(min=1)
        if bool(((step.amax(-1) - step.amin(-1)) <= 0.5 * tol * size).all()):
            break
        h = h + (1 - LAZINESS) * step
        h = h - h[:, :1]
    return h, actions


def _howard(flat: Backup, h: Tensor, actions: Tensor, limit: int) -> tuple[Tensor, Tensor, int]:
    """Policy iteration with h(0) = 0; where a policy has several recurrent classes the solve fails and h is not finite.

    The unknowns are the gain, in the place of h(0), and the bias of the other states.
    """
    S = h.shape[-1]
    eye = torch.eye(S, dtype=h.dtype, device=h.device)
    for iteration in range(1, limit + 1):
        kernel, reward = flat.greedy(actions)
        system = eye - kernel
        system[:, :, 0] = 1.0
        solved, info = torch.linalg.solve_ex(system, reward)
        solved = torch.where((info == 0)[:, None], solved, torch.nan)
        h = solved.clone()
        h[:, 0] = 0.0
        Q = flat.q(h)
        best, greedy = Q.max(-1)
        better = best > take(Q, actions) + STRICT * 10 * h.abs().amax(-1, keepdim=True).clamp(min=1)
        if not better.any():
            return h, actions, iteration
        actions = torch.where(better, greedy, actions)
    return h, actions, limit
