"""Single parts by hand: aggregations by loops, masks, weights, rewards, samplers, replays, references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law
from token_batches import ANSWER, PROMPT, gradient, loss, rollout

from fenchel.errors import UserError
from fenchel.llm import get_recipe
from fenchel.llm.options import with_options
from fenchel.llm.parts import advantages, aggregates, masks, ratios, regularisers, samplers, surrogates, token_weights
from fenchel.llm.parts.demonstrations import Demonstrations
from fenchel.llm.parts.references import Fixed, LastIterate, Moving
from fenchel.llm.parts.replays import RingReplay, SuccessReplay
from fenchel.llm.parts.rewards import Outcome, at_the_end
from fenchel.llm.rollout import Live
from fenchel.theory.objectives import preference
from fenchel.theory.rng import Streams

DATA, LIVE = rollout()
MASK = DATA.mask.numpy()
PLAIN = get_recipe("reinforce")


def by_hand(i, kept):
    """What each aggregation gives a token, by loops over replica i."""
    tokens, length = kept[i].sum(), kept[i].sum(-1)
    answers = (length > 0).sum()
    prompts = (kept[i].sum((1, 2)) > 0).sum()
    ones = kept[i].astype(float)
    return {
        "TokenMean": ones / tokens,
        "SequenceMean": ones / np.maximum(length, 1)[..., None] / answers,
        "SequenceSum": ones / answers,
        "ConstantLength": ones / answers / ANSWER,
        "TokenSum": ones,
        "PromptMean": ones / np.maximum(kept[i].sum((1, 2)), 1)[:, None, None] / prompts,
    }


@pytest.mark.parametrize("name", by_hand(0, MASK))
@pytest.mark.parametrize("dropping", [False, True])
def test_aggregations(name, dropping):
    """Answers and groups that are left out count in no denominator."""
    kept = MASK.copy()
    if dropping:
        kept[:, 1] = False
        kept[:, 2, 0] = False
    counted = torch.tensor(kept).double()
    weights = getattr(aggregates, name)()(counted, DATA)
    for i in range(2):
        np.testing.assert_allclose(weights[i].numpy(), by_hand(i, kept)[name])
    if name == "ConstantLength":
        again = aggregates.ConstantLength(length=10)(counted, DATA)
        torch.testing.assert_close(again, weights * ANSWER / 10)
        widest = aggregates.ConstantLength()(counted, replace(DATA, max_answer=0))
        torch.testing.assert_close(widest, weights * ANSWER / (PROMPT + ANSWER))


def test_nothing_left_is_nothing_lost():
    """With every group uniform the loss and its gradient are 0, not NaN."""
    same = replace(DATA, reward=torch.ones_like(DATA.reward))
    for key in ("gpg", "dapo", "nft", "reinforce_rej"):
        value, slope = gradient(get_recipe(key), same, LIVE)
        assert (value == 0).all()
        assert (slope == 0).all(), key


def test_a_loss_per_answer_weighs_as_its_tokens_do():
    """GSPO under a token mean: each answer's loss times its share of the tokens."""
    recipe = replace(get_recipe("gspo"), aggregate=aggregates.TokenMean())
    each = replace(get_recipe("gspo"), aggregate=aggregates.TokenSum())
    prepared = each.prepare(DATA)
    live = Live(LIVE["logp"])
    element = each.surrogate(each.ratio(live, prepared), live, prepared)
    length = DATA.mask.sum(-1)
    expected = (element * length).sum((1, 2)) / length.sum((1, 2))
    torch.testing.assert_close(loss(recipe, DATA, LIVE), expected)


def test_the_alpha_of_gpg_counts_groups_not_scores():
    """verl divides by the number of non-zero scores: with 1 right answer of 4 in every group it multiplies by 4."""
    verdict = torch.zeros_like(DATA.reward)
    verdict[..., 0] = 1.0
    data, gpg = replace(DATA, reward=verdict), get_recipe("gpg")
    plain = gradient(replace(gpg, mask=()), data, LIVE)[1]
    torch.testing.assert_close(gradient(gpg, data, LIVE)[1], plain)  # no group is uniform: alpha = 1
    released = verdict[0].numel() / torch.count_nonzero(verdict[0])
    assert released == 4


def test_rewards_stand_at_the_last_token():
    token = at_the_end(DATA.reward, DATA.mask)
    torch.testing.assert_close(token.sum(-1), DATA.reward)
    last = PROMPT + DATA.mask.sum(-1) - 1
    torch.testing.assert_close(token.gather(-1, last[..., None])[..., 0], DATA.reward)
    several = torch.stack([DATA.reward, 2 * DATA.reward], -1)
    both = Outcome(weights=(0.5, 0.25))(replace(DATA, reward=several))
    torch.testing.assert_close(both, token)
    torch.testing.assert_close(Outcome()(replace(DATA, reward=several)), 3 * token)
    with pytest.raises(UserError, match="weights has 3 numbers for 2 rewards"):
        Outcome(weights=(1.0, 1.0, 1.0))(replace(DATA, reward=several))


def test_kl_in_the_reward_is_paid_token_by_token():
    recipe = get_recipe("rloo")
    reward = with_options(recipe, beta=0.5).reward(DATA)
    expected = at_the_end(DATA.reward, DATA.mask) - 0.5 * (DATA.old_logp - DATA.ref_logp)
    torch.testing.assert_close(reward, expected)


def test_gae_by_loops():
    """Values outside the answer do not matter; the last token has no successor."""
    part = advantages.GAE(gamma=0.9, lam=0.7, lam_critic=0.3, whiten=False)
    reward = at_the_end(DATA.reward, DATA.mask)
    got, targets = part(DATA, reward, DATA.mask.double()), part.targets(DATA, reward)
    for index in np.ndindex(2, 4, 4):
        steps = np.flatnonzero(MASK[index])
        v, r = DATA.value[index].numpy(), reward[index].numpy()
        for lam, found in ((0.7, got[index]), (0.3, targets[index] - DATA.value[index])):
            carry = 0.0
            for t in steps[::-1]:
                following = v[t + 1] if t + 1 in steps else 0.0
                carry = r[t] + 0.9 * following - v[t] + (0.9 * lam * carry if t + 1 in steps else 0.0)
                assert found[t].item() == pytest.approx(carry)


def test_a_ratio_per_answer_takes_no_advantage_per_token():
    recipe = replace(get_recipe("ppo"), ratio=ratios.GeometricRatio(), critic=None)
    with pytest.raises(UserError, match="use a ratio per token"):
        loss(recipe, DATA, LIVE)
    token = replace(get_recipe("ppo"), ratio=ratios.GeometricTokenRatio())
    assert loss(token, DATA, LIVE).isfinite().all()


@pytest.mark.parametrize("high", [0.5, 2.0])
def test_clipped_weights_keep_the_gradient(high):
    recipe = replace(PLAIN, ratio=ratios.TokenRatio(), surrogate=surrogates.ClippedWeight(high=high, low=0.1))
    slope = gradient(recipe, DATA, LIVE)[1]
    ratio = (LIVE["logp"] - DATA.old_logp).exp().detach()
    expected = -ratio.clamp(0.1, high) * DATA.reward[..., None] * DATA.mask / 16
    torch.testing.assert_close(slope, expected)


def test_dual_clip_bounds_the_loss_of_bad_answers():
    far = {**LIVE, "logp": (DATA.old_logp + 3.0 * DATA.mask).requires_grad_()}
    recipe = replace(get_recipe("grpo"), regulariser=(), surrogate=surrogates.DualClip(dual_clip=2.0))
    slope = gradient(recipe, DATA, far)[1]
    assert (slope == 0).all()  # above for A > 0, beyond the dual clip for A < 0
    free = replace(recipe, surrogate=surrogates.Clip())
    assert (gradient(free, DATA, far)[1] != 0).any()


def test_masks_of_data():
    reward = DATA.reward
    assert not masks.DropUniform()(DATA, reward)[:, 0].any()
    assert masks.DropUniform()(DATA, reward)[:, 1:].all()
    torch.testing.assert_close(masks.DropTruncated()(DATA, reward), ~DATA.truncated)
    band = masks.DifficultyBand(low=-0.1, high=0.2)(DATA, reward)
    mean = reward.mean(-1)
    torch.testing.assert_close(band[..., 0], (mean >= -0.1) & (mean <= 0.2))
    torch.testing.assert_close(masks.OnlyRight(above=0.3)(DATA, reward), reward > 0.3)


def test_the_live_mask_drops_bad_answers_that_the_policy_has_left():
    recipe = replace(get_recipe("dr_grpo"), surrogate=surrogates.Importance(), mask=(masks.OffPolicySequences(0.05),))
    slope = gradient(recipe, DATA, LIVE)[1]
    free = gradient(replace(recipe, mask=()), DATA, LIVE)[1]
    drift = -(LIVE["logp"] - DATA.old_logp).detach().sum(-1) / DATA.mask.sum(-1)
    bad = DATA.reward < DATA.reward.mean(-1, keepdim=True)
    dropped = bad & (drift > 0.05)
    assert dropped.any()
    assert (slope[dropped] == 0).all()
    torch.testing.assert_close(slope[~dropped], free[~dropped])  # denominators stay


def test_weights_of_tokens():
    ratio = (DATA.old_logp - DATA.sampler_logp).exp()
    counted = DATA.mask.double()
    capped = token_weights.TruncatedImportance(cap=1.1)(DATA, counted)
    torch.testing.assert_close(capped, ratio.clamp(max=1.1))
    whole = token_weights.TruncatedImportance(cap=1.1, level="sequence")(DATA, counted)
    expected = (DATA.old_logp - DATA.sampler_logp).sum(-1, keepdim=True).exp().clamp(max=1.1)
    torch.testing.assert_close(whole, expected.expand_as(ratio))
    band = token_weights.RatioBand(low=0.9, high=1.2)(DATA, counted)
    torch.testing.assert_close(band, ((ratio >= 0.9) & (ratio <= 1.2)).double())
    top = token_weights.TopEntropy(share=0.25)(DATA, counted)
    for i in range(2):
        h = DATA.entropy[i][DATA.mask[i]]
        assert top[i].sum() == int(np.ceil(0.25 * len(h)))
        assert DATA.entropy[i][top[i] > 0].min() >= h.sort(descending=True).values[int(top[i].sum()) - 1]
    weighted = replace(PLAIN, token_weight=(token_weights.TruncatedImportance(cap=1.1),))
    torch.testing.assert_close(gradient(weighted, DATA, LIVE)[1], gradient(PLAIN, DATA, LIVE)[1] * capped)


def test_the_entropy_bonus_reaches_the_tokens_of_largest_entropy():
    recipe = replace(PLAIN, regulariser=(regularisers.Entropy(coefficient=0.5, entropy_share=0.25),))
    value = loss(recipe, DATA, LIVE) - loss(PLAIN, DATA, LIVE)
    top = token_weights.TopEntropy(share=0.25)(DATA, DATA.mask.double())
    torch.testing.assert_close(value, -0.5 * (LIVE["entropy"] * top).sum((1, 2, 3)) / 16)


PAIRS = {
    "h_dpo": lambda p, r, n, h: preference.h_dpo(p[0], p[1], r[0], r[1], beta=0.3, alpha=0.8),
    "f_dpo": lambda p, r, n, h: preference.f_dpo(p[0] - r[0], p[1] - r[1], beta=0.3, divergence="js"),
    "rpo": lambda p, r, n, h: preference.rpo(p[0] - r[0], p[1] - r[1], p[0], beta=0.3, eta=0.2),
    "simpo": lambda p, r, n, h: preference.simpo(p[0] / n[0], p[1] / n[1], beta=0.3, margin=0.4),
    "r_dpo": lambda p, r, n, h: preference.length_dpo(p[0] - r[0], p[1] - r[1], *n, beta=0.3, penalty=0.2),
    "cpl": lambda p, r, n, h: preference.cpl(p[0], p[1], alpha=0.3, conservative=0.5),
}
OPTIONS = {
    "h_dpo": {"alpha": 0.8, "beta": 0.3},
    "f_dpo": {"beta": 0.3},
    "rpo": {"beta": 0.3, "sft_weight": 0.06},
    "simpo": {"beta": 0.3, "margin": 0.4},
    "r_dpo": {"beta": 0.3, "penalty": 0.2},
    "cpl": {"alpha": 0.3, "conservative": 0.5},
}


@pytest.mark.parametrize("key", PAIRS)
def test_scores_and_links_make_the_named_objectives(key):
    data, live = rollout(G=2)
    logp, ref = ([x[..., i, :].sum(-1) for i in (0, 1)] for x in (live["logp"], data.ref_logp))
    length = [data.mask[..., i, :].sum(-1).double() for i in (0, 1)]
    expected = PAIRS[key](logp, ref, length, None).mean(-1)
    torch.testing.assert_close(loss(with_options(get_recipe(key), **OPTIONS[key]), data, live), expected)


def test_a_baseline_of_kto_is_never_negative():
    data, live = rollout(G=2)
    recipe = get_recipe("kto")
    none = loss(recipe, replace(data, kl_estimate=None), live)
    torch.testing.assert_close(loss(recipe, replace(data, kl_estimate=-data.kl_estimate), live), none)
    assert (loss(recipe, data, live) != none).all()


@pytest.mark.parametrize(("key", "option"), [("copg", "beta"), ("rebel", "eta"), ("dno", "eta")])
def test_pairs_of_a_group_are_averaged(key, option):
    """Over all ordered pairs of different answers, with the objective's own scale."""
    from fenchel.theory.objectives import regression

    recipe = with_options(get_recipe(key), **{option: 0.7})
    prepared = recipe.prepare(DATA)
    base = DATA.ref_logp if key == "copg" else DATA.old_logp
    rho, a = (LIVE["logp"] - base).sum(-1), prepared.advantage
    objective = {"copg": regression.contrastive, "rebel": preference.rebel, "dno": preference.dno}[key]
    each = [
        objective(rho[..., i], rho[..., j], a[..., i] - a[..., j], **{option: 0.7})
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    torch.testing.assert_close(loss(recipe, DATA, LIVE), torch.stack(each).mean((0, 2)))


def test_the_discount_counts_from_the_answers_first_token():
    recipe = with_options(get_recipe("cpl"), gamma=0.5, alpha=1.0, conservative=1.0)
    data, live = rollout(G=2)
    score = torch.zeros(2, 4, 2, dtype=torch.float64)
    for index in np.ndindex(2, 4, 2):
        for age, t in enumerate(np.flatnonzero(data.mask[index].numpy())):
            score[index] += 0.5**age * live["logp"][index][t].detach()
    expected = torch.log1p(torch.exp(score[..., 1] - score[..., 0])).mean(-1)
    torch.testing.assert_close(loss(recipe, data, live), expected)


def test_references_move_when_they_should():
    assert [Fixed().rate(s) for s in range(4)] == [0, 0, 0, 0]
    assert [Moving(alpha=0.5, every=2).rate(s) for s in range(4)] == [0, 0.5, 0, 0.5]
    assert [LastIterate(every=3).rate(s) for s in range(6)] == [0, 0, 1, 0, 0, 1]


def test_demonstrations_add_up_and_fade():
    part = Demonstrations(sft=0.4, sft_end=0.1)
    logp, mask = LIVE["logp"].flatten(1, 2), DATA.mask.flatten(1, 2)
    count = mask.sum((1, 2))
    whole = part.loss(logp, mask, count)
    torch.testing.assert_close(whole, -0.4 * (logp * mask).sum((1, 2)) / count)
    halves = part.loss(logp[:, :7], mask[:, :7], count) + part.loss(logp[:, 7:], mask[:, 7:], count)
    torch.testing.assert_close(halves, whole)
    torch.testing.assert_close(part.loss(logp, mask, count, progress=0.5), whole * 0.25 / 0.4)


def uniforms(sampler, prompts, counter, seeds=(0, 1)):
    return Streams(list(seeds)).uniform("sampler", (sampler.DRAWS, prompts), counter)


@pytest.mark.parametrize("sampler", [samplers.Uniform(), samplers.Difficulty(), samplers.UCB(), samplers.Thompson()])
def test_samplers_draw_without_repeats_and_as_single_runs(sampler):
    state = sampler.init(2, 9)
    alone = sampler.init(1, 9)
    for step in range(5):
        ids = sampler.draw(state, uniforms(sampler, 9, step), 4)
        assert all(len(set(row.tolist())) == 4 for row in ids)
        reward = (Streams([0, 1]).uniform("reward", (4, 3), step) < 0.5).float()
        state = sampler.update(state, ids, reward)
        mine = sampler.draw(alone, uniforms(sampler, 9, step, [1]), 4)
        assert torch.equal(mine, ids[1:])
        alone = sampler.update(alone, mine, reward[1:])
    with pytest.raises(UserError, match="10 prompts are asked for, but there are 9"):
        sampler.draw(state, uniforms(sampler, 9, 0), 10)


@pytest.mark.parametrize("sampler", [samplers.Difficulty(outside=1e-3), samplers.UCB(), samplers.Thompson()])
def test_samplers_come_to_prefer_what_teaches(sampler):
    """Three prompts are always solved, three never, three half of the time."""
    state, seen = sampler.init(1, 9), torch.zeros(9)
    for step in range(150):
        ids = sampler.draw(state, uniforms(sampler, 9, step, [0]), 3)
        coin = (Streams([3]).uniform("coin", (3, 8), step) < 0.5).float()
        kind = (ids // 3)[..., None]
        state = sampler.update(state, ids, torch.where(kind == 0, torch.ones(()), torch.where(kind == 1, 0.0, coin)))
        seen += torch.nn.functional.one_hot(ids[0], 9).sum(0) * (step >= 50)
    assert seen[6:].sum() > 0.6 * seen.sum()


def test_thompson_counts_by_hand():
    sampler = samplers.Thompson(forget=0.5, drift=0.9)
    state = {"success": torch.tensor([[3.0, 2.0]]).double(), "failure": torch.tensor([[1.0, 5.0]]).double()}
    new = sampler.update(state, torch.tensor([[0]]), torch.tensor([[[1.0, 1.0, 0.0]]]))
    torch.testing.assert_close(new["success"], torch.tensor([[3.5, 1.9]]).double())
    torch.testing.assert_close(new["failure"], torch.tensor([[1.5, 4.6]]).double())


def test_thompson_draws_have_the_law_they_should():
    """A Beta number from two Gamma quantiles: mean and variance over a grid of uniforms."""
    grid = (torch.arange(120, dtype=torch.float64) + 0.5) / 120
    u, w = torch.meshgrid(grid, grid, indexing="ij")
    x, y = (samplers.gamma_quantile(torch.full_like(u, a), v) for a, v in ((3.0, u), (1.5, w)))
    p = x / (x + y)
    assert p.mean().item() == pytest.approx(beta_law.mean(3.0, 1.5), abs=2e-3)
    assert p.var().item() == pytest.approx(beta_law.var(3.0, 1.5), abs=2e-3)


def test_ring_replay_gives_back_what_was_pushed():
    part = RingReplay(capacity=5, replayed=3)
    state, numbers = part.init(DATA), Streams([0, 1]).uniform("ring", (3,), 0)
    first = part.mix(state, DATA, numbers)
    torch.testing.assert_close(first.reward[:, 4:], DATA.reward[:, :3])  # nothing yet: the batch's own
    other, _ = rollout(seed=7)
    state = part.push(part.push(state, DATA), other)
    assert (state["pushed"] == 8).all()
    mixed = part.mix(state, DATA, numbers)
    assert mixed.mask.shape[1] == 7
    kept = torch.cat([DATA.reward[:, 3:], other.reward], 1)  # the last five groups
    for i in range(2):
        assert all(any(torch.equal(g, k) for k in kept[i]) for g in mixed.reward[i, 4:])
    assert loss(get_recipe("gvpo"), mixed, {"logp": mixed.old_logp.clone().requires_grad_()}).isfinite().all()


def test_success_replay_rescues_failed_groups():
    part = SuccessReplay()
    ids = torch.tensor([[4, 0, 2, 1], [1, 3, 0, 2]])
    failed = replace(DATA, reward=-DATA.reward.abs())
    state = part.push(part.init(DATA, 6), ids, DATA)
    success = (DATA.reward > 0).any(-1)
    torch.testing.assert_close(state["filled"].gather(1, ids), success)
    mixed = part.mix(state, ids, failed)
    best = DATA.reward.amax(-1)
    torch.testing.assert_close(mixed.reward[..., 0], torch.where(success, best, failed.reward[..., 0]))
    torch.testing.assert_close(mixed.reward[..., 1:], failed.reward[..., 1:])
    untouched = part.mix(state, ids, DATA)
    torch.testing.assert_close(untouched.reward[success], DATA.reward[success])


def test_bound_options_have_one_number_per_replica():
    recipe = with_options(get_recipe("grpo"), beta=[0.1, 0.2]).bind(2, torch.float64)
    torch.testing.assert_close(recipe.regulariser[0].beta, torch.tensor([0.1, 0.2]).double())
    torch.testing.assert_close(recipe.surrogate.clip, torch.tensor([0.2, 0.2]).double())
    with pytest.raises(UserError, match="beta has 2 values for 3 replicas"):
        with_options(get_recipe("grpo"), beta=[0.1, 0.2]).bind(3)
    plain = gradient(with_options(get_recipe("grpo"), beta=0.2), DATA, LIVE)[1]
    torch.testing.assert_close(gradient(recipe, DATA, LIVE)[1][1], plain[1], rtol=1e-12, atol=1e-15)
