"""Where a recipe's batches come from: answers of the policy itself, worked solutions, or a set of preferences.

Every source is called with the number of the update and gives a `TokenBatch`. What it draws is a function of that
number; what it remembers (the running rollout, statistics of prompts, old answers) stands in `state()`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.gather import Gather, single, verdict
from fenchel.llm.recipe import PreferenceRecipe
from fenchel.llm.rollout import Prepared, Rollout
from fenchel.llm.sampling import Decoding
from fenchel.llm.sequences import Sequences, join
from fenchel.llm.warm_start import SEED, corrupted
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.tasks.task import Problems, TokenTask
    from fenchel.llm.training import TokenLearner

TRACKER_MEMORY = 0.9  # share of a prompt's past successes and failures that a new group leaves


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """One update's share of a rollout; demonstrations: (tokens, mask) (R, B, L) of recipes that mix them in."""

    prepared: Prepared
    support: Tensor | None = None
    demonstrations: tuple[Tensor, Tensor] | None = None


class Source:
    """The part that all sources share. A subclass writes `collect(index) -> (Rollout, support)`."""

    def __init__(self, learner: TokenLearner, task: TokenTask):
        self.learner, self.task, self.recipe = learner, task, learner.recipe
        self.problems = task.problems("train")
        self.gather = Gather(learner, self.problems)
        self.prompts = learner.prompts
        self.current: tuple[Rollout, Tensor | None] | None = None
        self.prepared: Prepared | None = None
        self.ids: Tensor | None = None  # of the running rollout's prompts, where they come with their own solutions
        rows = join(self.problems.prompts, self.problems.solutions, task.eos)
        self.demonstrations = [row.to(learner.device) for row in rows[:2]]

    def collect(self, index: int) -> tuple[Rollout, Tensor | None]:
        raise NotImplementedError

    def __call__(self, step: int) -> TokenBatch:
        config = self.learner.config
        index, phase = divmod(step, config.epochs * config.minibatches)
        if phase == 0 or self.current is None:
            self.current, self.prepared = self.collect(index), None
        rollout, support = self.current
        if self.prepared is None:
            self.prepared = self.recipe.prepare(rollout)
        size = rollout.tokens.shape[1] // config.minibatches
        first = phase % config.minibatches * size
        chosen = slice(first, first + size)
        demonstrations = self._demonstrations(step, chosen) if getattr(self.recipe, "sft", None) else None
        return TokenBatch(self.prepared[chosen], None if support is None else support[:, chosen], demonstrations)

    def _demonstrations(self, step: int, chosen: slice) -> tuple[Tensor, Tensor]:
        if self.recipe.sft.OWN:
            assert self.ids is not None
            assert self.prepared is not None
            tokens, mask = (rows[self.ids[:, chosen]] for rows in self.demonstrations)
            return tokens, mask & (self.prepared.plain[:, chosen].flatten(2).amax(-1) == 0).unsqueeze(-1)
        index = self.learner.rng.integers("demonstrations", len(self.problems), (self.prompts,), counter=step)
        tokens, mask = (rows[index] for rows in self.demonstrations)
        return tokens, mask

    def at_checkpoint(self, index: int) -> None:
        """Nothing to do: what a step sees is a function of the step and of `state`."""

    def memory(self) -> dict[str, Tensor]:
        """What a source keeps beyond the running rollout."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """The running rollout, if it serves several updates, and the memory."""
        config = self.learner.config
        whole = config.epochs * config.minibatches == 1
        if self.current is None and not whole:  # a resumed run: of the right form, to be copied over
            self.current = self.collect(0)
        found = self.memory()
        if self.current is not None and not whole:
            rollout, support = self.current
            found |= {f"rollout.{k}": v for k, v in columns(rollout).items()}
            found |= {} if support is None else {"support": support}
            found |= {} if self.ids is None else {"ids": self.ids}
            self.prepared = None
        return found


class Rollouts(Source):
    """The policy's own answers to prompts that the recipe's sampler chooses."""

    def __init__(self, learner: TokenLearner, task: TokenTask):
        super().__init__(learner, task)
        recipe, M, device = self.recipe, len(self.problems), learner.device
        self.pairs = isinstance(recipe, PreferenceRecipe)
        self.sampler = None if self.pairs else recipe.sampler
        self.statistics = self.sampler.init(learner.R, M, device) if self.sampler else {}
        self.tracker = {k: torch.ones(learner.R, M, device=device, dtype=learner.dtype) for k in ("right", "wrong")}
        self.replay = None if self.pairs else recipe.replay
        self.old: dict[str, Tensor] | None = None
        if self.replay is not None and learner.decoding.truncates:
            raise UserError(
                "algo.top_k and algo.top_p are not for recipes with replay: old answers had other supports."
            )

    def collect(self, index: int) -> tuple[Rollout, Tensor | None]:
        learner = self.learner
        opponent = learner.half_step(index) if learner.anchor else None
        ids = self._choose(index)
        if getattr(self.recipe, "sft", None) and self.recipe.sft.OWN:
            self.ids = ids
        s = self.gather.answers(ids, learner.answers, "answers", index)
        reward = self.gather.reward(ids, s)
        if self.pairs:
            uniform = learner.rng.uniform("labels", ids.shape[1:], index, dtype=learner.dtype)
            s, reward = labelled(s, reward, uniform, learner.config.verdicts)
        rollout = self.gather(s, ids, index, reward, opponent)
        if "baseline" in self.recipe.needs:
            rollout = replace(rollout, baseline=self._baseline(ids, single(reward)))
        if self.sampler:
            self.statistics = self.sampler.update(self.statistics, ids, single(reward))
        return self._replayed(rollout, ids, index), s.support

    def _choose(self, index: int) -> Tensor:
        """Ids (R, N) of this rollout's prompts, without repeats."""
        rng, M = self.learner.rng, len(self.problems)
        if self.sampler is None:
            return rng.uniform("prompts", (M,), index).topk(self.prompts, -1).indices
        uniforms = rng.uniform("prompts", (self.sampler.DRAWS, M), index)
        return self.sampler.draw(self.statistics, uniforms, self.prompts)

    def _baseline(self, ids: Tensor, reward: Tensor) -> Tensor:
        """(R, N): right / (right + wrong) of each prompt from before this rollout, which is then added. (SPO's tracker
        with a constant memory.)"""
        right, wrong = (self.tracker[k].gather(1, ids) for k in ("right", "wrong"))
        for name, old, new in (("right", right, reward.sum(-1)), ("wrong", wrong, (1 - reward).sum(-1))):
            self.tracker[name].scatter_(1, ids, TRACKER_MEMORY * old + new)
        return right / (right + wrong)

    def _replayed(self, rollout: Rollout, ids: Tensor, index: int) -> Rollout:
        if self.replay is None:
            return rollout
        by_prompt = not hasattr(self.replay, "replayed")
        if self.old is None:
            self.old = self.replay.init(rollout, len(self.problems)) if by_prompt else self.replay.init(rollout)
        if by_prompt:
            mixed = self.replay.mix(self.old, ids, rollout)
            self.old = self.replay.push(self.old, ids, rollout)
        else:
            uniforms = self.learner.rng.uniform("replay", (self.replay.replayed,), index)
            mixed = self.replay.mix(self.old, rollout, uniforms)
            self.old = self.replay.push(self.old, rollout)
        return mixed

    def memory(self) -> dict[str, Tensor]:
        if self.replay is not None and self.old is None:  # a resumed run: of the right form, to be copied over
            self.collect(0)
        found = {f"sampler.{k}": v for k, v in self.statistics.items()}
        found |= {f"replay.{k}": v for k, v in (self.old or {}).items()}
        return found | ({f"tracker.{k}": v for k, v in self.tracker.items()} if "baseline" in self.recipe.needs else {})


class Solutions(Source):
    """Worked solutions as answers, each with reward 1: supervised learning in the form of a rollout. As many of them
    have a mistake as in the warm start, unless `demonstration_noise` says otherwise."""

    def collect(self, index: int) -> tuple[Rollout, Tensor | None]:
        learner, config, task = self.learner, self.learner.config, self.task
        ids = learner.rng.uniform("prompts", (len(self.problems),), index).topk(self.prompts, -1).indices
        tokens, mask = (rows[ids] for rows in self.demonstrations)
        given = (config.demonstration_noise, config.sft_noise, task.SFT_NOISE)
        noise = next(share for share in given if share is not None)
        tokens, mask = corrupted(tokens, mask, task, learner.rng, index, noise).unsqueeze(2), mask.unsqueeze(2)
        none = torch.zeros_like(mask[..., 0])
        s = Sequences(tokens, mask, mask.to(learner.dtype) * 0, none, None, self.problems.prompts.shape[1])
        return self.gather(s, ids, index, (~none).to(learner.dtype)), None


class Preferences(Source):
    """A set of preferences, made once: see `preference_set`."""

    def __init__(self, learner: TokenLearner, task: TokenTask):
        super().__init__(learner, task)
        self.ids, self.answers, self.reward = preference_set(self.gather, learner.recipe.group_size)

    def collect(self, index: int) -> tuple[Rollout, Tensor | None]:
        chosen = self.learner.rng.integers("pairs", len(self.ids), (self.prompts,), counter=index)
        s = self.answers
        rows = (x[chosen] for x in (s.tokens, s.mask, s.logp, s.truncated))
        answers = Sequences(*rows, None, s.prompt)
        return self.gather(answers, self.ids[chosen], index, self.reward[chosen]), None


def preference_set(gather: Gather, group: int = 2) -> tuple[Tensor, Sequences, Tensor]:
    """(ids (M,), answers (M, G, L), reward (M, G[, K])): the first policy's answers to some prompts, and the verdicts.

    Of `pair_answers` answers to each of `pair_prompts` prompts the best was chosen and the worst rejected, ties by
    order; with `verdicts` of Bradley and Terry they make pairs as they come, `pair_answers / 2` for each prompt. Groups
    whose answers all earn the same are left out. Larger groups are answers as they come. The numbers are the same for
    every replica. A task that is made of preferences gives its own.
    """
    learner, config = gather.learner, gather.learner.config
    own = gather.task.pairs(gather.problems)
    if own is not None:
        return torch.arange(len(own), device=learner.device), *paired(gather.problems, own.to(learner.device))
    count = min(config.pair_prompts, len(gather.problems))
    ids = torch.arange(count, device=learner.device).unsqueeze(0)
    drawn = {"policy": learner.first_policy(), "rng": Streams([SEED], learner.device), "decoding": Decoding()}
    s = gather.answers(ids, max(group, config.pair_answers), "pairs", 0, **drawn)
    reward = gather.reward(ids, s)
    if group == 2 and config.verdicts == "bradley_terry":
        ids, s, reward = in_pairs(ids, s, reward)
        s, reward = labelled(s, reward, drawn["rng"].uniform("labels", ids.shape[1:]), config.verdicts)
    else:
        order = single(reward).sort(dim=-1, descending=True, stable=True).indices
        as_they_come = torch.arange(group, device=order.device).expand_as(order[..., :group])
        order = order[..., [0, -1]] if group == 2 else as_they_come
        s, reward = picked(s, order), take(reward, order)
    differ = (single(reward).amax(-1) > single(reward).amin(-1))[0]
    if not differ.any():
        raise UserError(f"The first policy's answers to {count} prompts of env={gather.task.id} all earn the same.")
    parts = {f.name: getattr(s, f.name) for f in fields(s)}
    kept = replace(s, **{name: x[0, differ] for name, x in parts.items() if isinstance(x, Tensor)})
    return ids[0, differ], kept, reward[0, differ]


def paired(problems: Problems, answers: Tensor) -> tuple[Sequences, Tensor]:
    """Given answers (M, 2, T) behind their prompts, the first chosen, with rewards 1 and 0."""
    prompts = problems.prompts.to(answers.device).unsqueeze(1).expand(-1, 2, -1)
    tokens, mask, truncated = join(prompts, answers, problems.task.eos)
    reward = torch.tensor([1.0, 0.0], device=answers.device).expand(len(answers), -1)
    return Sequences(tokens, mask, mask * 0.0, truncated, None, prompts.shape[-1]), reward


def columns(rollout: Rollout) -> dict[str, Tensor]:
    values = {f.name: getattr(rollout, f.name) for f in fields(rollout)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def take(x: Tensor, order: Tensor) -> Tensor:
    """x (R, N, G, ...) at order (R, N, H)."""
    index = order.reshape(*order.shape, *[1] * (x.ndim - 3)).expand(*order.shape, *x.shape[3:])
    return x.gather(2, index)


def picked(s: Sequences, order: Tensor) -> Sequences:
    parts = {f.name: getattr(s, f.name) for f in fields(s)}
    return replace(s, **{name: take(x, order) for name, x in parts.items() if isinstance(x, Tensor)})


def in_pairs(ids: Tensor, s: Sequences, reward: Tensor) -> tuple[Tensor, Sequences, Tensor]:
    """A answers to each of N prompts, ids (1, N), as N A / 2 pairs: the first and the second, the third and so on."""
    pairs = reward.shape[2] // 2
    parts = {f.name: getattr(s, f.name) for f in fields(s)} | {"reward": reward}
    cut = {
        name: x[:, :, : 2 * pairs].unflatten(2, (pairs, 2)).flatten(1, 2)
        for name, x in parts.items()
        if isinstance(x, Tensor)
    }
    reward = cut.pop("reward")
    return ids.repeat_interleave(pairs, 1), replace(s, **cut), reward


def labelled(s: Sequences, reward: Tensor, uniform: Tensor, verdicts: str = "larger") -> tuple[Sequences, Tensor]:
    """Two answers per prompt in the order chosen, rejected; uniform (R, N) in (0, 1) decides where the verdict does not
    (see `gather.verdict`)."""
    swap = uniform < 1 - verdict(single(reward)[..., :1], single(reward)[..., 1:], verdicts).flatten(2).squeeze(-1)
    order = torch.stack([swap, ~swap], -1).long()
    return picked(s, order), take(reward, order)


def make_source(learner: TokenLearner, task: TokenTask) -> Source:
    """The source that the recipe's data come from."""
    data: Any = getattr(learner.recipe, "data", "policy")
    kinds = {"policy": Rollouts, "online": Rollouts, "demonstrations": Solutions, "offline": Preferences}
    return kinds[data](learner, task)
