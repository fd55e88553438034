"""Learning from pairs of answers, of which one was preferred: link(score(y_w), score(y_l)).

D = rho_w - rho_l, rho(y) = log pi(y) - log ref(y), summed over tokens. BT: preferences are sigmoid(r_w - r_l).
"""

from __future__ import annotations

from dataclasses import replace

from fenchel.llm.parts.links import (
    Conservative,
    DivergenceLogistic,
    FlippedLogistic,
    GroupSoftmax,
    LengthMargin,
    Logistic,
    Margin,
    PairSoftmax,
    Prospect,
    RewardMargin,
    Square,
)
from fenchel.llm.parts.pair_terms import ChosenLikelihood, PolicyWeight
from fenchel.llm.parts.references import Moving
from fenchel.llm.parts.scores import DiscountedLogp, LogRatio, MeanLogp, SplitRatio
from fenchel.llm.recipe import PreferenceRecipe

DPO = PreferenceRecipe(
    title="Direct preference optimisation",
    formula="- log sigmoid(beta D)",
    score=LogRatio(),
    link=Logistic(),
)

IPO = PreferenceRecipe(
    title="Identity preference optimisation",
    paper=287,
    formula="(D - 1 / (2 tau))^2",
    departures="sums over tokens, as printed; per_token=true is TRL's form, whose optimum is another",
    score=LogRatio(),
    link=Square(),
)

SIMPO = PreferenceRecipe(
    title="Simple preference optimisation, without a reference",
    paper=284,
    formula="- log sigmoid(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - margin)",
    score=MeanLogp(),
    link=Margin(),
)

F_DPO = PreferenceRecipe(
    title="DPO with an f-divergence",
    paper=36,
    formula="- log sigmoid(beta (f'(pi / ref)(y_w) - f'(pi / ref)(y_l)))",
    departures="our js is half of the paper's, so that beta is twice theirs",
    score=LogRatio(),
    link=DivergenceLogistic(),
)

R_DPO = PreferenceRecipe(
    title="DPO with a length penalty",
    formula="- log sigmoid(beta D + penalty (|y_w| - |y_l|))",
    departures="the sign under which length that the labels reward is not learned: minimiser ref e^((r - penalty L) / "
    "beta) / Z",
    score=LogRatio(),
    link=LengthMargin(),
)

EXO = PreferenceRecipe(
    title="Efficient exact optimisation from pairs",
    paper=286,
    formula="KL(q || p), q = softmax(policy_beta rho) over the pair, p = (1 - smoothing, smoothing)",
    score=LogRatio(),
    link=PairSoftmax(),
)

EXO_RW = PreferenceRecipe(
    title="Efficient exact optimisation from rewards",
    paper=286,
    formula="KL(q || p), q = softmax(policy_beta rho), p = softmax(r / reward_beta) over the group",
    group_size=4,
    score=LogRatio(),
    link=GroupSoftmax(),
)

KTO = PreferenceRecipe(
    title="Kahneman-Tversky optimisation",
    formula="w (1 - sigmoid(+- (beta rho - z0))), + for desirable answers; z0 = beta max(0, KL estimate)",
    departures="z0 is 0 where no estimate from mismatched answers is given",
    score=LogRatio(),
    link=Prospect(),
)

H_DPO = PreferenceRecipe(
    title="Entropy-controllable DPO",
    paper=297,
    formula="- log sigmoid(beta (alpha (log pi_w - log pi_l) - (log ref_w - log ref_l)))",
    score=SplitRatio(),
    link=Logistic(beta=0.01),
)

MODPO = PreferenceRecipe(
    title="Multi-objective DPO",
    paper=279,
    formula="- log sigmoid((beta D - m) / w_1), m = sum over k >= 2 of w_k (r_k(y_w) - r_k(y_l))",
    score=LogRatio(),
    link=RewardMargin(),
)

CPL = PreferenceRecipe(
    title="Contrastive preference learning",
    paper=22,
    formula="- log sigmoid(alpha (S_w - conservative S_l)), S = sum_t gamma^t log pi(y_t | s_t)",
    score=DiscountedLogp(),
    link=Conservative(),
)

RPO = PreferenceRecipe(
    title="DPO with the likelihood of the chosen answer",
    paper=85,
    formula="- log sigmoid(beta D) - eta beta log pi(y_w); sft_weight is eta beta",
    departures="the sum over tokens, as derived; sft_per_token=true is TRL's mean",
    score=LogRatio(),
    link=Logistic(beta=0.01),
    regulariser=(ChosenLikelihood(),),
)

ROBUST_DPO = PreferenceRecipe(
    title="DPO from flipped labels, without bias",
    paper=254,
    formula="((1 - eps) l(D) - eps l(-D)) / (1 - 2 eps), l = DPO's loss",
    score=LogRatio(),
    link=FlippedLogistic(),
)

CDPO = replace(
    DPO,
    title="Conservative DPO: smoothed labels",
    paper=254,
    formula="(1 - eps) l(D) + eps l(-D), l = DPO's loss",
    link=Logistic(label_smoothing=0.1),
)

WPO = replace(
    DPO,
    title="DPO weighted by how likely the policy finds the pair",
    paper=237,
    formula="w(y_w) w(y_l) (- log sigmoid(beta D)), w = exp(mean over tokens of log pi), detached",
    departures="the naive weight; the paper's default divides by the expected probability of a sampled token",
    link=Logistic(beta=0.01),
    weight=(PolicyWeight(),),
)

TR_DPO = replace(
    DPO,
    title="DPO with a moving reference",
    paper=261,
    formula="- log sigmoid(beta D), ref <- alpha pi + (1 - alpha) ref after every update",
    link=Logistic(beta=0.05),
    reference=Moving(),
)
