"""What all learners of token policies share: the warm start that they begin with, their scores, their files.

`class TokenIQL(OnTokens, IQL)`: named before the learner's own base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from fenchel.envs.spec import Spec
from fenchel.errors import UserError
from fenchel.llm import spec
from fenchel.llm.evaluation import evaluate
from fenchel.llm.policies.policy import Policy
from fenchel.llm.policies.transformer import Transformer
from fenchel.llm.tasks.task import TokenTask
from fenchel.llm.warm_start import SEED, WarmStart, warm_start
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.reward_model import RewardModel


class OnTokens:
    """A subclass has `model`, the R policies that it trains, and calls `begin(task)` in `bind`."""

    ACTIONS = ("discrete",)
    BEGINS = True
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"width": 32, "layers": 2, "sft_steps": 200},
        "llm/*": {"steps": 200, "log_every": 10, "eval_episodes": 32, "final_episodes": 256},
    }

    model: Any
    spec: Any
    config: Any
    dtype: Any
    device: Any
    bind: Any
    split = "test"  # the problems that scores are of
    start: tuple[Tensor, str] | None = None  # the warm start's parameters (1, width), and a hash of it and the problems
    judge: RewardModel | None = None
    cost_of: Any = None  # (tokens, mask) (..., L) -> (..., L): what tokens cost, for a learner that heeds it
    first_table: Tensor | None = None  # of an enumerable task, for the KL to the first policy

    @classmethod
    def reads(cls, task: TokenTask, config: Any) -> TokenTask:
        """The task in the tokens of the learner's model."""
        return task

    def check_evaluation(self) -> None:
        config = self.config
        if config.eval_answers < config.pass_k:
            raise UserError(f"algo.eval_answers={config.eval_answers} is fewer than algo.pass_k={config.pass_k}.")

    def begin(self, task: TokenTask) -> None:
        """Fetch the task's warm start, which is built first if need be."""
        config = self.config
        steps = task.SFT_STEPS if config.sft_steps is None else config.sft_steps
        noise = task.SFT_NOISE if config.sft_noise is None else config.sft_noise
        how = WarmStart(steps, config.sft_batch, config.sft_lr, noise, config.width, config.layers, config.heads)
        self.start = warm_start(task, how, self.dtype)

    @property
    def data_hash(self) -> str | None:
        """Of the warm start and the problems."""
        return self.start[1] if self.start else None

    def transformer(self, rng: Streams, name: str = "policy", **more: Any) -> Transformer:
        """A network of the warm start's sizes."""
        more |= {"width": self.config.width, "layers": self.config.layers, "heads": self.config.heads}
        eos = getattr(self.spec, "eos", 0)
        return Transformer(rng, self.spec.action.n, self.spec.obs_dim, eos=eos, name=name, dtype=self.dtype, **more)

    def first_policy(self) -> Policy:
        """One replica of the warm start."""
        assert self.start is not None
        policy = self.transformer(Streams([SEED], self.device))
        policy.flat.copy_(self.start[0])
        return policy

    def scores(self, task: Any, episodes: int, step: int) -> dict[str, list]:
        """On `episodes` problems of `split`; see `fenchel.llm.evaluation`."""
        if self.start is None:
            self.bind(task)
        return evaluate(self, task, episodes, step)

    def header(self) -> dict[str, Any]:
        return super().header() | {"spec": spec.to_json(self.spec)}  # type: ignore[misc]

    @classmethod
    def read_spec(cls, data: dict[str, Any]) -> Spec:
        return spec.from_json(data)


def with_tokens(task: Any) -> TokenTask:
    """Raises UserError for another task."""
    if not isinstance(task, TokenTask):
        raise UserError(f"env={task.id} has no tokens; this learner takes env=llm/<task>.")
    return task


def copy_body(network: Any, source: Transformer) -> None:
    """Give a transformer with other outputs all parameters of `source` but those of the last layer."""
    for mine, theirs in zip(network.frozen.weights[:-1], source.frozen.weights[:-1], strict=True):
        mine.copy_(theirs)
