"""Right answers against wrong ones, by a score of each: no advantage, so no weight by how hard a prompt is."""

from __future__ import annotations

from fenchel.llm.parts.advantages import Raw
from fenchel.llm.parts.aggregates import SequenceMean
from fenchel.llm.parts.ratios import MeanLikelihood
from fenchel.llm.parts.regularisers import TrustRegion
from fenchel.llm.parts.rewards import Outcome
from fenchel.llm.parts.surrogates import Discriminative
from fenchel.llm.recipe import Recipe

DISCO = Recipe(
    title="Discriminative constrained optimisation",
    paper=1,
    formula="tau log mean_wrong e^(s / tau) - mean_right s, s = mean_t log pi, + beta / 2 (KL - delta)_+^2",
    departures="the KL of each prompt has its own hinge, where theirs is of the minibatch; score log-L only; its value "
    "is the objective's, where the released code logs another with the same gradient",
    reward=Outcome(),
    advantage=Raw(),
    ratio=MeanLikelihood(),
    surrogate=Discriminative(),
    aggregate=SequenceMean(),
    regulariser=(TrustRegion(),),
)
