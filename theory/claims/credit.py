"""Credit assignment on token trees and multi-turn episodes, by enumeration of all paths."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.group_estimators import gap
from fenchel.theory.rng import Rng

WIDTH, DEPTH = 2, 4
PATHS = torch.tensor(list(itertools.product(range(WIDTH), repeat=DEPTH)))  # (T, DEPTH)
# node of every prefix: level d holds WIDTH^d nodes, numbered from the root
NODES = torch.stack(
    [
        (WIDTH**d - 1) // (WIDTH - 1) + (PATHS[:, :d] * WIDTH ** torch.arange(d - 1, -1, -1, dtype=torch.long)).sum(-1)
        for d in range(DEPTH)
    ],
    -1,
)
INNER = (WIDTH**DEPTH - 1) // (WIDTH - 1)


def trees(rng: Rng, n: int) -> Problem:
    """Logits at every inner node, a reward at every leaf, and an arbitrary value at every inner node."""
    return dict(z=rng.normal(n, INNER, WIDTH), r=rng.normal(n, len(PATHS)), v=rng.normal(n, INNER))


def path_probability(z: Tensor) -> Tensor:
    """(n, T) probability of every path."""
    return torch.log_softmax(z, -1)[:, NODES, PATHS].sum(-1).exp()


def true_gradient(p: Problem) -> Tensor:
    z = p["z"].detach().requires_grad_()
    return torch.autograd.grad((path_probability(z) * p["r"]).sum(), z)[0]


def estimator_mean(p: Problem, advantage: Tensor) -> Tensor:
    """E over paths of sum_t A_t grad log pi(a_t | s_t), (n, INNER, WIDTH); advantage (n, T, DEPTH)."""
    z = p["z"].detach().requires_grad_()
    logp = torch.log_softmax(z, -1)[:, NODES, PATHS]
    weight = path_probability(p["z"])[..., None] * advantage
    return torch.autograd.grad((weight * logp).sum(), z)[0]


def exact_values(p: Problem) -> Tensor:
    """V^pi at every inner node, (n, INNER), by averaging the leaves below it."""
    prob = path_probability(p["z"])
    member = torch.zeros(len(PATHS), INNER, dtype=prob.dtype).scatter_(1, NODES, 1.0)
    return (prob * p["r"]) @ member / (prob @ member)


def gae(values: Tensor, leaf_reward: Tensor, lam: float) -> Tensor:
    """Generalised advantages along every path for gamma = 1 and a reward at the leaf, (n, T, DEPTH)."""
    v = values[:, NODES]
    following = torch.cat([v[..., 1:], leaf_reward[..., None]], -1)
    delta = following - v
    out, carry = [], torch.zeros_like(leaf_reward)
    for t in reversed(range(DEPTH)):
        carry = delta[..., t] + lam * carry
        out.append(carry)
    return torch.stack(out[::-1], -1)


def _any_lambda(p: Problem, exact: bool = True) -> ClaimReport:
    values = exact_values(p) if exact else p["v"]
    worst = [
        gap(estimator_mean(p, gae(values, p["r"], lam)).flatten(1), true_gradient(p).flatten(1)) for lam in (0, 0.5, 1)
    ]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


EXACT_CRITIC = Claim(
    paper=327,
    kind="theorem",
    statement="with V = V^pi the generalised-advantage policy gradient is exact for every lambda",
    problems=trees,
    check=_any_lambda,
    twin=Twin("an exact critic", check=lambda p: _any_lambda(p, False)),
    source="derived",
    n=64,
)


def _monte_carlo(p: Problem, lam: float = 1.0) -> ClaimReport:
    mean = estimator_mean(p, gae(p["v"], p["r"], lam))
    return ClaimReport(gap(mean.flatten(1), true_gradient(p).flatten(1)), 1e-12)


ANY_CRITIC = Claim(
    paper=311,
    kind="theorem",
    statement="with lambda = 1 the policy gradient is exact for an arbitrary critic V",
    problems=trees,
    check=_monte_carlo,
    twin=Twin("lambda = 1 (0.95 instead)", check=lambda p: _monte_carlo(p, 0.95)),
    source="derived",
    n=64,
)


def horizons(rng: Rng, n: int) -> Problem:
    return dict(alpha=rng.uniform(n, low=0.02, high=0.5), length=(rng.integers(400, n) + 60).to(torch.float64))


def _adaptive_lambda(p: Problem, half: bool = False) -> ClaimReport:
    """sum_{t<l} lambda^t by direct summation, for lambda = 1 - 1/(alpha l)."""
    scale = p["alpha"] * p["length"] * (0.5 if half else 1.0)
    lam = 1 - 1 / (p["alpha"] * p["length"])
    t = torch.arange(460).to(lam)
    total = (lam[:, None] ** t * (t < p["length"][:, None])).sum(-1)
    return ClaimReport((total - scale * (1 - lam ** p["length"])).abs() / scale, 1e-10)


ADAPTIVE_LAMBDA = Claim(
    paper=293,
    kind="identity",
    statement="VAPO's lambda = 1 - 1/(alpha l) spreads a total weight of alpha l (1 - lambda^l) over a response of l "
    "tokens",
    problems=horizons,
    check=_adaptive_lambda,
    twin=Twin("the factor alpha l", check=lambda p: _adaptive_lambda(p, True)),
    source="derived",
    n=64,
)


def _truncated(p: Problem, exact: bool = True, stop: int = 2) -> ClaimReport:
    """Truncated after `stop` tokens with V(s_l) := V(s_{l-1}): E[delta_t | s_t, a_t] = A^pi except for the last."""
    true = exact_values(p)
    values = true if exact else p["v"]
    child = torch.cat([true[:, NODES[:, 1:]], p["r"][..., None]], -1)
    advantage = child - true[:, NODES]  # deterministic transitions: Q(s, a) = V(child)
    delta = values[:, NODES[:, 1 : stop + 1]] - values[:, NODES[:, :stop]]
    return ClaimReport((delta - advantage[..., :stop]).abs().amax((-2, -1)), 1e-12)


TRUNCATED = Claim(
    paper=86,
    kind="theorem",
    statement="T-PPO: with an exact critic every increment of the truncated estimator but the last equals A^pi(s_t, "
    "a_t)",
    problems=trees,
    check=_truncated,
    twin=Twin("an exact critic", check=lambda p: _truncated(p, False)),
    source="derived",
    n=64,
)


def two_turns(rng: Rng, n: int) -> Problem:
    """A turn reward known after two tokens and an outcome reward at the leaf."""
    return dict(trees(rng, n), turn=rng.normal(n, WIDTH**2))


def _turn_credit(p: Problem, swapped: bool = False) -> ClaimReport:
    turn = p["turn"].repeat_interleave(WIDTH ** (DEPTH - 2), -1)
    total = p | dict(r=p["r"] + turn)
    first, second = (p["r"], turn + p["r"]) if swapped else (turn + p["r"], p["r"])
    advantage = torch.stack([first, first, second, second], -1)
    return ClaimReport(gap(estimator_mean(p, advantage).flatten(1), true_gradient(total).flatten(1)), 1e-12)


TURN_CREDIT = Claim(
    paper=225,
    kind="theorem",
    statement="a turn reward may be credited to the tokens of its own turn only: E g stays grad E[R_turn + R_outcome]",
    problems=two_turns,
    check=_turn_credit,
    twin=Twin("crediting the turn that earned it", check=lambda p: _turn_credit(p, True)),
    source="derived",
    n=64,
)


def sampled_paths(rng: Rng, n: int) -> Problem:
    """Eight sampled completions of the tree with rewards."""
    return dict(path=rng.integers(len(PATHS), n, 8), r=rng.normal(n, 8))


def prefix_value(p: Problem, leave_out: bool = False) -> Tensor:
    """Mean reward of the completions that share each prefix of completion i: (n, 8, DEPTH + 1)."""
    paths = PATHS[p["path"]]
    values = []
    for d in range(DEPTH + 1):
        same = (paths[:, :, None, :d] == paths[:, None, :, :d]).all(-1).to(p["r"])
        values.append((same * p["r"][:, None]).sum(-1) / same.sum(-1))
    return torch.stack(values, -1)


def _telescope(p: Problem, wrong_root: bool = False) -> ClaimReport:
    """Along a completion the advantages sum to V(leaf) - V(root); at each prefix, weighted by counts, to zero."""
    v = prefix_value(p)
    advantage = v.diff(dim=-1)
    root = 0 if wrong_root else v[..., 0]
    along = (advantage.sum(-1) - (v[..., -1] - root)).abs().amax(-1)
    nodes = torch.cat([NODES, torch.arange(len(PATHS))[:, None]], -1)[p["path"]]
    at_prefix = torch.zeros(len(v), DEPTH, INNER, dtype=v.dtype).scatter_add_(
        -1, nodes[..., :-1].transpose(1, 2), advantage.transpose(1, 2)
    )
    return ClaimReport(torch.maximum(along, at_prefix.abs().amax((-2, -1))), 1e-12)


TELESCOPE = Claim(
    paper=221,
    kind="identity",
    statement="T-SPMO: prefix advantages V(p+t) - V(p) sum to V(leaf) - V(root) along a completion and, weighted by "
    "counts, to 0 at every prefix",
    problems=sampled_paths,
    check=_telescope,
    twin=Twin("the root's value", check=lambda p: _telescope(p, True)),
    n=64,
    source="derived",
)


def budgets(rng: Rng, n: int) -> Problem:
    """Scores R_j of a thought truncated at each prefix, and a law over budgets."""
    return dict(
        z=rng.normal(n, INNER, WIDTH), score=rng.normal(n, INNER), r=rng.normal(n, len(PATHS)), w=rng.simplex(n, DEPTH)
    )


def _budget(p: Problem, from_segment: bool = True) -> ClaimReport:
    """Token s is paid sum_{j >= s} w_j R_j (R_j: the score of its prefix of length j); truth: grad E sum_j w_j R_j."""
    score = torch.cat([p["score"][:, NODES[:, 1:]], p["r"][..., None]], -1) * p["w"][:, None]
    total = p | dict(r=score.sum(-1))
    paid = score.flip(-1).cumsum(-1).flip(-1)
    if not from_segment:
        paid = score
    return ClaimReport(gap(estimator_mean(p, paid).flatten(1), true_gradient(total).flatten(1)), 1e-12)


BUDGET = Claim(
    paper=229,
    kind="theorem",
    statement="anytime reasoning: paying segment s the budgets still to come, sum_{j>=s} P_j R_j, gives grad E sum_j "
    "P_j R_j",
    problems=budgets,
    check=_budget,
    twin=Twin("the later budgets", check=lambda p: _budget(p, False)),
    n=64,
    source="derived",
)


def anchored(rng: Rng, n: int) -> Problem:
    """Rewards-to-go of six visits of one anchor state."""
    return dict(q=rng.normal(n, 6))


def _anchor(p: Problem, scale: float = 5 / 6) -> ClaimReport:
    q = p["q"]
    centred = q - q.mean(-1, keepdim=True)
    others = (q.sum(-1, keepdim=True) - q) / 5
    return ClaimReport(torch.maximum(centred.sum(-1).abs(), gap(centred, scale * (q - others))), 1e-12)


ANCHOR = Claim(
    paper=224,
    kind="identity",
    statement="GiGPO: a step advantage in an anchor group of n visits is (n-1)/n (R_i - mean of the others), sum 0",
    problems=anchored,
    check=_anchor,
    twin=Twin("the factor (n-1)/n", check=lambda p: _anchor(p, 1.0)),
    source="derived",
)
