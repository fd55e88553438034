"""Models, abstractions and estimators of MDPs: what is lost, and what is not, by a wrong or coarser model."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.policy_improvement import value
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import occupancy, policy_iteration, policy_value, q_values

GAMMA = 0.8


def optimal(mdp: TabularMDP) -> Tensor:
    return policy_iteration(mdp)[0]


def grouped(rng: Rng, n: int) -> Problem:
    """Four actions in two groups {0, 1}, {2, 3}; rewards in [0, 1]; members of a group are alike."""
    shared, own = garnet(rng, n, 5, 2, 3, GAMMA), garnet(rng, n, 5, 4, 3, GAMMA)
    mix = rng.uniform(n, 1, 1, low=0.0, high=0.3)
    P = (1 - mix[..., None]) * shared.P.repeat_interleave(2, -2) + mix[..., None] * own.P
    r = (1 - mix) * torch.sigmoid(shared.r).repeat_interleave(2, -1) + mix * torch.sigmoid(own.r)
    return dict(mdp=TabularMDP(P, r, own.mu0, GAMMA))


def _equal_rewards(rng: Rng, n: int) -> Problem:
    """The same with the reward of a pair replaced by its group's mean."""
    mdp = grouped(rng, n)["mdp"]
    return dict(mdp=replace_reward(mdp, mdp.r.unflatten(-1, (2, 2)).mean(-1).repeat_interleave(2, -1)))


def _grouping(p: Problem, transitions: bool = True) -> ClaimReport:
    """0 <= V* - V*_lifted <= (D_r + gamma D_P r_max / (2 (1 - gamma))) / (1 - gamma), uniform inside a group."""
    mdp = p["mdp"]
    P, r = mdp.P.unflatten(-2, (2, 2)), mdp.r.unflatten(-1, (2, 2))
    lifted = TabularMDP(P.mean(-2), r.mean(-1), mdp.mu0, GAMMA)
    reward_gap = (r[..., 0] - r[..., 1]).abs().amax((-2, -1))
    kernel_gap = (P[..., 0, :] - P[..., 1, :]).abs().sum(-1).amax((-2, -1)) if transitions else 0.0
    span = mdp.r.amax((-2, -1))
    bound = (reward_gap + GAMMA * kernel_gap * span / (2 * (1 - GAMMA))) / (1 - GAMMA)
    loss = optimal(mdp) - optimal(lifted)
    return ClaimReport(torch.maximum(loss.amax(-1) - bound, -loss.amin(-1)), 1e-10)


GROUPING = Claim(
    paper=260,
    kind="theorem",
    statement="action groups: 0 <= V* - V*_lifted <= (D_r + gamma D_P r_max / (2 (1 - gamma))) / (1 - gamma)",
    problems=grouped,
    check=_grouping,
    twin=Twin("the transition term", problems=_equal_rewards, check=lambda p: _grouping(p, False)),
    source="derived",
)


def duplicated(rng: Rng, n: int) -> Problem:
    """A Garnet of four states and a blow-up to eight: each block is split, with random shares inside the block."""
    small, share = garnet(rng, n, 4, 3, 2, GAMMA), rng.simplex(n, 8, 3, 4, 2)
    P = (small.P.repeat_interleave(2, -3)[..., None] * share).flatten(-2)
    mu0 = (small.mu0[..., None] * rng.simplex(n, 4, 2)).flatten(-2)
    return dict(small=small, large=TabularMDP(P, small.r.repeat_interleave(2, -2), mu0, GAMMA))


def _bisimulation(p: Problem) -> ClaimReport:
    gap = optimal(p["large"]) - optimal(p["small"]).repeat_interleave(2, -1)
    return ClaimReport(gap.abs().amax(-1), 1e-11)


def _unlike(rng: Rng, n: int) -> Problem:
    p = duplicated(rng, n)
    reward = p["large"].r.clone()
    reward[:, 0] += 1.0
    return p | dict(large=replace_reward(p["large"], reward))


BISIMULATION = Claim(
    paper=148,
    kind="theorem",
    statement="a bisimulation quotient loses nothing: V*(s) = V*([s]) for every state",
    problems=duplicated,
    check=_bisimulation,
    twin=Twin("equal rewards inside a block", problems=_unlike),
    source="derived",
)


def symmetric(rng: Rng, n: int) -> Problem:
    """A 3 x 3 grid whose reward is invariant under a quarter turn; moves N, E, S, W slip uniformly."""
    turn = torch.tensor([6, 3, 0, 7, 4, 1, 8, 5, 2])
    reward = rng.normal(n, 9)
    turns = (turn, turn[turn], turn[turn[turn]], torch.arange(9))
    reward = torch.stack([reward[:, p] for p in turns]).sum(0)
    slip = rng.uniform(n, low=0.0, high=0.5)
    target = torch.zeros(4, 9, dtype=torch.long)
    for a, (dy, dx) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
        for s in range(9):
            y, x = min(max(s // 3 + dy, 0), 2), min(max(s % 3 + dx, 0), 2)
            target[a, s] = 3 * y + x
    move = torch.nn.functional.one_hot(target.T, 9).to(reward)  # (S, A, S)
    P = (1 - slip[:, None, None, None]) * move + slip[:, None, None, None] * move.mean(1, keepdim=True)
    return dict(
        mdp=TabularMDP(P, reward[..., None].expand(n, 9, 4).clone(), torch.full((n, 9), 1 / 9, dtype=P.dtype), GAMMA)
    )


def _homomorphism(p: Problem, turn_actions: bool = True) -> ClaimReport:
    """Q*(g s, g a) = Q*(s, a) for the quarter turn g: rows move (y, x) -> (x, 2 - y), N -> E -> S -> W -> N."""
    mdp = p["mdp"]
    Q = q_values(mdp, optimal(mdp))
    states = torch.tensor([3 * (s % 3) + 2 - s // 3 for s in range(9)])
    actions = torch.tensor([1, 2, 3, 0]) if turn_actions else torch.arange(4)
    return ClaimReport((Q[:, states][..., actions] - Q).abs().amax((-2, -1)), 1e-10)


HOMOMORPHISM = Claim(
    paper=306,
    kind="theorem",
    statement="MDP homomorphism: under a symmetry g of the MDP, Q*(g s, g a) = Q*(s, a)",
    problems=symmetric,
    check=_homomorphism,
    twin=Twin("turning the action with the state", check=lambda p: _homomorphism(p, False)),
    source="derived",
)


def split(rng: Rng, n: int) -> Problem:
    """A deterministic move f(s, a) to one of four post-decision states, then chance."""
    return dict(
        f=rng.integers(4, n, 5, 3),
        chance=rng.simplex(n, 4, 5),
        r=rng.normal(n, 5, 3),
        mu0=rng.simplex(n, 5),
    )


def _post_decision(p: Problem, before_chance: bool = False) -> ClaimReport:
    """V^x(x) = E_{s'|x} max_a r + gamma V^x(f(s', a)), iterated, gives Q* = r + gamma V^x(f(s, a))."""
    n = len(p["r"])
    rows = p["chance"].gather(1, p["f"].flatten(1)[..., None].expand(-1, -1, 5)).reshape(n, 5, 3, 5)
    mdp = TabularMDP(rows, p["r"], p["mu0"], GAMMA)
    post = torch.zeros(n, 4, dtype=p["r"].dtype)

    def q(post: Tensor) -> Tensor:
        return p["r"] + GAMMA * post.gather(1, p["f"].flatten(1)).reshape(n, 5, 3)

    for _ in range(200):
        best = q(post)
        if before_chance:
            post = torch.einsum("nxs,nsa->nxa", p["chance"], best).amax(-1)
        else:
            post = torch.einsum("nxs,ns->nx", p["chance"], best.amax(-1))
    return ClaimReport((q(post) - q_values(mdp, optimal(mdp))).abs().amax((-2, -1)), 1e-10)


POST_DECISION = Claim(
    paper=270,
    kind="theorem",
    statement="post-decision values V^x = E max_a (r + gamma V^x) give Q*(s, a) = r(s, a) + gamma V^x(f(s, a))",
    problems=split,
    check=_post_decision,
    twin=Twin("the maximum inside the expectation", check=lambda p: _post_decision(p, True)),
    source="derived",
)


def simulated(rng: Rng, n: int) -> Problem:
    """A true and an estimated kernel, rewards in [0, 1], a policy, and a set X of trusted pairs."""
    true = garnet(rng, n, 5, 3, 3, GAMMA)
    true = replace_reward(true, torch.sigmoid(true.r))
    inside = rng.uniform(n, 5, 3) < 0.7
    noise = torch.where(inside, 1e-3, 0.8)[..., None].to(true.P)
    other = garnet(rng, n, 5, 3, 3, GAMMA).P
    model = TabularMDP((1 - noise) * true.P + noise * other, true.r, true.mu0, GAMMA)
    return dict(true=true, model=model, inside=inside, pi=rng.simplex(n, 5, 3))


def _simulation(p: Problem, guarded: bool = True) -> ClaimReport:
    """The gap against gamma r_max / (1 - gamma) (max_X TV / (1 - gamma) + J_out), J_out the model's visits outside "
    "X."""
    tv = (p["true"].P - p["model"].P).abs().sum(-1) / 2
    trusted = torch.where(p["inside"], tv, 0.0).amax((-2, -1))
    visits = occupancy(p["model"], p["pi"])
    outside = (visits * ~p["inside"]).sum((-2, -1)) if guarded else 0.0
    bound = GAMMA / (1 - GAMMA) * (trusted / (1 - GAMMA) + outside)
    return ClaimReport((value(p["true"], p["pi"]) - value(p["model"], p["pi"])).abs() - bound, 1e-10)


SIMULATION = Claim(
    paper=38,
    kind="theorem",
    statement="guarded simulation lemma: |J_true - J_model| <= gamma r_max / (1 - gamma) (max_X TV / (1 - gamma) + "
    "J_out)",
    problems=simulated,
    check=_simulation,
    twin=Twin("the visits outside the trusted set", check=lambda p: _simulation(p, False)),
    source="derived",
)


def posteriors(rng: Rng, n: int) -> Problem:
    """Three equally likely models over one reward and start, and a reference model (their mean)."""
    base = garnet(rng, n, 4, 3, 3, GAMMA)
    models = tuple(TabularMDP(rng.simplex(n, 4, 3, 4), base.r, base.mu0, GAMMA) for _ in range(3))
    mean = TabularMDP(sum(m.P for m in models) / 3, base.r, base.mu0, GAMMA)
    return dict(models=models, mean=mean)


def greedy(mdp: TabularMDP) -> Tensor:
    _, actions, _ = policy_iteration(mdp)
    return torch.nn.functional.one_hot(actions, mdp.num_actions).to(mdp.r)


def _conservative(p: Problem, reference_only: bool = False) -> ClaimReport:
    """pi = the best of 3^4 deterministic policies for the average of V over models; Bayes regret against its bound."""
    actions = torch.tensor(list(itertools.product(range(3), repeat=4)))
    policies = torch.nn.functional.one_hot(actions, 3).to(p["mean"].r)
    n = len(p["mean"].r)
    wide = [m.map(lambda t: t[:, None].expand(n, len(policies), *t.shape[1:])) for m in p["models"]]
    spread = policies.expand(n, -1, -1, -1)
    average = sum((m.mu0 * policy_value(m, spread)).sum(-1) for m in wide) / 3
    q = greedy(p["mean"])
    regret = sum((m.mu0 * optimal(m)).sum(-1) for m in p["models"]) / 3 - average.amax(-1)
    bound = torch.zeros_like(regret)
    for m in p["models"]:
        star = greedy(m)
        first = value(m, star) - value(p["mean"], star)
        second = value(p["mean"], q) - value(m, q)
        bound = bound + (first + (0 if reference_only else second)) / 3
    return ClaimReport(regret - bound, 1e-10)


CONSERVATIVE = Claim(
    paper=275,
    kind="theorem",
    statement="conservative dual policy optimisation: Bayes regret <= E[(V^f - V^ref)(pi*_f) + (V^ref - V^f)(q)], q "
    "the "
    "reference's optimum",
    problems=posteriors,
    check=_conservative,
    twin=Twin("the second model error", check=lambda p: _conservative(p, True)),
    source="derived",
    n=32,
)


def _mismatch(p: Problem) -> ClaimReport:
    """M1 has the lower excess negative log-likelihood, and its greedy policy the lower return."""

    def excess(true: float, guess: float) -> Tensor:
        law, model = p["one"].new_tensor([true, 1 - true]), p["one"].new_tensor([guess, 1 - guess])
        return (law * (law / model).log()).sum()

    # state x (weight .9, success .5) and the decision state (weight .1, successes .6 and .4 of its two actions)
    first = 0.9 * excess(0.5, 0.5) + 0.1 * (excess(0.6, 0.45) + excess(0.4, 0.55)) / 2
    second = 0.9 * excess(0.5, 0.3) + 0.1 * (excess(0.6, 0.6) + excess(0.4, 0.4)) / 2
    returns = {True: 0.6, False: 0.4}  # of choosing the truly better action or not
    lost = returns[0.6 > 0.4] - returns[0.45 > 0.55]
    return ClaimReport(torch.maximum(first - second, p["one"] * 0.1 - lost).reshape(1), 0.0)


MISMATCH = Claim(
    paper=32,
    kind="counterexample",
    statement="objective mismatch: the model of higher likelihood gives the worse policy (returns 0.4 against 0.6)",
    problems=lambda rng, n: dict(one=torch.tensor(1.0, dtype=torch.float64)),
    check=_mismatch,
    source="derived",
)
