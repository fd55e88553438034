"""From answers to a rollout: every field that the recipe needs, by the policies as they are now, without a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.rollout import Rollout
from fenchel.llm.sampling import Decoding, sample
from fenchel.llm.scoring import statistics
from fenchel.llm.sequences import Sequences
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.reward_model import RewardModel
    from fenchel.llm.tasks.task import Problems
    from fenchel.llm.training import TokenLearner

MADE_LATER = {"baseline", "demonstrations", "live_entropy", "live_mean_logp", "live_value"}


class Gather:
    """`Gather(learner, problems)(sequences, ids, counter)` -> Rollout."""

    def __init__(self, learner: TokenLearner, problems: Problems):
        self.learner, self.problems, self.task = learner, problems, problems.task
        self.needs = learner.recipe.needs - MADE_LATER

    def answers(
        self,
        ids: Tensor,
        groups: int,
        name: str,
        counter: int,
        policy: Any = None,
        decoding: Decoding | None = None,
        rng: Streams | None = None,
    ) -> Sequences:
        """`groups` answers to the prompts ids (R, N), of the learner's policy and numbers unless others are given."""
        learner = self.learner
        prompts = self.problems.prompts.to(learner.device)[ids]
        return sample(
            policy or learner.policy,
            prompts,
            groups,
            self.task.max_answer,
            rng=rng or learner.rng,
            counter=counter,
            decoding=decoding or learner.decoding,
            name=name,
        )

    def reward(self, ids: Tensor, sequences: Sequences) -> Tensor:
        """(R, N, G), or (R, N, G, K) of several rewards: the judge's if there is one, else the task's."""
        return judged(self.problems, ids, sequences, self.learner.judge).to(self.learner.dtype)

    @torch.no_grad()
    def __call__(self, s: Sequences, ids: Tensor, counter: int, reward: Tensor, opponent: Any = None) -> Rollout:
        """reward (R, N, G[, K]): of these answers. opponent: the policy that they play against, if not itself."""
        needs, fields = self.needs, {"reward": reward, "truncated": s.truncated, "sampler_logp": s.logp}
        fields |= self._laws(s)
        if "greedy_reward" in needs:
            greedy = self.answers(ids, 1, "greedy", counter, decoding=Decoding(temperature=0.0))
            fields["greedy_reward"] = single(self.reward(ids, greedy)).squeeze(-1)
        if "reference_reward" in needs:
            drawn = self.answers(ids, self.learner.config.baseline_answers, "baseline", counter, self.learner.reference)
            fields["reference_reward"] = single(self.reward(ids, drawn))
        if "win" in needs:
            theirs = reward
            if opponent is not None:
                theirs = self.reward(ids, self.answers(ids, reward.shape[2], "opponent", counter, opponent))
            fields["win"] = verdict(single(reward), single(theirs), self.learner.config.verdicts)
        if "label" in needs:
            outcome = single(reward)
            fields["label"] = (outcome > outcome.mean(-1, keepdim=True)).to(reward.dtype)
            fields["kl_estimate"] = self._mismatched(s)
        if "margin" in needs:
            fields["margin"] = self._margin(reward)
        kept = {name: value for name, value in fields.items() if name in needs | {"reward", "kl_estimate", "truncated"}}
        return Rollout(tokens=s.tokens, mask=s.mask, max_answer=self.task.max_answer, **kept)

    def _laws(self, s: Sequences) -> dict[str, Tensor]:
        """Log-probabilities and other statistics of the policy, the reference and the critic."""
        learner, needs = self.learner, self.needs
        options = {"temperature": learner.h.temperature, "support": s.support, "chunk": learner.config.chunk}
        mine = {"old_logp": "logp", "entropy": "entropy", "mean_logp": "mean_logp", "score_norm": "score_norm"}
        wanted = [statistic for need, statistic in mine.items() if need in needs]
        found = statistics(learner.policy, s.tokens, s.mask, wanted, **options) if wanted else {}
        fields = {need: found[statistic] for need, statistic in mine.items() if statistic in found}
        if "ref_logp" in needs:
            fields["ref_logp"] = statistics(learner.reference, s.tokens, s.mask, ("logp",), **options)["logp"]
        if "value" in needs:
            fields["value"] = learner.values(s.tokens, s.mask)
        return fields

    def _mismatched(self, s: Sequences) -> Tensor:
        """(R, N): mean log-ratio of every prompt's successor's answers: an estimate of KL(pi, ref) that no answer's own
        likelihood enters (KTO)."""
        learner = self.learner
        tokens = torch.cat([s.tokens[..., : s.prompt], s.tokens[..., s.prompt :].roll(1, 1)], -1)
        mask = s.mask.roll(1, 1)
        options = {"temperature": learner.h.temperature, "chunk": learner.config.chunk}
        pair = (statistics(p, tokens, mask, ("logp",), **options)["logp"] for p in (learner.policy, learner.reference))
        mine, reference = pair
        return (mine - reference).sum(-1).flatten(1).mean(1, keepdim=True).expand(-1, tokens.shape[1])

    def _margin(self, reward: Tensor) -> Tensor:
        """(R, N, G): the other rewards, which share what weight the first one leaves."""
        if reward.ndim < 4:
            raise UserError("This recipe weighs several rewards: name them, as in task.reward=[verifier,brevity].")
        weight = 1 - self.learner.recipe.link.preference_weight
        return reward[..., 1:].mean(-1) * weight.view(-1, 1, 1)


def judged(problems: Problems, ids: Tensor, s: Sequences, judge: RewardModel | None = None) -> Tensor:
    """(R, N, G[, K]): what answers to the prompts ids (R, N) earn."""
    if judge is not None:  # replica by replica: a product's bits may depend on how many rows it has
        return torch.stack([judge(tokens) for tokens in s.tokens])
    return problems.task.reward(problems, ids.unsqueeze(-1).expand(s.truncated.shape), s.answers)


def single(reward: Tensor) -> Tensor:
    """(R, N, G): the first of several rewards, which verdicts and labels are about."""
    return reward[..., 0] if reward.ndim == 4 else reward


def verdict(mine: Tensor, theirs: Tensor, how: str = "larger") -> Tensor:
    """(R, N, G, M): the chance of an answer to win over the opponent's. larger: 1 where it earns more, 1/2 where both
    earn the same, else 0; bradley_terry: sigmoid of the difference."""
    difference = mine.unsqueeze(-1) - theirs.unsqueeze(-2)
    return (1 + difference.sign()) / 2 if how == "larger" else 1 / (1 + (-difference).exp())
