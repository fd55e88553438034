"""Learners under options that are not their defaults: the same bits in every replica, no host sync, refusals."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fenchel.errors import UserError

VARIANTS = [
    ("f_dvl", {"extraction": "w"}),
    ("f_dvl", {"divergence": "kl"}),
    ("f_dvl", {"divergence": "tv", "lam": 0.8, "extraction": "w"}),
    ("f_dvl", {"divergence": "soft_chi2", "lam": 0.8}),
    ("f_dvl", {"variant": "paper", "lam": 0.8}),
    ("f_dvl", {"variant": "official"}),
    ("f_dvl", {"divergence": "kl", "variant": "official", "temperature": 4.0}),
    ("edac", {"diversity": 0.0}),
    ("edac", {"members": 3, "layer_norm": True}),
    ("cql", {"value_loss": "hl_gauss", "value_range": (-30.0, 5.0)}),
    ("demodice", {"normalised": False}),
    ("iq_learn", {"value": "initial", "divergence": "kl"}),
    ("iq_learn", {"value": "both"}),
    ("iql", {"extraction": "w"}),
    ("iql", {"value_loss": "hl_gauss", "value_range": (-30.0, 5.0)}),
    ("iql", {"value_loss": "two_hot", "value_range": (-30.0, 5.0)}),
    ("ivl", {"extraction": "w"}),
    ("lobsdice", {"closed_form": False}),
    ("lobsdice", {"normalised": False, "union": True}),
    ("odice", {"gradient": "true"}),
    ("odice", {"gradient": "semi", "variant": "official"}),
    ("odice", {"divergence": "kl"}),
    ("optidice", {"extraction": "weighted_bc"}),
    ("optidice", {"divergence": "kl", "residual_loss": "minimax"}),
    ("optidice", {"divergence": "chi2", "variant": "official"}),
    ("recoil", {"value": "dual"}),
    ("recoil", {"value": "dual", "divergence": "kl"}),
    ("recoil", {"variant": "official"}),
    ("smodice", {"match": "state_action", "divergence": "kl"}),
    ("smodice", {"variant": "official", "temperature": 0.05}),
    ("smodice", {"variant": "official", "divergence": "kl"}),
]


def flats(learner, replica):
    return {n: t[replica] for n, t in learner.state_dict().items() if n.endswith("flat")}


@pytest.mark.parametrize(("key", "options"), VARIANTS)
def test_replicas_are_single_runs_and_nothing_syncs(key, options, make, advance, tasks):
    many, single, default = (make(key, "box", s, **o) for s, o in [([3, 5, 7], options), ([7], options), ([7], {})])
    for learner in (many, single, default):
        advance(learner, "box", 12)
    mine, theirs, others = flats(many, 2), flats(single, 0), flats(default, 0)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert any(not torch.equal(theirs[name], others[name]) for name in theirs)
    assert all(flat.isfinite().all() for flat in theirs.values())
    batch = many.source(tasks["box"])(0)
    with FakeTensorMode(allow_non_fake_inputs=False):
        shaped = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in batch.items()}
        make(key, "box", [3, 5, 7], **options).update(shaped)


@pytest.mark.parametrize(
    ("key", "options", "sentence"),
    [
        ("f_dvl", {"divergence": "tv"}, "lam=0.5 is not valid; it lies strictly between 0.5 and 1 with divergence=tv"),
        ("f_dvl", {"divergence": "tv", "lam": [0.4]}, r"lam=\[0.4\] is not valid; it lies strictly between 0.5 and 1"),
        ("f_dvl", {"lam": 1.0}, "lam=1.0 is not valid; it lies strictly between 0 and 1"),
        ("f_dvl", {"divergence": "js"}, "divergence=js is not valid: where a residual exceeds 0.347 the loss is infin"),
        ("f_dvl", {"divergence": "chi"}, "divergence=chi is unknown; valid are .*Did you mean 'chi2'"),
        ("f_dvl", {"divergence": "soft_chi2", "variant": "official"}, "has no official f-DVL loss; valid are chi2, kl"),
        ("f_dvl", {"variant": "official", "extraction": "w"}, "extraction=w has no variant=official"),
        ("f_dvl", {"temperature": 0.0}, "temperature=0.0 is not valid; it lies above 0"),
        ("odice", {"temperature": [-1.0]}, r"temperature=\[-1.0\] is not valid; it lies above 0"),
        ("odice", {"lam": 0.0}, "lam=0.0 is not valid; it lies strictly between 0 and 1"),
        (
            "optidice",
            {"divergence": "hellinger"},
            "divergence=hellinger is not valid: where a residual exceeds 1 the lo",
        ),
        ("iql", {"value_loss": "hl_gauss"}, "value_loss=hl_gauss needs value_range, the lowest and the highest"),
        ("cql", {"value_loss": "two_hot", "value_range": (1.0, 1.0)}, r"value_range=\[1,1\] is not valid; valid are t"),
        ("optidice", {"divergence": "elu"}, "divergence=elu is unknown; valid are alpha:<order>, chi2, "),
        ("optidice", {"temperature": 0.0}, "temperature=0.0 is not valid; it lies above 0"),
        ("optidice", {"gamma": 1.0}, "gamma=1.0 is not valid; it lies below 1"),
        ("odice", {"divergence": "tv", "lam": 0.8}, "divergence=tv is not valid: where a residual exceeds 0.5"),
        ("demodice", {"temperature": 0.0}, "temperature=0.0 is not valid; it lies above 0"),
        ("demodice", {"gamma": 1.0}, "gamma=1.0 is not valid; it lies below 1"),
        ("iq_learn", {"alpha": 0.0}, "0.0 is not valid; it lies above 0"),
        ("lobsdice", {"alpha": [0.0], "closed_form": False}, "not valid with closed_form=false; it lies above 0"),
        ("recoil", {"beta": [1.0]}, r"beta=\[1.0\] is not valid; it lies strictly between 0 and 1"),
        ("recoil", {"divergence": "kl"}, "divergence=kl is not valid with value=implicit; valid is chi2"),
        (
            "recoil",
            {"value": "dual", "variant": "official"},
            "value=dual has no variant=official; valid are value=impl",
        ),
        ("smodice", {"divergence": "js"}, "divergence=js is not valid: where a residual exceeds 0.347"),
        ("smodice", {"divergence": "soft_chi2", "variant": "official"}, "has no variant=official; valid are chi2, kl"),
    ],
)
def test_refused_when_built(key, options, sentence, make):
    with pytest.raises(UserError, match=sentence):
        make(key, "box", **options)


def test_rebrac_reads_the_next_action_of_the_same_episode(make, tasks):
    """Rows before a time-out have none and are not drawn; after a terminal it does not matter."""
    data, learner = tasks["box"].dataset(), make("rebrac", "box")
    rows = learner.select(data)
    assert set(rows.tolist()) == set(range(len(data))) - set(data.timeout.nonzero()[:, 0].tolist())
    inner = rows[~data.terminal[rows]]
    column = learner.columns(data)["next_action"]
    assert torch.equal(learner.spec.action.scale(column[inner]), data.action[inner + 1])
