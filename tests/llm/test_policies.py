"""Token policies against enumeration, against a reference implementation, and against themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from token_problems import KINDS, OURS, PROMPTS, TREE, P, T, V, everything, make, with_outputs

from fenchel.algorithms.networks import Adam
from fenchel.errors import UserError
from fenchel.llm.policies import make_policy
from fenchel.llm.policies.tabular import Tabular
from fenchel.llm.policies.transformer import SwiGLU, Transformer
from fenchel.llm.policies.value import PrefixValue, ValueHead
from fenchel.llm.sampling import Decoding, sample, support_of
from fenchel.llm.sequences import PAD, pad_left
from fenchel.theory.rng import Streams

DECODINGS = (
    Decoding(),
    Decoding(temperature=0.6),
    Decoding(top_k=2),
    Decoding(top_p=0.7),
    Decoding(temperature=1.7, top_k=3, top_p=0.8),
    Decoding(temperature=torch.tensor([[0.5], [2.0]]), top_p=torch.tensor([[0.9], [0.6]])),
)


def decodings(policy):
    return [d for d in DECODINGS if policy.R == 2 or not isinstance(d.temperature, torch.Tensor)]


def gradient(policy, numbers):
    policy.grad.zero_()
    numbers.sum().backward()
    return policy.grad.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_sequences_sum_to_one(kind):
    policy = make(kind)
    tokens, mask = everything(policy.R)
    for decoding in decodings(policy):
        support = support_of(policy, tokens, decoding)
        logp = policy.logp(tokens, mask, temperature=decoding.temperature, support=support)
        total = logp.sum(-1).exp().view(policy.R, len(PROMPTS), -1).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=1e-12)
        assert (logp == -torch.inf).any() == decoding.truncates


@pytest.mark.parametrize("kind", KINDS)
def test_all_numbers_are_those_of_the_logits(kind):
    """logp and entropy by hand, from `logits`, with the law of each place cut to its support and renormalised."""
    policy = make(kind)
    tokens, mask = everything(policy.R)
    for decoding in decodings(policy):
        support, temperature = support_of(policy, tokens, decoding), decoding.temperature
        z = policy.logits(tokens) / (temperature.view(-1, 1, 1, 1) if torch.is_tensor(temperature) else temperature)
        p = z.softmax(-1)
        if support is not None:
            bits = torch.arange(V)
            p = p * ((support[..., bits // 8] >> (bits % 8).to(torch.uint8)) & 1)
            p = p / p.sum(-1, keepdim=True)
        options = {"temperature": temperature, "support": support}
        logp, entropy = policy.logp_and_entropy(tokens, mask, **options)
        assert torch.equal(logp, policy.logp(tokens, mask, **options))
        assert torch.equal(entropy, policy.entropy(tokens, mask, **options))
        expected = p.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1).log()
        torch.testing.assert_close(logp[mask], expected[mask], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(entropy[mask], -torch.xlogy(p, p).sum(-1)[mask], rtol=1e-12, atol=1e-12)
        assert logp[~mask].abs().max() == entropy[~mask].abs().max() == 0


def test_what_a_support_says_outside_the_mask_does_not_count():
    policy = make("transformer")
    tokens, mask = everything(2)
    support = support_of(policy, tokens, Decoding(top_p=0.9))
    mask = mask & policy.logp(tokens, mask, support=support).isfinite()
    empty = support * mask.unsqueeze(-1)
    first, second = (torch.stack(policy.logp_and_entropy(tokens, mask, support=x)) for x in (support, empty))
    assert torch.equal(first, second)
    assert torch.equal(gradient(policy, first), gradient(policy, second))


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_changes_nothing(kind):
    policy = make(kind)
    policy.context += 2
    if hasattr(policy, "cos"):
        policy.cos, policy.sin = (F.pad(x, (0, 0, 0, 0, 0, 0, 0, 2)) for x in (policy.cos, policy.sin))
    tokens, mask = everything(policy.R)
    wider, wider_mask = F.pad(tokens, (2, 0), value=PAD), F.pad(mask, (2, 0))
    decoding = Decoding(temperature=0.7, top_k=3)
    outs = []
    for t, m in ((tokens, mask), (wider, wider_mask)):
        support = support_of(policy, t, decoding)
        logp, entropy = policy.logp_and_entropy(t, m, temperature=0.7, support=support)
        own = torch.where(m, logp.nan_to_num(neginf=0.0), 0.0)
        outs.append((logp[..., -T:], entropy[..., -T:], gradient(policy, own + entropy)))
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_law_does_not_see_what_follows(kind):
    policy = make(kind)
    tokens, _ = everything(policy.R)
    other = tokens.clone()
    other[..., P + 1 :] = (other[..., P + 1 :].clamp(min=0) + 1) % V
    assert torch.equal(policy.logits(tokens)[:, :, P : P + 2], policy.logits(other)[:, :, P : P + 2])
    assert not torch.equal(policy.logits(tokens)[:, :, P + 2], policy.logits(other)[:, :, P + 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_chunks_change_neither_value_nor_gradient(kind, chunk):
    policy = make(kind)
    tokens, mask = everything(policy.R)
    support = support_of(policy, tokens, Decoding(top_p=0.9))
    mask = mask & policy.logp(tokens, mask, support=support).isfinite()
    if chunk == 1:  # as many checkpoints as tokens
        tokens, mask, support = tokens[:, :4], mask[:, :4], support[:, :4]
    options = {"temperature": 0.8, "support": support}
    whole, pieces = (policy.logp_and_entropy(tokens, mask, chunk=c, **options) for c in (None, chunk))
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    gradients = [gradient(policy, (logp * logp + entropy)) for logp, entropy in (whole, pieces)]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_chunks_keep_less_in_memory():
    policy = Transformer(Streams([0]), 2000, 32, eos=0, width=16, heads=2, layers=1)
    tokens = Streams([1]).integers("tokens", 2000, (16, 32))

    def kept(chunk):
        sizes = {}
        note = lambda x: sizes.update({x.data_ptr(): x.nbytes}) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            policy.logp(tokens, tokens >= 0, chunk=chunk)
        return sum(sizes.values())

    logits = 2000 * 16 * 32 * 4
    assert kept(None) > logits
    assert kept(64) < 0.3 * kept(None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", OURS)
def test_replicas_have_the_bits_of_single_runs(kind, dtype):
    """Three steps of sampling, scoring and Adam, with a value head on a trunk of its own."""

    def run(seeds):
        rng, policy = Streams(seeds), make(kind, seeds, dtype)
        heads = ValueHead(rng, policy, hidden=(16,)), ValueHead(rng, policy)
        values = *heads, PrefixValue(with_outputs(kind, 2, seeds, dtype))
        optimiser = Adam(policy, *values, lr=0.01, clip=1.0)
        prompts, drawn = pad_left(PROMPTS).expand(len(seeds), -1, -1), []
        for step in range(3):
            answers = sample(policy, prompts, 5, T, rng=rng, counter=step, decoding=Decoding(0.8, 3, 0.9))
            tokens, mask, support = (x.flatten(1, 2) for x in (answers.tokens, answers.mask, answers.support))
            logp, entropy = policy.logp_and_entropy(tokens, mask, temperature=0.8, support=support)
            losses = [v(tokens).square().sum((1, 2)) for v in values]
            optimiser.step(logp.sum((1, 2)) + 0.1 * entropy.sum((1, 2)), *losses)
            drawn += [answers.tokens, answers.logp, answers.support, logp.detach()]
        return [*drawn, *(net.flat for net in (policy, *values))]

    together = run([3, 5, 7])
    for i, seed in enumerate([3, 5, 7]):
        for whole, own in zip(together, run([seed]), strict=True):
            assert torch.equal(whole[i : i + 1], own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_answer_has_the_bits_of_a_batch(dtype):
    """One row per product, which another routine might compute."""
    policy, prompt = make("transformer", [3, 5], dtype), torch.tensor([[[1, 2, 3]]])
    both = sample(policy, prompt.expand(2, -1, -1), 1, T, rng=Streams([3, 5]))
    for i, seed in enumerate([3, 5]):
        own = sample(make("transformer", [seed], dtype), prompt, 1, T, rng=Streams([seed]))
        assert torch.equal(both.tokens[i : i + 1], own.tokens)
        assert torch.equal(both.logp[i : i + 1], own.logp)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_target_and_state(kind):
    policy = make(kind)
    tokens, mask = everything(policy.R)
    target, before = policy.target(), policy.logp(tokens, mask).detach()
    assert torch.equal(policy.frozen.logp(tokens, mask), before)
    assert not policy.frozen.logp(tokens, mask).requires_grad
    Adam(policy, lr=0.1).step(policy.logp(tokens, mask).sum((1, 2)))
    after = policy.logp(tokens, mask).detach()
    assert not torch.equal(after, before)
    assert torch.equal(policy.frozen.logp(tokens, mask), after)
    assert torch.equal(target.logp(tokens, mask), before)
    assert not target.logp(tokens, mask).requires_grad
    target.track(policy, 0.25)
    assert not torch.equal(target.logp(tokens, mask), before)
    policy.state()["flat"].copy_(target.state()["flat"])
    torch.testing.assert_close(policy.logp(tokens, mask), target.logp(tokens, mask), rtol=0, atol=0)


def test_a_table_is_what_the_tree_says():
    policy = make("tabular")
    tokens, mask = everything(2)
    expected = TREE.token_log_probs(policy.log_policy()).flatten(1, 2)
    torch.testing.assert_close(policy.logp(tokens, mask)[..., P:], expected, rtol=1e-12, atol=1e-12)
    other = Tabular(Streams([0, 1]), TREE, PROMPTS, dtype=torch.float64)
    assert other.log_policy().exp().sub(1 / V).abs().max() < 1e-15
    other.assign(policy.log_policy().detach())
    torch.testing.assert_close(other.logp(tokens, mask), policy.logp(tokens, mask), rtol=1e-12, atol=1e-12)
    unknown = tokens[:, :1].clone()
    unknown[..., :P] = 3
    assert policy.logp(unknown, mask[:, :1])[mask[:, :1]].isnan().all()


def test_the_transformer_is_llama():
    """Another implementation with our matrices; it computes norms and angles in float32."""
    transformers = pytest.importorskip("transformers")
    ours = make("transformer", [0])
    config = transformers.LlamaConfig(
        vocab_size=V + 1, hidden_size=16, intermediate_size=ours.mlp, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, rms_norm_eps=1e-6,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    embedding, *blocks, head = (weight[0] for weight in ours.frozen.weights)
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(embedding[: V + 1])
        theirs.lm_head.weight.copy_(head.T[: V + 1])
        for i, layer in enumerate(theirs.model.layers):
            qkv, out, up, down = blocks[4 * i : 4 * i + 4]
            attention, mlp = layer.self_attn, layer.mlp
            parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
            parts += (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            for part, matrix in zip(parts, (*qkv.chunk(3, 1), out, *up.chunk(2, 1), down), strict=True):
                part.weight.copy_(matrix.T)
        tokens = Streams([4]).integers("tokens", V, (5, 6))
        logits = theirs(input_ids=F.pad(tokens[0], (1, -1), value=V)).logits[..., :V]
    torch.testing.assert_close(ours.logits(tokens)[0].detach(), logits, rtol=1e-5, atol=1e-5)


def test_swiglu_has_the_gradient_of_its_formula():
    x = Streams([0]).normal("x", (5, 12), dtype=torch.float64).requires_grad_()
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(SwiGLU.apply(x), F.silu(gate) * up)
    assert torch.autograd.gradcheck(SwiGLU.apply, (x,))
    far = torch.tensor([[[-1000.0, 1000.0, 1.0, 1.0]]], requires_grad=True)
    SwiGLU.apply(far).sum().backward()
    assert far.grad.isfinite().all()


def test_scoring_needs_no_number_on_the_host():
    """So that an update can be captured: no sync, no shape that depends on data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for kind in OURS:
        policy = make(kind)
        tokens, mask = everything(2)
        support = support_of(policy, tokens, Decoding(top_k=2))
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            fakes = [fake.from_tensor(x) for x in (tokens, mask, support)]
            for chunk in (None, 64):
                logp = policy.logp(fakes[0], fakes[1], support=fakes[2], temperature=0.5, chunk=chunk)
            assert logp.shape == tokens.shape


@pytest.mark.parametrize(
    ("make_it", "sentence"),
    [
        (lambda: Transformer(Streams([0]), 4, 8, eos=0, width=20), "width=20 with heads=4 is not valid"),
        (lambda: make("transformer").logp(*(F.pad(x, (9, 0)) for x in everything(2))), "over the context of 6"),
        (lambda: make("tabular").logp(*everything(2), temperature=0.0), "temperature=0.0 has no log-prob"),
        (lambda: Tabular(Streams([0]), TREE, ((1,), (1, 2))), "none may be the beginning of another"),
        (lambda: Tabular(Streams([0]), TREE, features=torch.ones(2, 3)), r"features are \(2, 3\)"),
        (lambda: make("log_linear").assign(torch.zeros(3)), "cannot be assigned"),
        (lambda: make_policy("tabula", Streams([0])), "policy=tabula is unknown"),
        (lambda: make_policy("tabular", Streams([0])), "needs a problem that can be enumerated"),
        (lambda: make_policy("hf", Streams([0])), "policy=hf has no model"),
    ],
)
def test_refusals(make_it, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        make_it()
    assert str(error.value).split(" Did you mean")[0].count(". ") == 0


def test_importing_loads_nothing_of_hugging_face():
    code = (
        "import sys, fenchel.llm, fenchel.llm.policies, fenchel.llm.sampling, fenchel.llm.tokenizer\n"
        "import fenchel.llm.policies.hugging_face, fenchel.llm.policies.value\n"
        "bad = {'transformers', 'peft', 'tokenizers', 'accelerate'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
