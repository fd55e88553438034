"""Exact evaluation against brute force, the solver's equilibria, and what is known in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from fenchel.errors import UserError
from fenchel.llm import exact, get_recipe, self_play
from fenchel.llm.claims.problems import tilted
from fenchel.llm.options import with_options
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.tokens import TokenTree, kl

TREE = TokenTree(3, 2, eos=0)  # 7 answers of 1 or 2 tokens
Y = TREE.num_completions


def problem(n=3, seed=0, **columns):
    rng = Rng(seed, "exact")
    old, ref = (rng.normal(n, TREE.num_nodes, TREE.vocabulary).log_softmax(-1) for _ in range(2))
    noise = rng.normal(n, Y, Y)
    given = dict(reward=rng.normal(n, Y), preference=torch.sigmoid(noise - noise.mT), baseline=rng.normal(n))
    return exact.Enumerated(TREE, old, ref, **(given | columns))


def test_the_probabilities_of_all_answers_sum_to_one():
    law = problem().law
    torch.testing.assert_close(law.sum(-1), torch.ones(3).double())


def test_expected_loss_is_the_sum_over_groups_one_by_one():
    """Every ordered pair of answers as a batch of its own, by Python loops."""
    p, recipe = problem(n=1), get_recipe("grpo")
    policy = p.reference
    total = torch.zeros(1, dtype=torch.float64)
    for pair in itertools.product(range(Y), repeat=2):
        groups = torch.tensor([pair])
        logp, _ = p.live(policy, groups, recipe.needs)
        total = total + p.law[:, pair[0]] * p.law[:, pair[1]] * recipe.loss(recipe.prepare(p.rollout(groups)), logp)
    torch.testing.assert_close(exact.expected_loss(recipe, p, policy, 2), total)


def test_pairs_are_drawn_and_labelled():
    p, recipe = problem(n=2), get_recipe("dpo")
    total = torch.zeros(2, dtype=torch.float64)
    for first, second in itertools.product(range(Y), repeat=2):
        for w, z in ((first, second), (second, first)):
            loss = exact.group_loss(recipe, p, p.old, torch.tensor([[w, z]]))[:, 0]
            total = total + p.law[:, first] * p.law[:, second] * p.preference[:, w, z] * loss
    torch.testing.assert_close(exact.expected_pair_loss(recipe, p, p.old), total)
    with pytest.raises(UserError, match="has no preference"):
        exact.expected_pair_loss(recipe, problem(preference=None), p.old)


@pytest.mark.parametrize("key", ["rloo", "grpo", "ppo", "gvpo", "rover", "nash_mp"])
def test_moments_agree_with_autograd(key):
    """The mean by scores of tokens is the gradient of the expected loss; the variance vanishes with certain rewards."""
    p, recipe = problem(value=Rng(5, "v").normal(3, TREE.num_nodes)), get_recipe(key)
    mean, variance = exact.moments(recipe, p, p.old, 2)
    torch.testing.assert_close(mean, exact.gradient(lambda x: exact.expected_loss(recipe, p, x, 2), p.old))
    assert (variance >= 0).all()


def test_variance_by_hand():
    """REINFORCE with one answer on a bandit: E |r|^2 |score|^2 - |E r score|^2, element by element."""
    tree = TokenTree(4, 1)
    rng = Rng(2, "bandit")
    logits, r = rng.normal(1, 1, 4), rng.normal(1, 4)
    p = exact.Enumerated(tree, logits.log_softmax(-1), logits.log_softmax(-1), r)
    mean, variance = exact.moments(get_recipe("reinforce"), p, p.old, 1)
    pi = logits.softmax(-1)[0, 0]
    g = -r[0, :, None] * (torch.eye(4) - pi)
    torch.testing.assert_close(mean[0, 0], pi @ g)
    torch.testing.assert_close(variance[0, 0], pi @ g.square() - (pi @ g).square())


def test_monte_carlo_is_within_its_error():
    p, recipe = problem(), get_recipe("gpg")
    loss = exact.expected_loss(recipe, p, p.old, 3)
    mean, error = exact.monte_carlo(recipe, p, p.old, Rng(1, "mc").uniform(3, 3000, 3))
    assert ((mean - loss).abs() < 4 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize(("key", "size"), [("copg", 2), ("flow_tb", 2), ("exo_rw", 2)])
def test_minimisers_are_found(key, size):
    """L-BFGS on the expected loss over all token policies, from the reference, reaches the tilt."""
    beta = 0.6
    options = {"policy_beta": 1.0, "reward_beta": beta} if key == "exo_rw" else {"beta": beta}
    p, recipe = problem(n=2), with_options(get_recipe(key), **options)
    found = exact.minimise(lambda x: exact.expected_loss(recipe, p, x, size), p.reference)
    best, value = exact.kl_optimum(p, beta)
    torch.testing.assert_close(found.exp(), best.exp(), atol=1e-5, rtol=0)
    torch.testing.assert_close(exact.objective(p, best, beta), value)
    assert (exact.objective(p, p.old, beta) < value).all()


def test_too_many_groups_are_refused():
    with pytest.raises(UserError, match="valid are 1 to"):
        exact.expected_loss(get_recipe("rloo"), problem(), problem().old, 9)


def test_pass_at_k_and_forms_of_the_kl():
    p = problem()
    right = (p.reward > 0).double()
    rate = (p.law * right).sum(-1)
    torch.testing.assert_close(exact.pass_at_k(p, p.old, 3), 1 - (1 - rate) ** 3)
    forms = exact.kl_forms(p, p.old)
    log_ref = TREE.sequence_log_probs(p.reference)
    torch.testing.assert_close(forms["sequence"], (p.law * (p.law.log() - log_ref)).sum(-1))
    torch.testing.assert_close(forms["prefixes"], forms["sequence"])
    assert (forms["per_token"] < forms["sequence"]).all()
    torch.testing.assert_close(forms["forward"], (log_ref.exp() * (log_ref - p.law.log())).sum(-1))


def test_the_greedy_answer():
    p = problem(n=8)
    for i, y in enumerate(exact.greedy_answer(TREE, p.old).tolist()):
        node, tokens = 0, []
        while node < TREE.num_nodes:
            tokens.append(int(p.old[i, node].argmax()))
            node = int(TREE.child[node, tokens[-1]])
        assert TREE.sequence(y) == tuple(tokens)


def games(n=6, size=5):
    rng = Rng(4, "games")
    upper = (rng.uniform(n, size, size) < 0.5).double().triu(1)
    P = upper + (1 - upper).triu(1).mT + 0.5 * torch.eye(size).double()
    return P, rng.simplex(n, size).log(), rng.simplex(n, size).log()


@pytest.mark.parametrize(
    ("step", "options"), [("nash_mp", {"eta": 2.0}), ("egpo", {"eta": 0.6}), ("inpo", {"eta": 0.3})]
)
def test_last_iterates_reach_the_equilibrium_of_the_solver(step, options):
    P, start, ref = games()
    star = solve(P, "kl_nash", alpha=0.4, reference=ref.exp(), tol=1e-11).policy
    path = self_play.iterate(getattr(self_play, step), P, start, ref, 150, beta=0.4, **options)
    torch.testing.assert_close(path[-1].exp(), star, atol=1e-7, rtol=0)
    distance = kl(star.log(), path)
    assert (distance[1:60] < distance[:59] + 1e-12).all()


@pytest.mark.parametrize(("step", "eta"), [("sppo", 0.1), ("dno", 10.0)])
def test_averages_of_multiplicative_weights_cannot_be_beaten(step, eta):
    """max P(y > average) - 1/2 falls like 1 / (eta T); the last iterate cycles."""
    P, start, ref = games()
    path = self_play.iterate(getattr(self_play, step), P, start, ref, 2000, eta=eta)

    def exploitability(policy):
        return torch.einsum("nyz,nz->ny", P, policy).amax(-1) - 0.5

    assert (exploitability(path.exp().mean(0)) < 0.03).all()
    assert exploitability(path[-1].exp()).max() > 0.1
    value = solve(P, "von_neumann").V
    torch.testing.assert_close(value, torch.full_like(value, 0.5))


def test_tilts_are_policies():
    p = problem()
    best = tilted(TREE, p.reference, p.reward)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(3, TREE.num_nodes).double())
