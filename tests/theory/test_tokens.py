"""Enumerated token problems against recursion and itertools."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.games import PreferenceGame
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import policy_iteration, policy_value
from fenchel.theory.tokens import (
    TokenTree,
    group_expectation,
    group_moments,
    kl,
    kl_optimum,
    preference_pairs,
)

TREES = [(2, 3, None), (3, 3, 1), (3, 2, 0), (2, 4, 1), (1, 2, None)]


def tree_and_policy(shape, *batch, seed=0):
    tree = TokenTree(*shape)
    logits = Rng(seed, str(shape)).normal(*batch, tree.num_nodes, tree.vocabulary)
    return tree, torch.log_softmax(logits, -1)


def brute_force(vocabulary, length, eos):
    """Every completion, by filtering all strings."""
    found = set()
    for n in range(1, length + 1):
        for y in itertools.product(range(vocabulary), repeat=n):
            ended = eos is not None and y[-1] == eos
            if (ended or n == length) and eos not in y[:-1]:
                found.add(y)
    return found


@pytest.mark.parametrize("shape", TREES)
def test_completions(shape):
    tree = TokenTree(*shape)
    expected = brute_force(*shape)
    assert {tree.sequence(y) for y in range(tree.num_completions)} == expected
    assert tree.num_completions == len(expected)
    for y in range(tree.num_completions):
        assert tree.index(tree.sequence(y)) == y
        node = 0
        for t, token in enumerate(tree.sequence(y)):
            assert node == int(tree.nodes[y, t])
            node = int(tree.child[node, token])
        assert node == tree.num_nodes + y


@pytest.mark.parametrize("shape", TREES)
def test_log_probs_and_inverse(shape):
    tree, log_policy = tree_and_policy(shape, 2)
    log_probs = tree.sequence_log_probs(log_policy)
    for y in range(tree.num_completions):
        total, node = 0.0, 0
        for token in tree.sequence(y):
            total, node = total + float(log_policy[1, node, token]), int(tree.child[node, token])
        assert float(log_probs[1, y]) == pytest.approx(total)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2).double())
    assert torch.allclose(tree.conditionals(log_probs + 3.0), log_policy)


@pytest.mark.parametrize("shape", TREES)
def test_scores_are_gradients(shape):
    tree, _ = tree_and_policy(shape)
    logits = Rng(1).normal(tree.num_nodes, tree.vocabulary)

    def log_probs(z):
        return tree.sequence_log_probs(torch.log_softmax(z, -1))

    jacobian = torch.autograd.functional.jacobian(log_probs, logits)
    assert torch.allclose(tree.scores(torch.log_softmax(logits, -1)), jacobian, atol=1e-12)


@pytest.mark.parametrize("shape", TREES)
def test_values_agree_with_the_mdp(shape):
    tree, log_policy = tree_and_policy(shape, 2)
    reward = Rng(2).normal(2, tree.num_completions)
    prompts = torch.tensor([0.25, 0.75]).double()
    mdp = tree.mdp(reward, prompts)
    mdp.validate()
    policy = torch.cat([log_policy.exp().reshape(-1, tree.vocabulary), mdp.P.new_full((1, tree.vocabulary), 0.0)])
    policy[-1, 0] = 1.0
    V, Q = tree.values(log_policy, reward)
    exact = policy_value(mdp, policy)
    assert torch.allclose(V.reshape(-1), exact[:-1])
    assert torch.allclose(Q.reshape(-1, tree.vocabulary), (mdp.r + mdp.kernel @ exact)[:-1])
    mean = (tree.sequence_log_probs(log_policy).exp() * reward).sum(-1)
    assert torch.allclose(V[:, 0], mean)
    assert float((mdp.mu0 * exact).sum()) == pytest.approx(float(prompts @ mean))
    assert float((mdp.mu0 * policy_iteration(mdp)[0]).sum()) == pytest.approx(float(prompts @ reward.amax(-1)))


@pytest.mark.parametrize("shape", TREES)
def test_kl_chain_rule(shape):
    tree, log_policy = tree_and_policy(shape, 2)
    _, log_reference = tree_and_policy(shape, 2, seed=5)
    by_tokens = (tree.reach(log_policy).exp() * kl(log_policy, log_reference)).sum(-1)
    by_sequences = kl(tree.sequence_log_probs(log_policy), tree.sequence_log_probs(log_reference))
    assert torch.allclose(by_tokens, by_sequences)
    assert (by_sequences >= 0).all()


def test_kl_of_a_zero_probability():
    assert float(kl(torch.tensor([0.0, -torch.inf]), torch.tensor([math.log(0.5), math.log(0.5)]))) == pytest.approx(
        math.log(2)
    )


def test_kl_optimum_beats_every_policy_and_factorises():
    tree, log_reference = tree_and_policy((2, 3, 1))
    reward = Rng(3).normal(tree.num_completions)
    reference = tree.sequence_log_probs(log_reference)
    best, value = kl_optimum(reference, reward, 0.5)

    def objective(log_p):
        return (log_p.exp() * reward).sum(-1) - 0.5 * kl(log_p, reference)

    assert torch.allclose(objective(best), value)
    others = torch.log_softmax(Rng(4).normal(200, tree.num_completions), -1)
    assert (objective(others) < value).all()
    assert torch.allclose(tree.sequence_log_probs(tree.conditionals(best)), best)
    with pytest.raises(UserError, match="alpha=0"):
        kl_optimum(reference, reward, 0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_group_expectation_is_a_loop(symmetric):
    probs, r = Rng(5).simplex(2, 4), Rng(6).normal(2, 4)

    def fn(groups):
        return torch.stack([r[:, groups].amax(-1), r[:, groups].std(-1)], -1)

    answer, variance = group_moments(probs, fn, 3, symmetric=symmetric)
    expected, square = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    for group in itertools.product(range(4), repeat=3):
        weight = probs[:, group].prod(-1, keepdim=True)
        value = torch.stack([r[:, group].amax(-1), r[:, group].std(-1)], -1)
        expected, square = expected + weight * value, square + weight * value**2
    assert torch.allclose(answer, expected)
    assert torch.allclose(variance, square - expected**2)


def test_group_order_is_kept_unless_symmetric():
    probs, r = Rng(5).simplex(3), torch.tensor([0.0, 1.0, 5.0]).double()
    first = group_expectation(probs, lambda g: r[g[:, 0]] * (g[:, 1] == 2), 2)
    assert float(first) == pytest.approx(float((probs * r).sum() * probs[2]))


def test_group_gradient_is_unbiased_with_leave_one_out():
    """The exact mean of RLOO on a token tree is grad J; of GRPO's centring (G - 1) / G of it."""
    tree, log_policy = tree_and_policy((2, 2, None))
    reward, G = Rng(7).normal(tree.num_completions), 3
    probs, scores = tree.sequence_log_probs(log_policy).exp(), tree.scores(log_policy)
    gradient = torch.einsum("y,y,ynv->nv", probs, reward, scores)

    def estimator(groups):
        r = reward[groups]
        advantage = (r - r.mean(-1, keepdim=True)) / G
        return torch.einsum("mg,mgnv->mnv", advantage, scores[groups])

    mean = group_expectation(probs, estimator, G, symmetric=True)
    assert torch.allclose(mean, (G - 1) / G * gradient)


def test_too_many_groups():
    probs = torch.full((10,), 0.1).double()
    with pytest.raises(UserError, match="size=8 gives 100000000 groups"):
        group_expectation(probs, lambda g: g[:, 0].double(), 8)
    assert float(group_expectation(probs, lambda g: torch.ones(len(g)).double(), 8, symmetric=True)) == pytest.approx(1)
    with pytest.raises(UserError, match="completions to enumerate"):
        TokenTree(100, 4)
    for bad in ((0, 3, None), (2, 0, None), (2, 2, 2)):
        with pytest.raises(UserError):
            TokenTree(*bad)
    with pytest.raises(UserError, match="is no completion"):
        TokenTree(2, 3, 1).index((0, 1, 0))


@pytest.mark.parametrize("distinct", [False, True])
def test_preference_pairs(distinct):
    probs, game = Rng(8).simplex(3), PreferenceGame.bradley_terry(Rng(9).normal(3))
    law = preference_pairs(probs, game.P, distinct=distinct)
    expected = torch.zeros(3, 3).double()
    for y, z in itertools.product(range(3), repeat=2):
        if distinct and y == z:
            continue
        expected[y, z] += probs[y] * probs[z] * game.P[y, z]
        expected[z, y] += probs[y] * probs[z] * game.P[z, y]
    assert torch.allclose(law, expected / expected.sum())


def test_float32():
    tree, log_policy = tree_and_policy((3, 3, 0))
    low = tree.sequence_log_probs(log_policy.float())
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), tree.sequence_log_probs(log_policy), atol=1e-5)
