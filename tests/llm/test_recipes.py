"""What every recipe owes: partitions add up, padding and order do not matter, options do, replicas keep their bits."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_batches import ANSWER, arguments, gradient, loss, rollout, size

from fenchel.errors import UserError
from fenchel.llm import RECIPES, get_recipe
from fenchel.llm.options import options, owners, with_options
from fenchel.llm.parts.ratios import NoRatio
from fenchel.llm.parts.surrogates import Reinforce
from fenchel.llm.recipe import PreferenceRecipe

N = 4
# the same number or gradient by declaration: (one, other)
SAME = {("dpo", "tr_dpo")}  # they differ in how the reference moves
# an added c(x) changes nothing; rewards of the others have a zero (or a threshold) that means something
SHIFT_FREE = (
    "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "opo", "oblr_po", "gpg", "reinforce_pp_baseline", "mdpo",
    "gvpo", "flow_tb", "rebel", "copg", "rover", "exo_rw",
)  # fmt: skip


def batch(recipe, **shape):
    return rollout(N=N, G=size(recipe), **shape)


@pytest.mark.parametrize("key", RECIPES)
@settings(max_examples=4)
@given(cuts=st.sets(st.integers(1, N - 1)), seed=st.integers(0, 50))
def test_micro_batches_add_up(key, cuts, seed):
    """Any partition of the prompts gives the batch's loss and gradient to 1e-12 in float64."""
    recipe = get_recipe(key)
    data, live = batch(recipe, seed=seed)
    whole, slope = gradient(recipe, data, live)
    edges = [0, *sorted(cuts), N]
    parts = [gradient(recipe, data, live, slice(a, b)) for a, b in itertools.pairwise(edges)]
    scale = 1 + whole.abs().max()
    torch.testing.assert_close(sum(p[0] for p in parts) / scale, whole / scale, rtol=0, atol=1e-12)
    torch.testing.assert_close(sum(p[1] for p in parts) / scale, slope / scale, rtol=0, atol=1e-12)


def padded(x, left, right, value):
    return torch.nn.functional.pad(x, (left, right), value=value)


@pytest.mark.parametrize("key", RECIPES)
@settings(max_examples=4)
@given(left=st.integers(0, 3), right=st.integers(0, 3), seed=st.integers(0, 50))
def test_padding_changes_nothing(key, left, right, seed):
    """Whatever stands there: what a policy says of padding may be NaN."""
    recipe = get_recipe(key)
    data, live = batch(recipe, seed=seed)
    tokenwise = {
        f.name: x for f in fields(data) if isinstance(x := getattr(data, f.name), torch.Tensor) and x.ndim == 4
    }
    del tokenwise["win"]
    wide = {k: padded(x, left, right, {"tokens": -1, "mask": False}.get(k, torch.nan)) for k, x in tokenwise.items()}
    wide |= {k: wide[k].nan_to_num() for k in ("old_logp", "ref_logp", "sampler_logp")}  # 0 by a policy's contract
    whole, slope = gradient(recipe, data, live)
    pads = {"logp": 0.0}
    stretched = {k: padded(x.detach(), left, right, pads.get(k, torch.nan)).requires_grad_() for k, x in live.items()}
    again, longer = gradient(recipe, replace(data, **wide), stretched)
    scale = 1 + whole.abs().max()
    torch.testing.assert_close(again / scale, whole / scale, rtol=0, atol=1e-12)
    torch.testing.assert_close(longer / scale, padded(slope, left, right, 0.0) / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", RECIPES)
def test_the_order_of_prompts_and_answers_does_not_matter(key):
    recipe = get_recipe(key)
    data, live = batch(recipe)
    G = data.mask.shape[2]
    prompts, answers = torch.tensor([2, 0, 3, 1]), torch.arange(G)
    if not isinstance(recipe, PreferenceRecipe) or G > 2:
        answers = answers.flip(0)
    moved = {}
    for f in fields(data):
        x = getattr(data, f.name)
        if isinstance(x, torch.Tensor):
            x = x[:, prompts]
            if x.ndim > 2 and f.name != "reference_reward":
                x = x[:, :, answers]
            moved[f.name] = x[..., answers] if f.name == "win" else x
    shuffled = {k: x.detach()[:, prompts][:, :, answers].requires_grad_() for k, x in live.items()}
    whole, slope = gradient(recipe, data, live)
    again, turned = gradient(recipe, replace(data, **moved), shuffled)
    torch.testing.assert_close(again, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned, slope[:, prompts][:, :, answers], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("key", SHIFT_FREE)
@settings(max_examples=4)
@given(shift=st.floats(-3, 3), seed=st.integers(0, 50))
def test_a_reward_of_the_prompt_alone_changes_no_gradient(key, shift, seed):
    recipe = get_recipe(key)
    data, live = batch(recipe, seed=seed)
    shifts = shift * torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)[None, :, None]
    slope = gradient(recipe, data, live)[1]
    moved = gradient(recipe, replace(data, reward=data.reward + shifts), live)[1]
    torch.testing.assert_close(moved, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("key", [k for k in RECIPES if {"clip", "high", "dual_clip"} & set(owners(get_recipe(k)))])
def test_on_policy_a_clip_does_nothing(key):
    """At log pi = log pi_old every ratio is 1: widening all clips changes neither loss nor gradient, which is
    REINFORCE's with the recipe's advantages."""
    recipe = get_recipe(key)
    clips = {"clip": 0.99, "clip_high": 9.0, "dual_clip": 50.0, "high": 50.0}
    mine = {k: v for k, v in clips.items() if k in owners(recipe)}
    data, live = batch(recipe)
    live["logp"] = data.old_logp.clone().requires_grad_()
    whole, slope = gradient(recipe, data, live)
    again, other = gradient(with_options(recipe, **mine), data, live)
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    torch.testing.assert_close(other, slope, rtol=0, atol=0)
    plain = replace(recipe, ratio=NoRatio(), surrogate=Reinforce())
    torch.testing.assert_close(gradient(plain, data, live)[1], slope, rtol=1e-12, atol=1e-15)


def test_no_two_recipes_coincide():
    """Neither in value nor in gradient on one batch, unless declared."""
    found = {}
    for key in RECIPES:
        recipe = get_recipe(key)
        data, live = rollout(N=N, G=2)
        found[key] = gradient(with_same_scale(recipe), data, live)[1]
    for one, other in itertools.combinations(found, 2):
        if (one, other) not in SAME:
            assert not torch.allclose(found[one], found[other], rtol=1e-6, atol=1e-12), (one, other)
    for one, other in SAME:
        torch.testing.assert_close(found[one], found[other])
        assert get_recipe(one).reference != get_recipe(other).reference


def with_same_scale(recipe):
    """beta = 0.3 wherever there is one, so that what is left to differ is the formula."""
    return with_options(recipe, beta=0.3) if "beta" in owners(recipe) else recipe


OTHER = {
    "estimate": "k1", "gradient": "none", "divergence": "hellinger", "weighting": "difficulty", "level": "sequence",
    "weights": (-2.0,), "clip_high": 0.01, "dual_clip": 1.01, "length_alpha": 0.5, "value_clip": None, "length": 17,
    "clip": 0.02, "high": 0.7, "low": 1.5, "epsilon": 0.5, "floor": 0.9, "lam_critic": 0.2, "above": 0.5, "beta": 0.77,
    "gate": 10.0,
}  # fmt: skip
JOINT = {
    "nash_mp": {"estimate": {"estimate": "k2"}},
    "nsr": {"clip_high": {"positive": 1.0}},
}  # an option that another one switches on


def changed(name, value):
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    return value * 0.5 + 0.2


def imitation(recipe, data, live):
    """The loss on demonstrations at the start, half way and at the end."""
    sft = getattr(recipe, "sft", None)
    rows = live["logp"].detach().flatten(1, 2), data.mask.flatten(1, 2)
    count = torch.full((2,), 7.0, dtype=torch.float64)
    return sft and [sft.loss(*rows, count, progress).tolist() for progress in (0.0, 0.5, 1.0)]


@pytest.mark.parametrize("key", RECIPES)
def test_every_option_matters(key):
    """Changing any one of them changes the loss or its gradient, the reference's rate, or what demonstrations teach."""
    recipe = get_recipe(key)
    data, live = batch(recipe)
    for name, (part, _) in owners(recipe).items():
        base = with_options(recipe, **JOINT.get(key, {}).get(name, {}))
        value = changed(name, getattr(part, name))
        other = with_options(base, **{name: value})
        (whole, slope), (again, turned) = (gradient(r, data, live) for r in (base, other))
        rates = [[r.reference.rate(s) for s in range(40)] for r in (base, other)]
        taught = [imitation(r, data, live) for r in (base, other)]
        same = torch.equal(again, whole) and torch.equal(turned, slope) and rates[0] == rates[1]
        same = same and taught[0] == taught[1]
        assert not same, f"{key}: {name}={value} changes nothing"


def test_options_are_flat_and_refused_by_name():
    grpo = get_recipe("grpo")
    assert options(grpo).beta == 0.04
    assert options(with_options(grpo, beta=0.1, clip=[0.1, 0.2])).clip == [0.1, 0.2]
    with pytest.raises(UserError, match=r"betta is not an option; valid are .*Did you mean 'beta'"):
        with_options(grpo, betta=1.0)
    with pytest.raises(UserError, match="algo=grpoo is unknown"):
        get_recipe("grpoo")
    clash = replace(grpo, regulariser=(*grpo.regulariser, *grpo.regulariser))
    with pytest.raises(UserError, match="is an option of both"):
        options(clash)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", RECIPES)
def test_a_replica_keeps_its_bits(key, dtype):
    """Replica i of three, each with its own value of every float option, is the single run of that value."""
    recipe = get_recipe(key)
    swept = {n: p for n, (p, _) in owners(recipe).items() if isinstance(getattr(p, n), float)}
    swept = {n: getattr(p, n) for n, p in swept.items() if n not in ("epsilon",)}
    lists = {n: [v, 0.9 * v, 0.8 * v] for n, v in swept.items()}
    data, live = rollout(R=3, N=3, G=size(recipe), dtype=dtype)
    whole, slope = gradient(with_options(recipe, **lists).bind(3, dtype), data, live)
    for i in range(3):
        mine = with_options(recipe, **{n: v[i] for n, v in lists.items()}).bind(1, dtype)
        alone = {f.name: getattr(data, f.name) for f in fields(data)}
        alone = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in alone.items()}
        one = {k: v.detach()[i : i + 1].clone().requires_grad_() for k, v in live.items()}
        value, turned = gradient(mine, replace(data, **alone), one)
        assert torch.equal(value, whole[i : i + 1]), key
        assert torch.equal(turned, slope[i : i + 1]), key


@pytest.mark.parametrize("key", RECIPES)
def test_needs_are_told(key):
    """What a recipe does not name as needed may be missing; what it names is read."""
    recipe = get_recipe(key).bind(2, torch.float64)
    data, live = rollout(N=3, G=size(recipe))
    optional = [f.name for f in fields(data) if f.name not in ("tokens", "mask", "max_answer")]
    bare = replace(data, **{n: None for n in optional if n not in recipe.needs and n != "kl_estimate"})
    torch.testing.assert_close(loss(recipe, bare, live), loss(recipe, data, live), rtol=0, atol=0)
    for name in recipe.needs & set(optional):
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            loss(recipe, replace(data, **{name: None}), live)


@pytest.mark.parametrize("key", RECIPES)
def test_no_host_synchronisation(key):
    from torch._subclasses.fake_tensor import FakeTensorMode

    recipe = get_recipe(key).bind(2, torch.float64)
    data, live = batch(recipe)
    tensors = {f.name: getattr(data, f.name) for f in fields(data)}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
        now = {k: mode.from_tensor(v) for k, v in live.items()}
        prepared = recipe.prepare(replace(data, **fake))
        logp, extra = arguments(recipe, now)
        assert recipe.loss(prepared, logp, **extra).shape == (2,)


def test_titles_formulas_and_papers_are_there():
    for key in RECIPES:
        recipe = get_recipe(key)
        assert recipe.title, key
        assert recipe.formula, key
        assert recipe.family in ("policy-gradient", "regression", "preference", "game", "supervised"), key
    assert ANSWER
