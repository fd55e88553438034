"""Values of prefixes: which prefix they are of, and that they are networks of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from token_problems import PROMPTS, TREE, P, T, everything, make, with_outputs

from fenchel.algorithms.networks import Adam
from fenchel.llm.policies.tabular import Tabular
from fenchel.llm.policies.value import PrefixValue, ValueHead
from fenchel.llm.sequences import PAD
from fenchel.theory.rng import Streams


def test_values_are_of_the_prefix_before_a_token():
    """Of a table, and of a linear head on its one-hot features, which reads out its own weights."""
    policy, values = make("tabular"), PrefixValue(Tabular(Streams([0, 1]), TREE, PROMPTS, outputs=1, scale=1.0))
    head = ValueHead(Streams([0, 1]), policy)
    weight, bias = head.frozen.weights
    tokens, _ = everything(2)
    there = TREE.mask.repeat(len(PROMPTS), 1)
    for v, table in ((head, (weight + bias)[:, : policy.states]), (values, values.body.table())):
        answer = v(F.pad(tokens, (0, 1), value=PAD))
        rows = table.view(2, len(PROMPTS), TREE.num_nodes)[:, :, TREE.nodes].flatten(1, 2)
        assert answer.shape == (2, *tokens.shape[1:2], P + T + 1)
        torch.testing.assert_close(answer[..., P : P + T][:, there], rows[:, there])
    ended = head(F.pad(tokens, (0, 1), value=PAD))[:, TREE.lengths.repeat(len(PROMPTS)) == T][..., -1]
    torch.testing.assert_close(ended, bias[..., 0].expand_as(ended))  # no feature is on after the end


@pytest.mark.parametrize("kind", ["tabular", "transformer", "tied"])
def test_values_are_networks(kind):
    policy, tokens = make(kind), everything(2)[0]
    for value in (ValueHead(Streams([0, 1]), policy, hidden=(16,)), PrefixValue(with_outputs(kind, 1))):
        assert value(tokens).shape == tokens.shape
        assert not value.frozen(tokens).requires_grad
        target, before = value.target(), value(tokens).detach()
        policy.grad.zero_()
        Adam(value, lr=0.1).step(value(tokens)[..., P].sum(1))
        assert policy.grad.abs().max() == 0
        assert not torch.equal(value(tokens), before)
        assert torch.equal(value.frozen(tokens), value(tokens))
        assert torch.equal(target(tokens), before)
        target.track(value, 1.0)
        assert torch.equal(target(tokens), value(tokens))
        assert list(value.state()) == ["flat"]
