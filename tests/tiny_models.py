"""Language models of Hugging Face with random weights and a tokenizer of bytes, saved by the test that needs them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fenchel.llm.tasks.task import TokenTask

END = "<|endoftext|>"


def save(folder, kind="llama", context=64, end=True, seed=0):
    """kind: llama or gpt2. The tokenizer has a token for each byte, some pairs of digits, and perhaps an end token."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in "123" for b in "0123"]
    tokens = [END, *letters, *("".join(pair) for pair in pairs)]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, **({"eos_token": END} if end else {})).save_pretrained(folder)
    torch.manual_seed(seed)
    shared = {"vocab_size": len(tokens), "bos_token_id": 0, "eos_token_id": 0}
    if kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        net = LlamaForCausalLM(LlamaConfig(**shared, **sizes, max_position_embeddings=context))
    else:
        net = GPT2LMHeadModel(GPT2Config(**shared, n_embd=32, n_layer=2, n_head=2, n_positions=context))
    net.save_pretrained(folder)
    return str(folder)


def texts(task: TokenTask, split="train"):
    return [(item.prompt, item.solution) for item in task.problems(split).items]
