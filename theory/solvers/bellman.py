"""Bellman's operator: a fixed policy's linear algebra, policy iteration, and the two-sided bounds that certify a value.

Let M = discount * P, h > 0 any function with slack(s, a) = h(s) - (M h)(s, a) > 0, and e = r + M V - V. Then

    V + c h  is superharmonic for  c = max_{s, a} e / slack                 =>  V*   <= V + c h
    V + c h  is subharmonic under a policy for  c = min_s e(s, pi) / slack  =>  V^pi >= V + c h

and one more backup tightens both. With one discount and h = 1 these are MacQueen's (1966) and Porteus' (1971) bounds;
h = 1 serves whenever every discount is below 1. Where some are 1, h is the longest time to termination.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP

CHUNK = 4 << 20  # bytes of P that are worked on at once: the last-level cache decides, not the batch
STRICT = 1e-12  # relative gain below which an improvement is rounding, on which policy iteration could cycle
ELIMINATED = 16  # states up to which a batch is eliminated by hand
WARM_START = 2  # backups before the first linear solve: they save about one solve each
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Backup:
    """An MDP as float64 tensors with one batch axis. A discount per successor is folded into P, others stay apart."""

    P: Float[Tensor, "B S A S"]
    r: Float[Tensor, "B S A"]
    mu0: Float[Tensor, "B S"]
    discount: Float[Tensor, "B S A"]
    missing: Tensor | None  # (B, S, A) bool: actions that do not exist

    def __getitem__(self, index) -> Backup:
        missing = None if self.missing is None else self.missing[index]
        return Backup(self.P[index], self.r[index], self.mu0[index], self.discount[index], missing)

    def __len__(self) -> int:
        return self.P.shape[0]

    def expect(self, V: Float[Tensor, "B S"]) -> Float[Tensor, "B S A"]:
        """M V; not meaningful where the action does not exist."""
        B, S, A, _ = self.P.shape
        return torch.bmm(self.P.reshape(B, S * A, S), V[..., None]).reshape(B, S, A).mul_(self.discount)

    def q(self, V: Float[Tensor, "B S"]) -> Float[Tensor, "B S A"]:
        Q = self.expect(V).add_(self.r)
        return Q if self.missing is None else Q.masked_fill_(self.missing, -torch.inf)

    def greedy(
        self, actions: Int[Tensor, "n S"], index: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "n S S"], Float[Tensor, "n S"]]:
        """(discounted kernel, reward) of a deterministic policy, for the problems at `index` (default: all)."""
        B, S, A, _ = self.P.shape
        if index is None:
            index = torch.arange(B, device=self.P.device)
        states = index[:, None] * S + torch.arange(S, device=self.P.device)
        rows = (states * A + actions).reshape(-1)
        kernel = self.P.reshape(-1, S).index_select(0, rows)
        kernel *= self.discount.reshape(-1).index_select(0, rows)[:, None]
        return kernel.view(-1, S, S), self.r.reshape(-1).index_select(0, rows).view(-1, S)


def flatten(mdp: TabularMDP) -> Backup:
    """One batch axis, float64 (policy iteration cycles on ties in float32). Raises UserError for reward channels."""
    if mdp.num_channels:
        raise UserError("r has channels; valid is one reward, as by mdp.channel(k) or mdp.scalarize(weights).")
    flat = mdp.map(lambda t: t.reshape(-1, *t.shape[len(mdp.batch_shape) :])).to(dtype=torch.float64)
    missing = None if mdp.action_mask is None else ~flat.mask
    P, discount = flat.P.contiguous(), flat.discount
    if discount.ndim == P.ndim:
        P, discount = discount * P, torch.ones_like(flat.r)
    return Backup(P, flat.r, flat.mu0, discount, missing)


def chunks(problem: Backup) -> list[slice]:
    """Slices of the batch whose P fits into the cache."""
    size = max(1, CHUNK // max(1, problem.P[0].numel() * 8))
    return [slice(i, i + size) for i in range(0, len(problem), size)]


def take(values: Tensor, actions: Int[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    return values.gather(-1, actions[..., None])[..., 0]


# -- a fixed policy --------------------------------------------------------------------------------------------------


def evaluate(kernel: Float[Tensor, "*b S S"], reward: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S"]:
    """V = (I - kernel)^{-1} reward."""
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    return torch.linalg.solve(eye - kernel, reward[..., None])[..., 0]


def policy_value(mdp: TabularMDP, policy: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S"]:
    """V of a policy; with channels (..., K, S)."""
    kernel, reward = mdp.policy_kernel(policy), mdp.policy_reward(policy)
    return evaluate(kernel.unsqueeze(-3) if mdp.num_channels else kernel, reward)


def occupancy(mdp: TabularMDP, policy: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S A"]:
    """Unnormalised discounted occupancy d(s, a) = E sum_t (prod of discounts) 1[s_t = s, a_t = a]."""
    return evaluate(mdp.policy_kernel(policy).mT, mdp.mu0)[..., None] * policy


def q_values(mdp: TabularMDP, V: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S A"]:
    """r + kernel V, -inf where the action does not exist (reward without channels)."""
    Q = mdp.r + torch.einsum("...sat,...t->...sa", mdp.kernel, V)
    return Q.masked_fill(~mdp.mask, -torch.inf)


def one_hot(actions: Tensor, num_actions: int, dtype: torch.dtype) -> Float[Tensor, "*b A"]:
    return torch.nn.functional.one_hot(actions, num_actions).to(dtype)


# -- policy iteration ------------------------------------------------------------------------------------------------


def policy_iteration(
    mdp: TabularMDP, start: Tensor | None = None, frozen: Bool[Tensor, "*b S"] | None = None, limit: int = 1000
) -> tuple[Float[Tensor, "*b S"], Int[Tensor, "*b S"], int]:
    """`howard` of a TabularMDP -> (V, actions, iterations of the slowest problem); computed in float64.

    start (..., S): first actions; frozen (..., S): where they stay. Raises UserError for reward channels.
    """
    shape = mdp.mu0.shape
    first, still = (None if t is None else t.expand(shape).reshape(-1, shape[-1]) for t in (start, frozen))
    V, _, actions, counts = howard(flatten(mdp), first, still, limit)
    return V.reshape(shape).to(mdp.dtype), actions.reshape(shape), int(counts.max())


def howard(
    problem: Backup, start: Int[Tensor, "B S"] | None = None, frozen: Bool[Tensor, "B S"] | None = None,
    limit: int = 1000,
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S A"], Int[Tensor, "B S"], Int[Tensor, " B"]]:  # fmt: skip
    """Policy iteration (Howard 1960) from `start` or a few backups -> (V and Q of the policy, actions, iterations).

    Actions change only on an improvement beyond rounding: ties cannot make it cycle, and where nothing discounts (total
    reward) a proper start stays proper. Only policies that still change are solved for; P is copied once half are done.
    Raises UserError after `limit` steps.
    """
    actions = _warm(problem) if start is None else start
    V, home = torch.empty_like(problem.mu0), torch.arange(len(problem), device=actions.device)
    values, qs, policies, counts = torch.empty_like(V), torch.empty_like(problem.r), actions.clone(), home.clone()
    live = home  # positions in `problem` whose policy changed; home: their place in the batch
    for iteration in range(1, limit + 1):
        V[live] = _solve(*problem.greedy(actions[live], live))
        Q = problem.q(V)
        best, greedy = Q.max(-1)
        better = best > take(Q, actions) + STRICT * V.abs().amax(-1, keepdim=True).clamp(min=1)
        if frozen is not None:
            better &= ~frozen
        counts[home[live]] = iteration
        live = better.any(-1).nonzero()[:, 0]
        if 2 * len(live) <= len(home):
            values[home], qs[home], policies[home] = V, Q, actions
            if not len(live):
                return values, qs, policies, counts
            problem, V, home, actions = problem[live], V[live], home[live], actions[live]
            better, greedy = better[live], greedy[live]
            frozen = None if frozen is None else frozen[live]
            live = torch.arange(len(live), device=live.device)
        actions = torch.where(better, greedy, actions)
    raise UserError(f"policy iteration did not settle in {limit} steps; valid are problems with finite values.")


def _solve(kernel: Float[Tensor, "B S S"], reward: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """`evaluate`; small systems by elimination with the batch innermost, which beats one call of LAPACK per system.

    No pivoting: I - kernel is a diagonally dominant M-matrix, for which elimination in any order is stable.
    """
    B, S = reward.shape
    if S > ELIMINATED or B < 64:
        return evaluate(kernel, reward)
    rows = torch.cat([-kernel, reward[..., None]], -1).permute(1, 2, 0).contiguous()
    rows.diagonal()[:] += 1
    for k in range(S):
        rows[k, k + 1 :] /= rows[k, k].clone()
        rows[k + 1 :, k + 1 :].addcmul_(rows[k + 1 :, k, None], rows[k, None, k + 1 :], value=-1)
    V = rows[:, S]
    for k in range(S - 1, 0, -1):
        V[:k].addcmul_(rows[:k, k], V[k], value=-1)
    return V.T if bool(V.isfinite().all()) else evaluate(kernel, reward)  # which names a singular system


def _warm(problem: Backup) -> Int[Tensor, "B S"]:
    """The actions that are greedy after a few backups."""
    Q = problem.r if problem.missing is None else problem.r.masked_fill(problem.missing, -torch.inf)
    for _ in range(WARM_START):
        Q = problem.q(Q.amax(-1))
    return Q.max(-1).indices


# -- bounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """h and slack of the bounds above."""

    h: Float[Tensor, "B S"]
    slack: Float[Tensor, "B S A"]

    def __getitem__(self, index) -> Weight:
        return Weight(self.h[index], self.slack[index])


def weight(problem: Backup) -> Weight:
    """h = 1 where every discount is below 1, else the longest time to termination.

    Raises UserError when some policy never terminates and never discounts: then no bound of this kind exists.
    """
    ones = torch.ones_like(problem.mu0)
    slack = 1 - problem.discount * problem.P.sum(-1)
    if problem.missing is not None:
        slack = slack.masked_fill(problem.missing, 1.0)
    if bool((slack > 1e-9).all()):
        return Weight(ones, slack)
    unit = Backup(problem.P, torch.ones_like(problem.r), problem.mu0, problem.discount, problem.missing)
    h = _longest_time(unit)
    slack = h[..., None] - unit.expect(h)
    return Weight(h, slack if problem.missing is None else slack.masked_fill(problem.missing, 1.0))


def _longest_time(unit: Backup, limit: int = 1000) -> Float[Tensor, "B S"]:
    """sup over policies of the expected discounted time, by policy iteration; its fixed point proves it finite."""
    actions = unit.q(torch.zeros_like(unit.mu0)).argmax(-1)
    eye = torch.eye(unit.P.shape[1], dtype=unit.P.dtype, device=unit.P.device)
    for _ in range(limit):
        kernel, reward = unit.greedy(actions)
        h, info = torch.linalg.solve_ex(eye - kernel, reward)
        if bool((info != 0).any()) or not bool(((h > 0.5) & (h < 1e12)).all()):
            break
        Q = unit.q(h)
        best, greedy = Q.max(-1)
        better = best > take(Q, actions) + 1e-9 * h.amax(-1, keepdim=True)
        if not better.any():
            return h
        actions = torch.where(better, greedy, actions)
    raise UserError(
        "discount is 1 along a cycle that some policy never leaves; "
        "valid are discounts below 1, or 1 where every policy terminates."
    )


@dataclass(frozen=True)
class Bounds:
    lower: Float[Tensor, "B S"]  # of the value of `actions`, hence of V*
    upper: Float[Tensor, "B S"]  # of V*
    actions: Int[Tensor, "B S"]

    @property
    def middle(self) -> Float[Tensor, "B S"]:
        return (self.lower + self.upper) / 2

    @property
    def gap(self) -> Float[Tensor, " B"]:
        """Width relative to max(1, |V|)."""
        scale = torch.maximum(self.lower.abs(), self.upper.abs()).amax(-1).clamp(min=1)
        return (self.upper - self.lower).amax(-1) / scale


def bounds(
    V: Float[Tensor, "B S"], Q: Float[Tensor, "B S A"], w: Weight, actions: Int[Tensor, "B S"] | None = None
) -> Bounds:
    """Two-sided bounds from V and Q = r + M V, widened by the rounding of one backup; actions default to greedy."""
    if actions is None:
        actions = Q.argmax(-1)
    excess = (Q - V[..., None]) / w.slack
    own = take(Q, actions)
    rounding = 4 * EPS * torch.maximum(V.abs(), own.abs()).amax(-1) / w.slack.amin((-2, -1))
    high = excess.amax((-2, -1)) + rounding
    low = take(excess, actions).amin(-1) - rounding
    later = w.h[..., None] - w.slack
    upper = torch.addcmul(Q, high[:, None, None], later).amax(-1)
    return Bounds(own + low[:, None] * take(later, actions), upper, actions)
