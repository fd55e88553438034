"""TabularMDP: every kind of ill-posed input gives one sentence; the derived quantities are right."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import extreme_mdps, mdps, policies

from fenchel.errors import UserError
from fenchel.theory.instances import garnet
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import policy_value


def parts() -> dict:
    mdp = garnet(Rng(0), 1, 3, 2, gamma=0.9)[0]
    return dict(P=mdp.P.clone(), r=mdp.r.clone(), mu0=mdp.mu0.clone(), discount=mdp.discount.clone(), action_mask=None)


def put(name, value, *at):
    """Set one entry of one tensor."""

    def change(p):
        p[name][at] = value

    return change


def replace(name, value):
    def change(p):
        p[name] = value(p) if callable(value) else value

    return change


def no_action(p):
    p["action_mask"] = torch.tensor([[True, True], [False, False], [True, False]])


def negative(p):
    p["P"][2, 1] = torch.tensor([1.5, -0.5, 0.0])


FAULTS = {
    "sum": (put("P", 0.0, 1, 0), "P sums to 0, not 1, at state 1, action 0."),
    "nan P": (put("P", math.nan, 2, 1, 0), "P is not finite at state 2, action 1."),
    "inf P": (put("P", math.inf, 0, 1, 0), "P is not finite at state 0, action 1."),
    "nan r": (put("r", math.nan, 0, 1), "r is not finite at state 0, action 1."),
    "inf r": (put("r", -math.inf, 1, 1), "r is not finite at state 1, action 1."),
    "negative": (negative, "P has a negative probability at state 2, action 1."),
    "discount above": (put("discount", 1.5, 1, 0), "discount is 1.5, outside [0, 1], at state 1, action 0."),
    "discount below": (put("discount", -0.1, 0, 0), "discount is -0.1, outside [0, 1], at state 0, action 0."),
    "discount nan": (put("discount", math.nan, 0, 0), "discount is nan, outside [0, 1], at state 0, action 0."),
    "float discount": (replace("discount", 1.01), "discount is 1.01, outside [0, 1], at state 0, action 0."),
    "no action": (no_action, "state 1 has no action."),
    "mu0 sum": (put("mu0", 5.0, 0), "mu0 must be finite, non-negative and sum to 1 over the states."),
    "mu0 sign": (
        replace("mu0", torch.tensor([1.5, -0.5, 0.0]).double()),
        "mu0 must be finite, non-negative and sum to 1 over the states.",
    ),
    "P shape": (replace("P", torch.ones(3, 2, 4).double()), "P must be (..., S, A, S), not (3, 2, 4)."),
    "no actions at all": (
        replace("P", torch.ones(3, 0, 3).double()),
        "P must have at least one state and one action, not shape (3, 0, 3).",
    ),
    "r shape": (
        replace("r", torch.ones(2, 3).double()),
        "r must be (..., S, A) or (..., K, S, A) to match P, not (2, 3).",
    ),
    "mu0 shape": (replace("mu0", torch.ones(2).double()), "mu0 must be (..., S) to match P, not (2,)."),
    "discount shape": (
        replace("discount", torch.ones(3).double()),
        "discount must be (), (..., S, A) or (..., S, A, S), not (3,).",
    ),
    "mask dtype": (
        replace("action_mask", torch.ones(3, 2)),
        "action_mask must be bool (..., S, A) to match P, not (3, 2).",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_in_one_sentence(fault):
    change, sentence = FAULTS[fault]
    p = parts()
    TabularMDP(**p)
    change(p)
    with pytest.raises(UserError) as error:
        TabularMDP(**p)
    assert str(error.value) == sentence


def test_names_the_problem_of_a_batch():
    mdp = garnet(Rng(0), 4, 3, 2)
    mdp.P[2, 1, 0] = 0.0
    with pytest.raises(UserError, match=r"not 1, at problem \(2,\), state 1, action 0\."):
        mdp.validate()
    mdp = garnet(Rng(0), 4, 3, 2)
    mask = torch.ones(4, 3, 2, dtype=torch.bool)
    mask[3, 1] = False
    with pytest.raises(UserError, match=r"^problem \(3,\), state 1 has no action\.$"):
        TabularMDP(mdp.P, mdp.r, mdp.mu0, mdp.discount, mask)


def test_channel_reward_names_the_pair():
    p = parts()
    p["r"] = torch.stack([p["r"], p["r"]])
    p["r"][1, 2, 0] = math.nan
    with pytest.raises(UserError, match="r is not finite at state 2, action 0"):
        TabularMDP(**p)


def test_successor_discount_fault():
    p = parts()
    p["discount"] = p["discount"][..., None].expand(3, 2, 3).clone()
    p["discount"][1, 1, 2] = -0.5
    with pytest.raises(UserError, match=r"discount is -0\.5, outside .* state 1, action 1"):
        TabularMDP(**p)


def test_masked_pairs_need_not_sum_to_one_but_must_be_finite():
    p = parts()
    p["action_mask"] = torch.tensor([[True, True], [True, False], [True, True]])
    p["P"][1, 1], p["discount"][1, 1] = 0.0, 7.0
    TabularMDP(**p)
    p["r"][1, 1] = -math.inf
    with pytest.raises(UserError, match="r is not finite at state 1, action 1"):
        TabularMDP(**p)


@given(mdps(masked=True, channels=2))
def test_strategy_is_valid(mdp):
    mdp.validate()


@given(st.data())
def test_policy_quantities(data):
    mdp = data.draw(mdps(masked=True))
    policy = data.draw(policies(mdp))
    for s in range(mdp.num_states):
        reward = sum(float(policy[s, a] * mdp.r[s, a]) for a in range(mdp.num_actions))
        assert float(mdp.policy_reward(policy)[s]) == pytest.approx(reward)
        for t in range(mdp.num_states):
            mass = sum(float(policy[s, a] * mdp.discount[s, a] * mdp.P[s, a, t]) for a in range(mdp.num_actions))
            assert float(mdp.policy_kernel(policy)[s, t]) == pytest.approx(mass)


@given(extreme_mdps(), st.randoms(use_true_random=False))
def test_permutation_of_states(mdp, random):
    """Renaming states renames values: relative 1e-9 at rewards of 1e6 and discounts of 0.9999."""
    order = list(range(mdp.num_states))
    random.shuffle(order)
    other = TabularMDP(mdp.P[order][:, :, order], mdp.r[order], mdp.mu0[order], mdp.discount[order])
    policy = torch.full_like(mdp.r, 1 / mdp.num_actions)
    V, W = policy_value(mdp, policy), policy_value(other, policy)
    assert torch.allclose(V[order], W, rtol=1e-9, atol=1e-9 * float(mdp.r.abs().max()))


def test_channels_scalarize_and_batch():
    mdp = garnet(Rng(1), 5, 4, 2, channels=3)
    assert mdp.num_channels == 3
    assert mdp.batch_shape == (5,)
    weights = Rng(2).simplex(5, 3)
    mixed = mdp.scalarize(weights)
    assert torch.allclose(mixed.r[1], sum(weights[1, k] * mdp.r[1, k] for k in range(3)))
    assert torch.equal(mdp.channel(2).r, mdp.r[:, 2])
    policy = Rng(3).simplex(5, 4, 2)
    assert mdp.policy_reward(policy).shape == (5, 3, 4)
    assert torch.allclose(mdp[1].policy_reward(policy[1]), mdp.policy_reward(policy)[1])


def test_float32_rows_are_accepted():
    mdp = garnet(Rng(1), 3, 50, 2, branching=50).to(dtype=torch.float32)
    mdp.validate()
    assert mdp.dtype == torch.float32
