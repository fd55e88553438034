"""Risk measures of the discounted return G = sum_t (product of discounts) r(s_t, a_t), lower tail = bad.

    return_law  the exact distribution of G over a finite horizon under a given policy
    cvar        static CVaR_tau(G): the mean of the worst tau share, maximised over policies that remember their return
    entropic    -1/risk log E exp(-risk G): time-consistent after rescaling the risk by the discount

CVaR here is static: of the whole return, not nested step by step. By Rockafellar and Uryasev (2000)
CVaR_tau(G) = max_b b - E(b - G)^+ / tau, and for a fixed b the inner problem is an MDP on (time, state, return so
far) (Baeuerle and Ott 2011). Over a finite horizon only finitely many returns occur, so both maxima are exact: b may
be restricted to the possible returns, where the concave piecewise-linear inner function has its kinks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import risk_checks
from fenchel.theory.solvers.bellman import one_hot
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution

DIGITS = 11  # returns that agree to this many digits of the greatest one are the same atom


def _validate(mdp: TabularMDP, horizon: int | None, one_discount: bool) -> None:
    if mdp.batch_shape or mdp.num_channels is not None:
        raise UserError("risk measures take one MDP with one reward at a time: P (S, A, S) and r (S, A).")
    if horizon is None or horizon < 1:
        raise UserError(f"horizon={horizon} is not valid; it must be at least 1.")
    if one_discount:
        gamma = mdp.discount[(mdp.discount > 0)]
        if mdp.discount.ndim == mdp.P.ndim or (len(gamma) and float(gamma.max() - gamma.min()) > 1e-12):
            raise UserError("discount must be one constant per pair, or 0 where the episode ends, for risk measures.")


def _merge(keys: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Unique rows of integer keys with rounded atoms appended -> (unique rows, inverse)."""
    unit = 10.0**-DIGITS * max(1e-300, float(atoms.abs().max()) if len(atoms) else 1.0)
    return torch.unique(
        torch.cat([keys, torch.round(atoms / unit)[:, None].to(torch.int64)], 1), dim=0, return_inverse=True
    )


def _constant_discount(mdp: TabularMDP) -> float:
    return float(mdp.discount.max())


def _expand(mdp: TabularMDP, state: Tensor, atom: Tensor, scale: float, limit: int):
    """All (node, action, successor) branches of a layer -> (node, action, next state or S for the end, atom, P)."""
    S = mdp.num_states
    node, action = torch.nonzero(mdp.mask[state], as_tuple=True)
    gain = atom[node] + scale * mdp.r[state[node], action]
    rows = mdp.P[state[node], action]
    over = mdp.discount[state[node], action] == 0
    go, successor = torch.nonzero((rows > 0) & ~over[:, None], as_tuple=True)
    end = torch.nonzero(over)[:, 0]
    pair = torch.cat([go, end])
    if len(pair) > limit:
        raise UserError(f"{len(pair)} branches exceed limit={limit}; use a smaller horizon or coarser rewards.")
    after = torch.cat([successor, torch.full_like(end, S)])
    probability = torch.cat([rows[go, successor], rows.new_ones(len(end))])
    return node[pair], action[pair], after, gain[pair], probability


def _layers(mdp: TabularMDP, horizon: int, limit: int) -> list[dict[str, Tensor]]:
    """The graph of (state, return so far) per time; state S is the end. Branches point into the next layer."""
    start = torch.nonzero(mdp.mu0 > 0)[:, 0]
    layers = [{"state": start, "atom": mdp.r.new_zeros(len(start))}]
    scale, gamma, S = 1.0, _constant_discount(mdp), mdp.num_states
    for _ in range(horizon):
        state, atom = layers[-1]["state"], layers[-1]["atom"]
        live = torch.nonzero(state < S)[:, 0]
        node, action, after, gain, p = _expand(mdp, state[live], atom[live], scale, limit)
        done = torch.nonzero(state == S)[:, 0]  # finished returns are carried along by their only "action"
        node, action = torch.cat([live[node], done]), torch.cat([action, torch.zeros_like(done)])
        after, gain = torch.cat([after, state[done]]), torch.cat([gain, atom[done]])
        p = torch.cat([p, p.new_ones(len(done))])
        unique, inverse = _merge(after[:, None], gain)
        atoms = gain.new_zeros(len(unique)).scatter(0, inverse, gain)
        layers[-1] |= {"node": node, "action": action, "into": inverse, "P": p}
        layers.append({"state": unique[:, 0], "atom": atoms})
        scale *= gamma
    return layers


def _backward(layers: list[dict[str, Tensor]], final: Tensor, num_actions: int) -> tuple[Tensor, list[Tensor]]:
    """max over policies of E final(return): values of the first layer, greedy actions per layer. final (..., N)."""
    value = final
    greedy: list[Tensor] = []
    for layer in reversed(layers[:-1]):
        n = len(layer["state"])
        Q = value.new_zeros(*value.shape[:-1], n * num_actions)
        pair = layer["node"] * num_actions + layer["action"]
        Q = Q.index_add(-1, pair, layer["P"] * value[..., layer["into"]])
        exists = torch.zeros(n * num_actions, dtype=torch.bool, device=pair.device)
        exists[pair] = True
        value, actions = Q.masked_fill(~exists, -torch.inf).unflatten(-1, (n, num_actions)).max(-1)
        greedy.insert(0, actions)
    return value, greedy


def solve_cvar(
    problem: TabularMDP, *, level: float, horizon: int, method: str = "auto", tol: float = 1e-8, limit: int = 2_000_000
) -> Solution:
    """The greatest static CVaR of the horizon's return, in V (); level in (0, 1] (1: the mean).

    extra["threshold"] (): the optimal b, the value at risk; extra["atoms"] (N,) and extra["probabilities"] (N,): the
    return's law under the optimal policy, which chooses by (time, state, return so far).
    """
    if method not in ("auto", "augmented"):
        raise unknown("method", method, ("auto", "augmented"))
    _validate(problem, horizon, one_discount=True)
    if not 0 < level <= 1:
        raise UserError(f"level={level} is not valid; it must lie in (0, 1].")
    layers = _layers(problem, horizon, limit)
    final = layers[-1]["atom"]
    candidates = torch.unique(final)
    start = problem.mu0[layers[0]["state"]]
    greedy: list[Tensor] = []
    best, threshold = -torch.inf, candidates[0]
    for chunk in candidates.split(max(1, 4_000_000 // len(final))):
        shortfall = (chunk[:, None] - final).clamp(min=0)
        value, actions = _backward(layers, -shortfall, problem.num_actions)
        score = chunk + (value @ start) / level
        top = int(score.argmax())
        if float(score[top]) > best:
            best, threshold, greedy = float(score[top]), chunk[top], [a[top] for a in actions]
    mass = start
    for layer, chosen in zip(layers[:-1], greedy, strict=True):
        taken = chosen[layer["node"]] == layer["action"]
        moved = torch.where(taken, mass[layer["node"]] * layer["P"], torch.zeros_like(layer["P"]))
        mass = mass.new_zeros(int(layer["into"].max()) + 1).index_add(0, layer["into"], moved)
    answer = Solution(
        V=final.new_tensor(best), extra={"threshold": threshold, "atoms": final, "probabilities": mass}
    )  # fmt: skip
    return certified(answer, "cvar", risk_checks.check_cvar, problem, tol, level=level, horizon=horizon)


def solve_entropic(
    problem: TabularMDP, *, risk: float, horizon: int, method: str = "auto", tol: float = 1e-8
) -> Solution:
    """The greatest -1/risk log E exp(-risk G) over a finite horizon (risk > 0 averse, < 0 seeking).

    V (T + 1, S): of the return counted from time t as if it started there; policy (T, S, A), deterministic and
    Markov but time-dependent. At time t the risk is risk * discount^t, since G = r + discount G' (Hau et al. 2023).
    """
    if method not in ("auto", "dynamic"):
        raise unknown("method", method, ("auto", "dynamic"))
    _validate(problem, horizon, one_discount=True)
    if risk == 0:
        raise UserError("risk=0 is the mean; use criterion=finite.")
    gamma, values = _constant_discount(problem), [problem.r.new_zeros(problem.num_states)]
    actions: list[Tensor] = []
    for t in reversed(range(horizon)):
        future = problem.kernel.sum(-1)[..., None] * values[0]  # 0 where the episode ends
        level = risk * gamma**t
        certain = -torch.logsumexp(problem.P.log() - level * future, -1) / level
        Q = (problem.r + certain).masked_fill(~problem.mask, -torch.inf)
        value, best = Q.max(-1)
        values.insert(0, value)
        actions.insert(0, best)
    answer = Solution(V=torch.stack(values), policy=one_hot(torch.stack(actions), problem.num_actions, problem.dtype))
    return certified(answer, "entropic", risk_checks.check_entropic, problem, tol, risk=risk, horizon=horizon)


def solve_return_law(
    problem: TabularMDP, *, policy: Float[Tensor, "S A"], horizon: int, method: str = "auto", tol: float = 1e-8,
    limit: int = 2_000_000,
) -> Solution:  # fmt: skip
    """The exact law of the return under a stationary or (T, S, A) policy: extra["atoms"], extra["probabilities"] (N,).

    V (): its mean. Discounts may depend on (s, a): the discount so far is part of the state.
    """
    if method not in ("auto", "forward"):
        raise unknown("method", method, ("auto", "forward"))
    _validate(problem, horizon, one_discount=False)
    if problem.discount.ndim == problem.P.ndim:
        raise UserError("discount must be (S, A) for the law of the return, not (S, A, S).")
    S, A = problem.num_states, problem.num_actions
    steps = policy.expand(horizon, S, A)
    state = torch.nonzero(problem.mu0 > 0)[:, 0]
    mass, atom, scale = problem.mu0[state], problem.r.new_zeros(len(state)), problem.r.new_ones(len(state))
    for t in range(horizon):
        joint = mass[:, None, None] * steps[t][state][..., None] * problem.P[state]
        node, action, after = torch.nonzero(joint > 0, as_tuple=True)
        if len(node) > limit:
            raise UserError(f"{len(node)} branches exceed limit={limit}; use a smaller horizon or coarser rewards.")
        gain = atom[node] + scale[node] * problem.r[state[node], action]
        factor = scale[node] * problem.discount[state[node], action]
        tag = torch.round(factor * 10.0**DIGITS).to(torch.int64)
        unique, inverse = _merge(torch.stack([torch.where(factor > 0, after, 0), tag], 1), gain)
        n = len(unique)
        mass = gain.new_zeros(n).index_add(0, inverse, joint[node, action, after])
        atom, scale = gain.new_zeros(n).scatter(0, inverse, gain), gain.new_zeros(n).scatter(0, inverse, factor)
        state = unique[:, 0]
    unique, inverse = _merge(torch.zeros_like(state)[:, None], atom)
    probabilities = mass.new_zeros(len(unique)).index_add(0, inverse, mass)
    atoms = atom.new_zeros(len(unique)).scatter(0, inverse, atom)
    answer = Solution(V=(atoms * probabilities).sum(), extra={"atoms": atoms, "probabilities": probabilities})
    return certified(answer, "return_law", risk_checks.check_return_law, problem, tol, policy=policy, horizon=horizon)


def cvar(atoms: Float[Tensor, " N"], probabilities: Float[Tensor, " N"], level: float) -> Tensor:
    """CVaR of a finite law: the mean of its lowest `level` share."""
    order = atoms.argsort()
    p = probabilities[order]
    taken = torch.minimum(p, (level - (p.cumsum(0) - p)).clamp(min=0))
    return (taken * atoms[order]).sum() / level
