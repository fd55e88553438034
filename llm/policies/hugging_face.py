"""Any causal language model of Hugging Face, by a local path or a name, whole or with LoRA. One replica.

What is trained lies in one flat buffer, so that optimisers, targets and checkpoints are those of our own networks; with
LoRA it is the adapters alone, and copies share the model beneath. Code of a repository is never executed
(trust_remote_code=False), weights are read from safetensors, and dropout is off.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.policies.policy import Policy
from fenchel.theory.rng import Streams

PAD_TO = 64


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters W + (alpha / rank) B A of the named matrices. (Hu et al. 2021.)"""

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"


class HuggingFace(Policy):
    """The law of a first token, which stands after nothing, does not exist here: it is NaN, and prompts are not empty.

    Raises UserError where the packages or the model are not there, the model has no end token, or R is not 1.
    """

    R = 1
    replicas = 1

    def __init__(
        self,
        rng: Streams,
        path: str,
        *,
        eos: int | None = None,
        lora: LoRA | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if len(rng.seeds) != 1:
            raise UserError(f"policy=hf:{path} has one replica; {len(rng.seeds)} seeds were given.")
        self.model = _load(path, dtype).to(rng.device).eval()
        if lora is not None:
            self.model = _adapt(self.model, lora, int(rng.seeds[0]))
        config = self.model.config.get_text_config()
        self.vocabulary, self.context, self.width = config.vocab_size, _context(config), config.hidden_size
        ends = config.eos_token_id if eos is None else eos
        self.eos = ends[0] if isinstance(ends, list) else ends
        if self.eos is None:
            raise UserError(f"policy=hf:{path} has no end token; give eos=<its number>.")
        self.learns = True
        self._flatten()
        self.whole = not self._splits()

    # -- one flat buffer -------------------------------------------------------------------------------------------
    def _flatten(self) -> None:
        """Move what is trained into `flat`, and its gradients into `grad`."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        size = sum(p.numel() for p in parameters)
        self.flat = parameters[0].new_zeros(1, -(-size // PAD_TO) * PAD_TO)
        self.grad = torch.zeros_like(self.flat)
        ends = torch.tensor([0, *(p.numel() for p in parameters)]).cumsum(0).tolist()
        for p, first, last in zip(parameters, ends, ends[1:], strict=False):
            self.flat[0, first:last] = p.detach().flatten()
            p.data = self.flat[0, first:last].view_as(p)
            p.grad = self.grad[0, first:last].view_as(p)

    @cached_property
    def frozen(self) -> Self:
        """The same model, without gradients."""
        other = copy.copy(self)
        other.learns = False
        return other

    def target(self) -> Self:
        """A copy with its own numbers and no gradient; what is not trained is shared."""
        shared = [p for p in self.model.parameters() if not p.requires_grad]
        other = copy.copy(self.frozen)
        grads = [(p, p.grad) for p in self.model.parameters()]
        for p, _ in grads:
            p.grad = None  # not worth a copy
        other.model = copy.deepcopy(self.model, {id(p): p for p in shared})
        for p, grad in grads:
            p.grad = grad
        other._flatten()
        other.grad = None
        other.__dict__.pop("frozen", None)
        return other

    def track(self, source: HuggingFace, tau: float | Tensor) -> None:
        self.flat.lerp_(source.flat, tau)

    def state(self) -> dict[str, Tensor]:
        return {"flat": self.flat}

    # -- the whole sequence ----------------------------------------------------------------------------------------
    def encode(self, ids: Int[Tensor, "1 B L"]) -> Float[Tensor, "1 B L width"]:
        """The decoder's last features, or the logits where the model does more with these than one product."""
        if ids.shape[-1] == 1:
            return self.flat.new_zeros(*ids.shape, self.vocabulary if self.whole else self.width)
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            if self.whole:
                code = self.model(input_ids=ids[0, :, :-1], use_cache=False).logits
            else:
                code = self.model.get_decoder()(input_ids=ids[0, :, :-1], use_cache=False).last_hidden_state
        return F.pad(code, (0, 0, 1, 0)).unsqueeze(0)

    def head(self, code: Float[Tensor, "1 M width"]) -> Float[Tensor, "1 M V"]:
        if self.whole:
            return code
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            return self.model.get_output_embeddings()(code)

    def hidden_of(self, code: Tensor) -> Tensor:
        if self.whole:
            raise UserError("This Hugging Face model gives no features to put a value head on.")
        return code

    @torch.no_grad()
    def _splits(self) -> bool:
        """Whether the logits are one product of the decoder's features, without caps or scales after it."""
        ids = torch.arange(min(4, self.vocabulary), device=self.flat.device).view(1, 1, -1)
        self.whole = False
        split = self.head(self.encode(ids)[:, 0, 1:])
        return torch.equal(split[0], self.model(input_ids=ids[0, :, :-1], use_cache=False).logits[0])

    # -- token by token --------------------------------------------------------------------------------------------
    def start(self, prompts: Int[Tensor, "1 N P"], groups: int, max_new: int) -> tuple[dict[str, Any], Tensor]:
        mask = (prompts[0] >= 0).long()
        if not mask.any(-1).all():
            raise UserError("A prompt is empty; a Hugging Face model needs at least one token to begin with.")
        out = self.model(
            input_ids=prompts[0].clamp(min=0),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        past = out.past_key_values
        past.batch_repeat_interleave(groups)
        cache = {"past": past, "mask": mask.repeat_interleave(groups, 0)}
        return cache, out.logits[:, -1].repeat_interleave(groups, 0).unsqueeze(0)

    def step(self, cache: dict[str, Any], token: Int[Tensor, "1 B"]) -> Float[Tensor, "1 B V"]:
        cache["mask"] = F.pad(cache["mask"], (0, 1), value=1)
        out = self.model(
            input_ids=token[0, :, None],
            attention_mask=cache["mask"],
            position_ids=cache["mask"].sum(-1, keepdim=True) - 1,
            past_key_values=cache["past"],
            use_cache=True,
        )
        return out.logits[:, -1].unsqueeze(0)


def _load(path: str, dtype: torch.dtype) -> Any:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UserError(f"policy=hf:{path} needs transformers; pip install 'fenchel[llm]'.") from None
    try:
        return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"policy=hf:{path} cannot be read: {reason}.") from None


def _adapt(model: Any, lora: LoRA, seed: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora needs peft; pip install 'fenchel[llm]'.") from None
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws the adapters
        return get_peft_model(model, config).get_base_model().eval()


def _context(config: Any) -> int:
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30
