"""Small token problems and the policies on them, for the tests of `fenchel.llm`."""

from __future__ import annotations

import functools
import tempfile

import pytest
import torch

from fenchel.llm.policies.tabular import Tabular
from fenchel.llm.policies.transformer import Transformer
from fenchel.llm.sequences import PAD, join, pad_left
from fenchel.theory.rng import Streams
from fenchel.theory.tokens import TokenTree

TREE = TokenTree(4, 3, eos=0)
PROMPTS = ((1, 2, 3), (2,), (3, 1))
P, T, V = 3, TREE.max_length, TREE.vocabulary
KINDS = ("tabular", "log_linear", "transformer", "tied", "llama", "lora")
OURS = KINDS[:4]


def make(kind, seeds=(0, 1), dtype=torch.float64):
    """A policy far from uniform; those of Hugging Face take the first seed only."""
    rng = Streams(list(seeds))
    if kind == "tabular":
        return Tabular(rng, TREE, PROMPTS, scale=1.0, dtype=dtype)
    if kind == "log_linear":
        features = Streams([9]).normal("features", (len(PROMPTS), TREE.num_nodes, V, 5), dtype=dtype)[0]
        return Tabular(rng, TREE, PROMPTS, features=features, scale=1.0, dtype=dtype)
    if kind in ("transformer", "tied"):
        policy = Transformer(rng, V, P + T, eos=0, width=16, heads=2, tied=kind == "tied", dtype=dtype)
        policy.frozen.weights[0 if kind == "tied" else -1].mul_(30.0)
        return policy
    from fenchel.llm.policies.hugging_face import HuggingFace, LoRA

    policy = HuggingFace(Streams([seeds[0]]), llama(), lora=LoRA(2) if kind == "lora" else None, dtype=dtype)
    with torch.no_grad():
        policy.flat.add_(Streams([5]).normal("more", policy.flat.shape[1:], dtype=dtype) * 0.1)
    return policy


def with_outputs(kind, outputs, seeds=(0, 1), dtype=torch.float64):
    """A body for values of prefixes."""
    rng = Streams(list(seeds))
    if kind in ("tabular", "log_linear"):
        return Tabular(rng, TREE, PROMPTS, outputs=outputs, name="value", scale=1.0, dtype=dtype)
    return Transformer(rng, V, P + T, eos=0, width=16, heads=2, outputs=outputs, name="value", dtype=dtype)


@functools.cache
def llama():
    """The folder of a tiny Llama with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=P + T, bos_token_id=1, eos_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder = tempfile.mkdtemp()
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def everything(replicas):
    """(tokens, mask) (R, X * Y, L): every completion of every prompt, prompt by prompt."""
    answers = TREE.tokens.masked_fill(~TREE.mask, PAD)
    prompts = pad_left(PROMPTS).repeat_interleave(len(answers), 0)
    tokens, mask, _ = join(prompts, answers.repeat(len(PROMPTS), 1), 0)
    return tokens.expand(replicas, -1, -1), mask.expand(replicas, -1, -1)
