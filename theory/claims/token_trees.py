"""Token trees and other deterministic decision problems, enumerated path by path.

A tree has two tokens and depth four (see `credit`): `z` (n, INNER, 2) are logits at its inner nodes, `r` (n, 16) the
rewards of its leaves.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.credit import DEPTH, NODES, PATHS, WIDTH, path_probability, trees
from fenchel.theory.claims.tools import log_partition, tilt, worst
from fenchel.theory.rng import Rng


def levels(leaf: Tensor, rule) -> list[Tensor]:
    """Values of every level from the leaves (n, 2^DEPTH) up to the root (n, 1); `rule` reduces the last axis."""
    values = [leaf]
    for _ in range(DEPTH):
        values.append(rule(values[-1].reshape(len(leaf), -1, WIDTH)))
    return values[::-1]


def greedy_return(leaf: Tensor, values: list[Tensor]) -> Tensor:
    """The leaf reward reached by following the larger child value, (n,)."""
    node = torch.zeros(len(leaf), 1, dtype=torch.long, device=leaf.device)
    for level in values[1:]:
        children = node * WIDTH + torch.arange(WIDTH, device=leaf.device)
        node = children.gather(1, level.gather(1, children).argmax(-1, keepdim=True))
    return leaf.gather(1, node)[:, 0]


def binary_leaves(rng: Rng, n: int) -> Problem:
    return dict(r=(rng.uniform(n, len(PATHS)) < 0.3).to(torch.float64))


def _random_policy(p: Problem) -> ClaimReport:
    return ClaimReport(p["r"].amax(-1) - greedy_return(p["r"], levels(p["r"], lambda x: x.mean(-1))), 1e-12)


RANDOM_POLICY = Claim(
    paper=24,
    kind="theorem",
    statement="ROVER: on a deterministic tree with 0/1 rewards, acting greedily on the uniform policy's Q is optimal",
    problems=binary_leaves,
    check=_random_policy,
    twin=Twin("0/1 rewards (graded ones)", problems=trees),
    source="derived",
)


def lotteries(rng: Rng, n: int) -> Problem:
    """Stochastic depth-two tree, 0/1 rewards: action 0 leads to two states at random, action 1 to one state."""
    reward = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    return dict(r=reward[None])


def _random_policy_stochastic(p: Problem) -> ClaimReport:
    """Action 0: two states with one good action each (Q^u = 1/2, Q* = 1); action 1: a fair coin (both 1/2); a tie is
    broken by a bonus of 0.1 on the coin, which leaves Q* = 0.6 < 1."""
    mean = p["r"].mean((-2, -1)) + torch.tensor([0.0, 0.1]).to(p["r"])
    best = p["r"].amax(-1).mean(-1) + torch.tensor([0.0, 0.1]).to(p["r"])
    chosen = best.gather(1, mean.argmax(-1, keepdim=True))[:, 0]
    return ClaimReport(0.3 - (best.amax(-1) - chosen), 0.0)


RANDOM_POLICY_STOCHASTIC = Claim(
    paper=24,
    kind="counterexample",
    statement="with random transitions, greedy on the uniform policy's Q can lose 0.4 of an optimal 1.0",
    problems=lotteries,
    check=_random_policy_stochastic,
    source="derived",
)


def horizons(rng: Rng, n: int) -> Problem:
    """Random finite-horizon MDPs, T = 4."""
    return dict(P=rng.simplex(n, 4, 3, 4), r=rng.normal(n, 4, 4, 3))


def _iterated(p: Problem, iterations: int = 4) -> ClaimReport:
    """Q^1 = Q of the uniform policy, Q^{i+1} = r + E max Q^i: Q^T = Q*."""

    def backup(following: Tensor, reward: Tensor) -> Tensor:
        return reward + torch.einsum("nsat,nt->nsa", p["P"], following)

    def sweep(after) -> list[Tensor]:
        return [backup(after(t), p["r"][:, t]) for t in range(4)]

    zero = torch.zeros_like(p["r"][:, 0, :, 0])
    uniform, optimal = [zero] * 5, [zero] * 5
    for t in reversed(range(4)):
        uniform[t] = backup(uniform[t + 1], p["r"][:, t]).mean(-1)
        optimal[t] = backup(optimal[t + 1], p["r"][:, t]).amax(-1)
    q = sweep(lambda t: uniform[t + 1])
    for _ in range(iterations - 1):
        previous = q
        q = sweep(lambda t, previous=previous: previous[t + 1].amax(-1) if t < 3 else zero)
    true = sweep(lambda t: optimal[t + 1])
    return ClaimReport(worst(*((a - b).abs().amax((-2, -1)) for a, b in zip(q, true, strict=True))), 1e-12)


ITERATED = Claim(
    paper=17,
    kind="theorem",
    statement="k-QVI: Q^T, T - 1 optimal backups of the random policy's Q, equals Q*, so that every MDP of horizon T "
    "is "
    "T-solvable",
    problems=horizons,
    check=_iterated,
    twin=Twin("T iterations (one fewer)", check=lambda p: _iterated(p, 3)),
    source="derived",
    n=64,
)


def tilted(rng: Rng, n: int) -> Problem:
    return trees(rng, n) | dict(beta=rng.uniform(n, low=0.2, high=2.0))


def _token_tilt(p: Problem, independent: bool = False) -> ClaimReport:
    """The token-level soft optimum multiplies up to the sequence tilt, and its log-ratios telescope to r - V*."""
    ref, beta = path_probability(p["z"]), p["beta"]
    star = tilt(ref, p["r"], beta)
    token = torch.softmax(p["z"], -1)
    # soft values from the leaves up, level by level
    values: list[Tensor] = [p["r"]]
    for d in reversed(range(DEPTH)):
        first = (WIDTH**d - 1) // (WIDTH - 1)
        prior = token[:, first : first + WIDTH**d].log()
        children = values[0].reshape(len(star), -1, WIDTH)
        up = beta[:, None] * torch.logsumexp(prior + children / beta[:, None, None], -1)
        values.insert(0, torch.einsum("nkw,nkw->nk", prior.exp(), children) if independent else up)
    inner = torch.cat(values[:-1], -1)
    child = torch.cat([inner[:, NODES[:, 1:]], p["r"][..., None]], -1)
    log_ratio = (child - inner[:, NODES]) / beta[:, None, None]
    sequence = (ref.log() + log_ratio.sum(-1) - star.log()).abs().amax(-1)
    root = (inner[:, 0] - beta * log_partition(ref, p["r"], beta)).abs()
    return ClaimReport(torch.maximum(sequence, root), 1e-11)


TOKEN_TILT = Claim(
    paper=281,
    kind="theorem",
    statement="RTO: beta log pi*/ref of the tokens sums to r(y) - V*(x), and the product of token optima is the "
    "sequence's",
    problems=tilted,
    check=_token_tilt,
    twin=Twin("soft values (expected ones)", check=lambda p: _token_tilt(p, True)),
    source="derived",
    n=64,
)


def _trajectory_balance(p: Problem, forward_only: bool = False) -> ClaimReport:
    """If log Z + log P_F - log R = 0 on all paths then P = R / Z: flows built bottom up, and their path law."""
    reward = p["r"].exp()
    flows = levels(reward, (lambda x: x.amax(-1)) if forward_only else (lambda x: x.sum(-1)))
    law = torch.ones_like(reward)
    for d in range(DEPTH):
        share = flows[d + 1].reshape(len(reward), -1, WIDTH)
        share = share / (share.sum(-1, keepdim=True) if not forward_only else flows[d][..., None])
        law = law * share.flatten(1).repeat_interleave(WIDTH ** (DEPTH - 1 - d), -1)
    balance = flows[0].log() + law.log() - reward.log()
    return ClaimReport(
        torch.maximum(balance.abs().amax(-1), (law - reward / reward.sum(-1, keepdim=True)).abs().amax(-1)), 1e-11
    )


TRAJECTORY_BALANCE = Claim(
    paper=319,
    kind="theorem",
    statement="on a tree, trajectory balance holds exactly for P(y) = R(y) / Z",
    problems=trees,
    check=_trajectory_balance,
    twin=Twin("flows that add up (largest child instead)", check=lambda p: _trajectory_balance(p, True)),
    source="derived",
    n=64,
)


def denoisers(rng: Rng, n: int) -> Problem:
    """Two denoising steps over three symbols, then a reward of the final symbol."""
    return dict(first=rng.normal(n, 3), second=rng.normal(n, 3, 3), r=rng.normal(n, 3))


def _denoising(p: Problem, both: bool = True) -> ClaimReport:
    first, second = p["first"].clone().requires_grad_(), p["second"].clone().requires_grad_()
    noisy, clean = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
    marginal = torch.einsum("ni,nij->nj", noisy.exp(), clean.exp())
    true = torch.autograd.grad((marginal * p["r"]).sum(), (first, second), retain_graph=True)
    law = (noisy[..., None] + clean).exp().detach() * p["r"][:, None]
    score = noisy[..., None] + clean if both else clean + 0 * noisy[..., None]
    got = torch.autograd.grad((law * score).sum(), (first, second))
    return ClaimReport(worst(*((a - b).flatten(1).abs().amax(-1) for a, b in zip(true, got, strict=True))), 1e-12)


DENOISING = Claim(
    paper=231,
    kind="theorem",
    statement="DPPO: grad J of the marginal policy = E sum_k grad log p(a^{k} | a^{k+1}) A over the denoising chain",
    problems=denoisers,
    check=_denoising,
    twin=Twin("the score of the early step", check=lambda p: _denoising(p, False)),
    source="derived",
)


def traces(rng: Rng, n: int) -> Problem:
    """Signals mu1, mu2 along six steps."""
    return dict(a=rng.normal(n, 6), b=rng.normal(n, 6))


def _robustness(p: Problem, average: bool = False) -> ClaimReport:
    """The sign of the robustness of G(a > 0 or F_[0,2] b > 0) against Boolean semantics."""
    ahead = torch.stack([p["b"][:, t : t + 3].amax(-1) for t in range(6)], -1)
    inner = torch.maximum(p["a"], ahead)
    rho = inner.mean(-1) if average else inner.amin(-1)
    later = [[t + k for k in range(3) if t + k < 6] for t in range(6)]
    truth = torch.stack([(p["a"][:, t] > 0) | (p["b"][:, later[t]] > 0).any(-1) for t in range(6)], -1).all(-1)
    return ClaimReport(((rho > 0) != truth).to(torch.float64), 0.0)


ROBUSTNESS = Claim(
    paper=141,
    kind="theorem",
    statement="the min-max robustness of a signal temporal logic formula is positive exactly where the trace "
    "satisfies it",
    problems=traces,
    check=_robustness,
    twin=Twin("the minimum over time (an average)", check=lambda p: _robustness(p, True)),
    source="derived",
)


def masked(rng: Rng, n: int) -> Problem:
    """log p(token i | set of visible tokens) for every subset of the other three of four tokens."""
    return dict(logp=rng.normal(n, 4, 16))


def _any_order(p: Problem, weight_by_t: bool = True) -> ClaimReport:
    """E_t (1/t) sum_masked log p(y_i | visible) = mean over orders of the autoregressive log-likelihood."""
    total = torch.zeros(len(p["logp"]), dtype=p["logp"].dtype)
    for visible in range(15):
        hidden = [i for i in range(4) if not visible >> i & 1]
        m = len(hidden)
        # E over t ~ U(0, 1) of (1/t) t^m (1 - t)^(4 - m) is a beta integral
        power = m if weight_by_t else m + 1
        beta = math.gamma(power) * math.gamma(5 - m) / math.gamma(power + 5 - m)
        total = total + beta * p["logp"][:, hidden, visible].sum(-1)
    orders_mean = torch.zeros_like(total)
    for order in itertools.permutations(range(4)):
        seen = 0
        for i in order:
            orders_mean = orders_mean + p["logp"][:, i, seen] / 24
            seen |= 1 << i
    return ClaimReport((total - orders_mean).abs(), 1e-12)


ANY_ORDER = Claim(
    paper=57,
    kind="identity",
    statement="masked diffusion: E_t (1/t) sum over masked tokens of log p equals the mean over all orders of the "
    "autoregressive log-likelihood",
    problems=masked,
    check=_any_order,
    twin=Twin("the weight 1/t", check=lambda p: _any_order(p, False)),
    source="derived",
    n=64,
)
