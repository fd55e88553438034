"""Offline learners on token prefixes beside the same learners on tables and networks, and exact optima."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import token_batches
import torch
import torch.nn.functional as F
from prefix_problem import COST, F64, REWARD, SMALL, SPEC, TREE, N, P, S, T, V, X, answers, scored
from scipy.optimize import brentq

from fenchel.algorithms import get_algorithm
from fenchel.envs.spec import Discrete, Spec
from fenchel.llm import get_recipe
from fenchel.llm.bridge import get_bridge
from fenchel.llm.bridge.prefixes import Prefix, PrefixSampler
from fenchel.theory.rng import Streams
from fenchel.theory.solvers import solve

GAMMA, TEMPERATURE = 0.9, 0.7
COUNT = 1 + Streams([5]).integers("count", 3, (S, V))[0]  # how often the data has each token after each prefix
KEYS = ("f_dvl", "iql", "ivl", "odice")
OPTIONS = {
    "f_dvl": {"divergence": "kl", "temperature": TEMPERATURE, "extraction": "w", "delta": 50.0},
    "iql": {"expectile": 0.8, "temperature": 1.0},
    "ivl": {"expectile": 0.8, "temperature": 1.0},
    "odice": {"gradient": "semi", "temperature": 1.0},
}


def table(column):
    """What a token earns (X, Y) -> per state and token (S, V), and the state that follows, or S at the end."""
    ends = TREE.child >= N
    at_end = column[:, (TREE.child - N).clamp(min=0)]
    following = torch.where(ends, S, TREE.child + N * torch.arange(X)[:, None, None])
    return torch.where(ends, at_end, 0.0).flatten(0, 1), following.flatten(0, 1)


def population(tokens: bool):
    """All transitions of the data, as often as it has them, in one batch: prefixes, or one-hot states."""
    state, action = (x.flatten() for x in torch.meshgrid(torch.arange(S), torch.arange(V), indexing="ij"))
    repeat = COUNT.flatten()
    state, action = state.repeat_interleave(repeat), action.repeat_interleave(repeat)
    reward, following = table(REWARD)
    place = P + TREE.depth.repeat(X)[state]
    batch = {"action": action, "reward": reward[state, action]}
    batch["discount"] = GAMMA * (following[state, action] < S).double()
    if tokens:
        rows = answers()[2][state].scatter(1, place[:, None], action[:, None])
        following_place = (place + 1).clamp(max=P + T - 1)
        batch |= {"obs": Prefix(rows, place[:, None]), "next_obs": Prefix(rows, following_place[:, None])}
    else:
        eye = F.pad(torch.eye(S, **F64), (0, 0, 0, 1))
        batch |= {"obs": eye[state], "next_obs": eye[following[state, action]]}
    return {k: Prefix(*(t[None] for t in v)) if isinstance(v, Prefix) else v[None] for k, v in batch.items()}


def learn(key, kind, steps=None, **options):
    """On a table, a neural network of one-hot states, or a transformer of prefixes; smaller and smaller steps."""
    options = OPTIONS[key] | {"gamma": GAMMA, "tau": 0.5, "lr": 0.03} | options
    if kind == "tokens":
        learner = get_bridge(key)(SPEC, SMALL | options | {"lr": 0.02}, **F64)
    else:
        hidden = {"table": (), "network": (32,)}[kind]
        network = {"hidden": hidden, "layer_norm": False} | ({"lr": 0.01} if hidden else {})
        learner = get_algorithm(key)(Spec(S, Discrete(V)), options | network, **F64)
    batch, steps = population(kind == "tokens"), steps or {"table": 600, "network": 300, "tokens": 130}[kind]
    for part in (1.0, 0.3, 0.05):
        for optimiser in learner.optimisers():
            optimiser.lr = [part * learner.config.lr] * learner.R
            optimiser.freeze(set())
        for _ in range(steps // 3):
            learner.update(batch)
    return learner


def read(learner, kind):
    """V (S,) and pi (S, V)."""
    if kind == "tokens":
        place = (P + TREE.depth.repeat(X))[None, :, None]
        obs = Prefix(answers()[2][None], place)
        pi = learner.policy.body.head(learner.policy.body.at(*obs)).softmax(-1)
    else:
        obs = torch.eye(S, **F64)[None]
        pi = learner.policy.log_probs(obs).exp()
    v = learner.value(obs).detach()[0]
    return (v if v.ndim == 1 else v.mean(0)), pi.detach()[0]


def close(ours, exact):
    """Within 2 % of the range."""
    return (ours - exact).abs().max() <= 0.02 * (exact.max() - exact.min())


def test_the_solver_the_network_and_the_tokens_reach_one_optimum():
    """max over pi of E r - T KL(pi, beta), summed over prefixes."""
    mdp = TREE.mdp(REWARD)
    behaviour = F.pad(COUNT / COUNT.sum(1, keepdim=True).double(), (0, 0, 0, 1), value=1 / V)
    exact = solve(replace(mdp, discount=GAMMA * mdp.discount), "soft", alpha=TEMPERATURE, reference=behaviour)
    for kind in ("table", "network", "tokens"):
        v, pi = read(learn("f_dvl", kind, 220 if kind == "tokens" else None), kind)
        assert close(v, exact.V[:S]), kind
        torch.testing.assert_close(pi, exact.policy[:S], rtol=0, atol=0.03)


@pytest.mark.parametrize("key", ["odice", *(pytest.param(key, marks=pytest.mark.slow) for key in ("iql", "ivl"))])
def test_tokens_reach_what_a_table_reaches(key):
    v, pi = read(learn(key, "table"), "table")
    mine, my_pi = read(learn(key, "tokens"), "tokens")
    assert close(mine, v), (mine, v)
    torch.testing.assert_close(my_pi, pi, rtol=0, atol=0.03)


def recorded(run):
    """The objectives that a run calls, as code objects."""
    found = set()

    def note(frame, event, _):
        if event == "call" and "theory/objectives" in frame.f_code.co_filename.replace("\\", "/"):
            found.add(frame.f_code)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("key", KEYS)
def test_one_objective_and_three_policies(key):
    """A table, a network and a transformer call the very same functions."""
    runs = [recorded(lambda kind=kind: learn(key, kind, steps=3)) for kind in ("table", "network", "tokens")]
    assert runs[0] == runs[1] == runs[2]
    named = {"f_dvl": "dual_v", "iql": "expectile", "ivl": "ivl", "odice": "odice_value"}
    assert {named[key], "reduce", "weighted_nll"} <= {code.co_name for code in runs[0]}
    assert get_bridge(key).update is get_algorithm(key).update


def test_a_lagrangian_has_the_objectives_of_its_namesake():
    """f_dvl_lag of vectors has an update of its own, around the same functions."""
    tokens = get_bridge("f_dvl_lag")(SPEC, SMALL, **F64)
    vectors = get_algorithm("f_dvl_lag")(Spec(S, Discrete(V)), {"hidden": (), "extraction": "awr", "limit": 1.0}, **F64)
    eye = torch.eye(S, **F64)[None]
    one = torch.ones(1, S, **F64)
    batch = {"obs": eye, "next_obs": eye, "start_obs": eye, "reward": one, "cost": one, "discount": one}
    mine = recorded(lambda: tokens.step(PrefixSampler(scored(), tokens)))
    theirs = recorded(lambda: vectors.update(batch | {"action": torch.zeros(1, S, dtype=torch.int64)}))
    shared = {code.co_name for code in mine & theirs}
    assert shared >= {"lagrangian", "dual_v", "bellman_backup", "huber", "td", "weighted_nll", "awr_weight", "reduce"}


def test_ppo_of_tokens_has_the_objective_of_its_namesake():
    learner = get_algorithm("ppo")(Spec(3, Discrete(2)))
    column = {k: torch.randn(1, 8) for k in ("log_prob", "value", "return", "advantage")}
    batch = column | {"obs": torch.randn(1, 8, 3), "action": torch.zeros(1, 8, dtype=torch.int64)}
    recipe = get_recipe("ppo").bind(2, torch.float64)
    mine = recorded(lambda: token_batches.loss(recipe, *token_batches.rollout()))
    shared = {code.co_name for code in mine & recorded(lambda: learner.update(batch))}
    assert shared >= {"ppo_clip", "ppo_value"}


def test_the_multiplier_is_the_programs():
    """pi proportional to beta exp((r - lam c) / T), lam such that E c = budget; by a root, over all completions."""
    # the data: every completion equally often, so that the behaviour is uniform over completions
    tokens, mask, _ = answers()

    def optimum(lam):
        energy = (REWARD - lam * COST).numpy() / TEMPERATURE
        pi = np.exp(energy - energy.max(1, keepdims=True))
        return pi / pi.sum(1, keepdims=True)

    def cost(lam):
        return (optimum(lam) * COST.numpy()).sum(1).mean()

    budget = 0.8 * cost(0.0) + 0.2 * COST.numpy().min(1).mean()
    exact = brentq(lambda lam: cost(lam) - budget, 0, 100)
    assert exact > 0.1
    options = OPTIONS["f_dvl"] | {"policy": "tabular", "tau": 0.3, "lr": 0.1, "multiplier_lr": 1.0, "limit": budget}
    learner = get_bridge("f_dvl_lag")(SPEC, options | {"places": 1, "batch_size": int(mask.sum())}, **F64)
    sampler = PrefixSampler(scored(), learner)
    row, place = mask.nonzero().T  # each transition once
    batch = everything_of(sampler, row, place)
    for part in (1.0, 0.2, 0.05):
        for optimiser in learner.optimisers():
            optimiser.lr = [part * 0.1]
            optimiser.freeze(set())
        for _ in range(110):
            losses = learner.update(batch)
    assert losses["multiplier"].item() == pytest.approx(exact, rel=0.03)
    assert losses["cost"].item() == pytest.approx(budget, abs=0.01)
    pi = learner.policy.body.logp(tokens[None], mask[None]).sum(-1).exp().view(X, -1).detach()
    torch.testing.assert_close(pi, torch.from_numpy(optimum(exact)), rtol=0, atol=0.02)


def everything_of(sampler, row, place):
    """The sampler's batch of given rows and places, in the place of drawn ones."""
    tokens, going = sampler.tokens[row][None], sampler.going[row, place][None]
    start = torch.arange(len(sampler.tokens))
    return {name: column[row, place][None] for name, column in sampler.columns.items()} | {
        "obs": Prefix(tokens, place[None, :, None]),
        "next_obs": Prefix(tokens, (place + 1).clamp(max=P + T - 1)[None, :, None]),
        "action": sampler.tokens[row, place][None],
        "discount": going,
        "start": Prefix(sampler.tokens[start][None], sampler.first[start][None, :, None]),
        "start_weight": torch.ones(1, len(start), **F64),
    }
