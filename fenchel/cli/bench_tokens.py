"""`bench tokens`: sampling, a GRPO and a DPO step against Hugging Face, and exact gradients over all answers.

Models of one size and vocabulary with random weights, one thread, CPU time, both sides in turns. A GRPO step samples 4
prompts x 8 answers, scores them, and takes one Adam step with a reference's KL; a DPO step takes 16 pairs, whose
reference log-probabilities are computed in the step. The peer is a plain loop over a model of transformers, which is
the least that a trainer on such a model can take; and the trainers of TRL, where it is installed (`bench_trl`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.cli.bench_updates import Row, Updates, row, seconds
from fenchel.theory.rng import Streams

ROUNDS, PROMPTS, GROUP, PAIRS, LR = 5, 4, 8, 16, 1e-3


@dataclass(frozen=True)
class Size:
    name: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp: int
    prompt: int
    answer: int


SIZES = (Size("22k parameters", 16, 32, 2, 2, 64, 2, 4), Size("1.3M parameters", 256, 128, 6, 4, 352, 16, 32))


def rows() -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _exact()
        if find_spec("transformers") is not None:
            for size in SIZES:
                yield from _models(size)
    finally:
        torch.set_num_threads(threads)


def _models(size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        save(size, Path(folder))
        cases: dict[str, tuple[Callable, Callable]] = {
            "sampling": (sampling, hf_sampling),
            "GRPO step": (grpo, hf_grpo),
            "DPO step": (dpo, hf_dpo),
        }
        for name, (ours, theirs) in cases.items():
            mine, peer = turns(ours(size), theirs(size, folder))
            yield row(f"{name}, {size.name}", 1e3 * mine, 1e3 * peer, "ms", "plain loop, transformers")
        if find_spec("trl") is not None:
            from fenchel.cli import bench_trl

            yield from bench_trl.rows(size, folder)


def turns(mine: Updates, theirs: Updates) -> tuple[float, float]:
    """CPU seconds per step of each, medians over rounds taken in turns."""
    steps = []
    for run in (mine, theirs):
        run(2)
        steps.append(max(2, int(0.4 / seconds(run, time.perf_counter, 2))))
    times = [
        [seconds(run, time.process_time, n) for run, n in zip((mine, theirs), steps, strict=True)]
        for _ in range(ROUNDS)
    ]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second


def repeated(step: Callable[[], Any]) -> Updates:
    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def reward_of(answers: Tensor) -> Tensor:
    """(..., T) -> (...): the share of even tokens."""
    return ((answers % 2 == 0) & (answers >= 0)).float().mean(-1)


# -- ours ------------------------------------------------------------------------------------------------------------
def model(size: Size) -> Any:
    from fenchel.llm.policies.transformer import Transformer

    context = size.prompt + size.answer
    sizes = {"width": size.width, "layers": size.layers, "heads": size.heads, "mlp": size.mlp}
    return Transformer(Streams([0]), size.vocabulary, context, eos=0, **sizes)


def prompts(size: Size) -> Tensor:
    return 1 + Streams([1]).integers("prompts", size.vocabulary - 1, (PROMPTS, size.prompt))


def pairs(size: Size) -> Tensor:
    """(1, pairs, 2, prompt + answer): two answers of full length to each prompt."""
    tokens = 1 + Streams([2]).integers("pairs", size.vocabulary - 1, (PAIRS, 2, size.prompt + size.answer))
    tokens[:, :, 1, : size.prompt] = tokens[:, :, 0, : size.prompt]
    return tokens


def sampling(size: Size) -> Updates:
    from fenchel.llm.sampling import sample

    policy, x = model(size), prompts(size)
    return repeated(lambda: sample(policy, x, GROUP, size.answer, rng=Streams([0])))


def grpo(size: Size) -> Updates:
    from fenchel.algorithms.networks import Adam
    from fenchel.llm import get_recipe
    from fenchel.llm.rollout import Rollout
    from fenchel.llm.sampling import sample

    policy, x, recipe = model(size), prompts(size), get_recipe("grpo").bind(1)
    reference, optimiser = policy.target(), Adam(policy, lr=LR)

    def step() -> None:
        drawn = sample(policy, x, GROUP, size.answer, rng=Streams([0]), counter=int(optimiser.count))
        rows = drawn.tokens.flatten(1, 2), drawn.mask.flatten(1, 2)
        logp = policy.logp(*rows).view_as(drawn.mask)
        with torch.no_grad():
            ref_logp = reference.logp(*rows).view_as(drawn.mask)
        data = Rollout(
            drawn.tokens, drawn.mask, logp.detach(), reward_of(drawn.answers), size.answer, ref_logp=ref_logp
        )
        optimiser.step(recipe.loss(recipe.prepare(data), logp))

    return repeated(step)


def dpo(size: Size) -> Updates:
    from fenchel.algorithms.networks import Adam
    from fenchel.llm import get_recipe
    from fenchel.llm.rollout import Rollout

    policy, tokens, recipe = model(size), pairs(size), get_recipe("dpo").bind(1)
    reference, optimiser = policy.target(), Adam(policy, lr=LR)
    mask = (torch.arange(tokens.shape[-1]) >= size.prompt).expand_as(tokens)
    rows = tokens.flatten(1, 2), mask.flatten(1, 2)

    def step() -> None:
        with torch.no_grad():
            ref_logp = reference.logp(*rows).view_as(mask)
        data = recipe.prepare(Rollout(tokens, mask, ref_logp=ref_logp))
        optimiser.step(recipe.loss(data, policy.logp(*rows).view_as(mask)))

    return repeated(step)


# -- the plain loop --------------------------------------------------------------------------------------------------
def save(size: Size, folder: Path) -> None:
    """A Llama of the size with random weights, and a tokenizer of words t0, t1, ..., t0 the end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.mlp, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, max_position_embeddings=size.prompt + size.answer + 1,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size.vocabulary)}, unk_token="t1"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="t0", pad_token="t0", unk_token="t1").save_pretrained(
        folder
    )


def load(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()


def hf_generate(net: Any, x: Tensor, size: Size) -> Tensor:
    rows = x[0].repeat_interleave(GROUP, 0)
    with torch.no_grad():
        return net.generate(
            rows, attention_mask=torch.ones_like(rows), max_new_tokens=size.answer, do_sample=True, top_k=0
        )


def hf_sampling(size: Size, folder: str) -> Updates:
    net, x = load(folder), prompts(size)
    return repeated(lambda: hf_generate(net, x, size))


def hf_logp(net: Any, tokens: Tensor, start: int) -> Tensor:
    logits = net(tokens).logits[:, start - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[:, start:, None]).squeeze(-1)


def hf_grpo(size: Size, folder: str) -> Updates:
    net, reference, x = load(folder), load(folder), prompts(size)
    optimiser = torch.optim.Adam(net.parameters(), lr=LR)

    def step() -> None:
        tokens = hf_generate(net, x, size)
        answers = tokens[:, size.prompt :]
        ended = (answers == 0).cumsum(-1)
        mask = (ended - (answers == 0).long() == 0).float()
        reward = reward_of(torch.where(mask.bool(), answers, -1)).view(PROMPTS, GROUP)
        advantage = ((reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        logp = hf_logp(net, tokens, size.prompt)
        with torch.no_grad():
            gap = hf_logp(reference, tokens, size.prompt) - logp
        ratio, gap = (logp - logp.detach()).exp(), gap + logp.detach() - logp
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        loss = (((0.04 * (gap.exp() - 1 - gap) - gain) * mask).sum(1) / mask.sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return repeated(step)


def hf_dpo(size: Size, folder: str) -> Updates:
    net, reference, tokens = load(folder), load(folder), pairs(size)[0].flatten(0, 1)
    optimiser = torch.optim.Adam(net.parameters(), lr=LR)

    def step() -> None:
        with torch.no_grad():
            ref_logp = hf_logp(reference, tokens, size.prompt)
        margin = (hf_logp(net, tokens, size.prompt) - ref_logp).sum(-1).view(-1, 2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (margin[:, 0] - margin[:, 1])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return repeated(step)


# -- exact -----------------------------------------------------------------------------------------------------------
def _exact() -> Iterator[Row]:
    """E r - beta KL(pi, ref) over all answers, and its gradient in the table of logits."""
    from fenchel.llm.policies.tabular import Tabular
    from fenchel.theory.tokens import TokenTree, kl

    for runs, vocabulary, length in ((1, 4, 6), (1, 8, 4), (256, 4, 4)):
        tree = TokenTree(vocabulary, length)
        policy = Tabular(Streams(range(runs)), tree, scale=0.1)
        reward = Streams(range(runs)).normal("reward", (1, tree.num_completions))
        log_ref = tree.sequence_log_probs(policy.log_policy().detach())

        def step(tree=tree, policy=policy, reward=reward, log_ref=log_ref) -> None:
            log_p = tree.sequence_log_probs(policy.log_policy())
            policy.grad.zero_()
            (kl(log_p, log_ref) * 0.1 - (log_p.exp() * reward).sum(-1)).sum().backward()

        run = repeated(step)
        run(5)
        time_of = statistics.median(seconds(run, time.process_time, 20) for _ in range(ROUNDS))
        case = f"exact objective and gradient, {vocabulary}^{length} sequences, {runs} run{'s' * (runs > 1)}"
        yield row(case, 1e3 * time_of, None, "ms", "")
