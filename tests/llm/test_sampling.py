"""What is drawn, with which probability, and where it ends."""

from __future__ import annotations

import pytest
import torch
from token_problems import KINDS, PROMPTS, TREE, P, T, V, everything, make

from fenchel.errors import UserError
from fenchel.llm.policies.tabular import Tabular
from fenchel.llm.sampling import Decoding, sample, support_of
from fenchel.llm.sequences import PAD, lengths, pad_left, unpack
from fenchel.theory.rng import Streams
from fenchel.theory.tokens import TokenTree

DECODINGS = (
    Decoding(),
    Decoding(temperature=0.6),
    Decoding(top_k=2),
    Decoding(top_p=0.7),
    Decoding(temperature=1.7, top_k=3, top_p=0.8),
)


def draw(policy, groups=16, max_new=T, counter=0, **options):
    prompts = pad_left(PROMPTS).expand(policy.R, -1, -1)
    rng = Streams(list(range(policy.R)))
    return sample(policy, prompts, groups, max_new, rng=rng, counter=counter, decoding=Decoding(**options))


def one(policy, token, max_new):
    return sample(policy, torch.tensor([[[token]]]), 1, max_new, rng=Streams([0]))


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_gives_the_numbers_of_the_whole_sequence(kind, decoding):
    """And the on-policy ratio of two training forwards is exactly 1, whatever was sampled."""
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        policy = make(kind, dtype=dtype)
        prompts = pad_left(PROMPTS).expand(policy.R, -1, -1)
        answers = sample(policy, prompts, 8, T, rng=Streams([0, 1][: policy.R]), decoding=decoding)
        tokens, mask = answers.tokens.flatten(1, 2), answers.mask.flatten(1, 2)
        support = None if answers.support is None else answers.support.flatten(1, 2)
        logp = policy.logp(tokens, mask, temperature=decoding.temperature, support=support)
        bound = 2e-5 if kind in ("llama", "lora") and dtype == torch.float32 else bound
        torch.testing.assert_close(answers.logp.flatten(1, 2), logp, rtol=bound, atol=bound)
        old = policy.frozen.logp(tokens, mask, temperature=decoding.temperature, support=support)
        assert ((logp - old).exp() == 1).all()
        if support is not None:  # the support is stored, or the ratio would not be that of the law sampled from
            again = support_of(policy, tokens, decoding)
            assert torch.equal(unpack(support, V)[mask], unpack(again, V)[mask])
            assert unpack(support, V)[~mask].all()
            untruncated = policy.logp(tokens, mask, temperature=decoding.temperature)
            assert (untruncated < logp).any()


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("kind", ["tabular", "transformer"])
def test_frequencies_are_probabilities(kind, decoding):
    """Pearson's statistic over all completions of each prompt."""
    policy = make(kind, [0])
    n = 4000
    answers = sample(policy, pad_left(PROMPTS)[None], n, T, rng=Streams([7]), decoding=decoding)
    tokens, mask = everything(1)
    support = support_of(policy, tokens, decoding)
    p = policy.logp(tokens, mask, temperature=decoding.temperature, support=support).sum(-1).exp()
    p = p.view(len(PROMPTS), -1)
    for x in range(len(PROMPTS)):
        rows = answers.answers[0, x].tolist()
        index = torch.tensor([TREE.index([token for token in row if token != PAD]) for row in rows])
        counts = torch.bincount(index, minlength=TREE.num_completions)
        assert counts[p[x] == 0].sum() == 0
        likely = p[x] * n > 5
        statistic = ((counts - p[x] * n).square() / (p[x] * n))[likely].sum()
        freedom = likely.sum() - 1
        assert statistic <= freedom + 6 * (2 * freedom) ** 0.5


def test_ends_and_truncation():
    policy = make("tabular", [0])
    answers = draw(policy, groups=64)
    ended = (answers.answers == 0).any(-1)
    assert torch.equal(answers.truncated, ~ended)
    assert ended.any()
    assert answers.truncated.any()
    length = lengths(answers.mask)
    assert (length[answers.truncated] == T).all()
    last = answers.answers.gather(-1, length.unsqueeze(-1) - 1).squeeze(-1)
    assert ((last == 0) == ended).all()
    assert (ended & (length == T)).any()  # ends exactly at the largest length
    assert (answers.answers.gather(-1, length.clamp(max=T - 1).unsqueeze(-1))[(length < T)] == PAD).all()
    assert answers.prompt == P
    assert not answers.mask[..., :P].any()
    assert (answers.logp[answers.mask] < 0).all()
    assert (answers.logp[~answers.mask] == 0).all()


def test_without_an_end_token_no_answer_is_truncated():
    tree = TokenTree(3, 2)
    policy = Tabular(Streams([0]), tree, scale=1.0)
    answers = sample(policy, torch.empty(1, 1, 0, dtype=torch.int64), 8, 2, rng=Streams([0]))
    assert answers.mask.all()
    assert not answers.truncated.any()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_the_likeliest_tokens(kind):
    policy = make(kind)
    answers = draw(policy, groups=2, temperature=0.0, top_k=2)
    assert answers.support is None
    tokens, mask = answers.tokens.flatten(1, 2), answers.mask.flatten(1, 2)
    assert torch.equal(policy.logits(tokens).argmax(-1)[mask], tokens[mask])
    assert (answers.logp == 0).all()


def test_ties_are_kept_together():
    z = torch.tensor([[[2.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 9.0, -9.0]]])
    kept = {
        Decoding(top_k=2): ["1110", "1111", "1110"],
        Decoding(top_k=1): ["1000", "1111", "0010"],
        Decoding(top_k=9): ["1111", "1111", "1111"],
        Decoding(top_p=0.5): ["1000", "1111", "0010"],
        Decoding(top_p=0.7): ["1110", "1111", "0010"],
        Decoding(top_k=2, top_p=0.5): ["1000", "1111", "0010"],
        Decoding(top_k=2, top_p=0.65): ["1110", "1111", "0010"],  # 0.58 of what is kept, of two tokens it would be 0.73
    }
    for decoding, rows in kept.items():
        bits = ["".join(str(int(b)) for b in row) for row in decoding.support(z)[0]]
        assert bits == rows, decoding


def test_top_p_is_of_what_top_k_left():
    z = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]).log()
    assert Decoding(top_p=0.6).support(z)[0, 0].tolist() == [True, True, False, False]
    assert Decoding(top_k=2, top_p=0.6).support(z)[0, 0].tolist() == [True, True, False, False]
    assert Decoding(top_k=2, top_p=0.55).support(z)[0, 0].tolist() == [True, False, False, False]  # 0.4 of 0.7


def test_numbers_depend_on_the_counter_and_the_seed_alone():
    policy = make("transformer")
    one, same, other = draw(policy), draw(policy), draw(policy, counter=1)
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_a_replica_that_is_nan_does_not_stop_the_others():
    policy, alone = make("transformer"), make("transformer", [1])
    policy.flat[0] = torch.nan
    prompts = pad_left(PROMPTS)[None]
    both = sample(policy, prompts.expand(2, -1, -1), 4, T, rng=Streams([0, 1]), decoding=Decoding(top_p=0.9))
    own = sample(alone, prompts, 4, T, rng=Streams([1]), decoding=Decoding(top_p=0.9))
    assert torch.equal(both.tokens[1:], own.tokens)
    assert torch.equal(both.logp[1:], own.logp)


@pytest.mark.parametrize(
    ("make_it", "sentence"),
    [
        (lambda: draw(make("transformer"), max_new=T + 1), "Prompts of 3 tokens and max_new=4 are over the context"),
        (lambda: draw(make("llama"), max_new=T + 1), "are over the context of 6"),
        (lambda: one(make("tabular", [0]), 2, 4), "max_new=4 is over the 3 tokens of the table's answers"),
        (lambda: one(make("tabular", [0]), 1, 3), "is none of the 3 that the table has"),
        (lambda: one(make("llama"), PAD, 3), "A prompt is empty"),
        (lambda: Decoding(temperature=-1.0), "temperature=-1.0 is not valid"),
        (lambda: Decoding(top_p=0.0), "top_p=0.0 is not valid"),
        (lambda: Decoding(top_k=0), "top_k=0 is not valid"),
    ],
)
def test_refusals(make_it, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        make_it()
    assert str(error.value).count(". ") == 0
