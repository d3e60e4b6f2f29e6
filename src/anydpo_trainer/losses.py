"""The preference losses, each one formula with its paper.

Notation, per pair of a prompt x with chosen y_w and rejected y_l: S_w, S_l are the summed log-probabilities of
the completion tokens under the policy; u = S_w - log ref(y_w|x) and v the same for y_l; h = u - v; n_w, n_l count
completion tokens; a_w = S_w / n_w; sp(z) = log(1 + e^-z); s is the sigmoid, b is beta, e is label_smoothing.
Under an f-divergence u and v stand for f'(e^u) and f'(e^v). The log-ratios in the metrics are always plain.

Every loss is a function from `Scores` and `Method` to a tensor of shape [B]; the batch loss is its weighted mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from anydpo_trainer.config import COUPLED, LOSSES, Method


@dataclass(frozen=True)
class Scores:
    """Sequence log-probabilities of B pairs; every field has shape [B].

    `chosen` and `rejected` carry the LD-DPO damping where it is on; `chosen_nll` never does.
    `wpo_weight` is w_w * w_l, without gradient.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    chosen_nll: Tensor
    wpo_weight: Tensor | None = None

    @property
    def u(self) -> Tensor:
        """Log-ratio of policy to reference for the chosen answer."""
        return self.chosen - self.ref_chosen

    @property
    def v(self) -> Tensor:
        """Log-ratio of policy to reference for the rejected answer."""
        return self.rejected - self.ref_rejected

    def map(self, change: Callable[[Tensor], Tensor]) -> Scores:
        """Return the scores with every tensor changed."""
        columns: dict[str, Any] = {n: None if v is None else change(v) for n, v in vars(self).items()}
        return Scores(**columns)


Loss = Callable[[Scores, Method], Tensor]


def pair_losses(scores: Scores, method: Method, *, tokens_per_pair: Tensor | float | None = None) -> Tensor:
    """Return the weighted sum of the method's losses for each pair, shape [B].

    `tokens_per_pair` is the mean of `chosen_tokens` over the whole optimiser batch of which these pairs may be a
    part; with it, the mean over micro-batches equals the large batch for losses that average over tokens too.
    """
    if tokens_per_pair is None:
        tokens_per_pair = scores.chosen_tokens.to(scores.chosen).mean()
    total = torch.zeros_like(scores.chosen)
    for name, weight in zip(method.loss_type, method.weights, strict=True):
        if name in TOKEN_MEAN:
            value = TOKEN_MEAN[name](scores, method, scores.chosen_nll / tokens_per_pair)
        else:
            value = PREFERENCE[name](scores, method)
        if scores.wpo_weight is not None and LOSSES[name].weighting:
            value = value * scores.wpo_weight
        total = total + weight * value
    return total


def rewards(scores: Scores, method: Method) -> tuple[Tensor, Tensor]:
    """Return the implicit rewards of chosen and rejected answers, shape [B] each, without gradient.

    b times the plain log-ratio; without a reference b times the log-probability, averaged over tokens for
    SimPO and ORPO, whose reward is defined so.
    """
    chosen, rejected = scores.u.detach(), scores.v.detach()
    if not {"simpo", "orpo"}.isdisjoint(method.loss_type):
        chosen, rejected = chosen / scores.chosen_tokens, rejected / scores.rejected_tokens
    return method.beta * chosen, method.beta * rejected


def f_scores(scores: Scores, method: Method) -> tuple[Tensor, Tensor]:
    """Return (f'(e^u), f'(e^v)) for the method's f-divergence. Paper: f-DPO, 2309.16240."""
    derive = DIVERGENCES[method.f_divergence_type]
    return derive(scores.u, method), derive(scores.v, method)


def _reverse_kl(ratio: Tensor, _: Method) -> Tensor:
    return ratio


def _forward_kl(ratio: Tensor, _: Method) -> Tensor:
    return 1 - torch.exp(-ratio)


def _js_divergence(ratio: Tensor, _: Method) -> Tensor:
    return math.log(2) + F.logsigmoid(ratio)


def _alpha_divergence(ratio: Tensor, method: Method) -> Tensor:
    power = method.f_alpha_divergence_coef - 1
    if abs(power) < 1e-6:
        return ratio
    # e^80 is near the top of float32; beyond it the difference of two scores would be inf - inf
    return (torch.exp(torch.clamp(power * ratio, max=80.0)) - 1) / power


DIVERGENCES: dict[str, Callable[[Tensor, Method], Tensor]] = {
    "reverse_kl": _reverse_kl,
    "forward_kl": _forward_kl,
    "js_divergence": _js_divergence,
    "alpha_divergence": _alpha_divergence,
}


def _difference(scores: Scores, method: Method) -> Tensor:
    chosen, rejected = f_scores(scores, method)
    return chosen - rejected


def _average_difference(scores: Scores, method: Method) -> Tensor:
    chosen, rejected = f_scores(scores, method)
    return chosen / scores.chosen_tokens - rejected / scores.rejected_tokens


def _smoothed(logit: Tensor, smoothing: float) -> Tensor:
    """(1-e) sp(z) + e sp(-z)."""
    loss = -F.logsigmoid(logit)
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * F.logsigmoid(-logit)


def sigmoid(scores: Scores, method: Method) -> Tensor:
    """sp(b h); with label smoothing (1-e) sp(b h) + e sp(-b h), cDPO. Papers: DPO 2305.18290, cDPO note ibid."""
    return _smoothed(method.beta * _difference(scores, method), method.label_smoothing)


def sigmoid_norm(scores: Scores, method: Method) -> Tensor:
    """sp(b (u/n_w - v/n_l)); beta 5 to 10 is usual. Paper: Tulu 3, 2411.15124."""
    return _smoothed(method.beta * _average_difference(scores, method), method.label_smoothing)


def hinge(scores: Scores, method: Method) -> Tensor:
    """max(0, 1 - b h). Papers: SLiC-HF 2305.10425, RSO 2309.06657."""
    return torch.relu(1 - method.beta * _difference(scores, method))


def ipo(scores: Scores, method: Method) -> Tensor:
    """(u/n_w - v/n_l - 1/(2b))^2, token-averaged as the authors intend. Paper: IPO 2310.12036, eq. 17."""
    return (_average_difference(scores, method) - 1 / (2 * method.beta)) ** 2


def exo_pair(scores: Scores, method: Method) -> Tensor:
    """s(bh)(log s(bh) - log(1-e)) + s(-bh)(log s(-bh) - log e). Paper: EXO 2402.00856, eq. 16."""
    logit, e = method.beta * _difference(scores, method), method.label_smoothing
    better = torch.sigmoid(logit) * (F.logsigmoid(logit) - math.log1p(-e))
    worse = torch.sigmoid(-logit) * (F.logsigmoid(-logit) - math.log(e))
    return better + worse


def nca_pair(scores: Scores, method: Method) -> Tensor:
    """sp(bu) + sp(-bu)/2 + sp(-bv)/2. Paper: NCA 2402.05369."""
    chosen, rejected = method.beta * scores.u, method.beta * scores.v
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust(scores: Scores, method: Method) -> Tensor:
    """((1-e) sp(bh) - e sp(-bh)) / (1-2e): unbiased when a share e of labels is flipped. Paper: 2403.00409."""
    logit, e = method.beta * _difference(scores, method), method.label_smoothing
    return (-(1 - e) * F.logsigmoid(logit) + e * F.logsigmoid(-logit)) / (1 - 2 * e)


def bco_pair(scores: Scores, method: Method) -> Tensor:
    """sp(bu) + sp(-bv), without a running mean. Paper: BCO 2404.04656."""
    return -F.logsigmoid(method.beta * scores.u) - F.logsigmoid(-method.beta * scores.v)


def sppo_hard(scores: Scores, method: Method) -> Tensor:
    """(u - 1/(2b))^2 + (v + 1/(2b))^2: the winner's probability taken as 1. Paper: SPPO 2405.00675, eq. 4.7."""
    half = 0.5 / method.beta
    return (scores.u - half) ** 2 + (scores.v + half) ** 2


def aot(scores: Scores, method: Method) -> Tensor:
    """d = sort(S_w - S_l) - sort(ref_w - ref_l) over the batch; (1-e) sp(bd) + e sp(-bd). Paper: AOT 2406.05882."""
    policy = torch.sort(scores.chosen - scores.rejected).values
    reference = torch.sort(scores.ref_chosen - scores.ref_rejected).values
    return _smoothed(method.beta * (policy - reference), method.label_smoothing)


def aot_unpaired(scores: Scores, method: Method) -> Tensor:
    """d = sort(u) - sort(v) over the batch; (1-e) sp(bd) + e sp(-bd). Paper: AOT 2406.05882."""
    return _smoothed(method.beta * (torch.sort(scores.u).values - torch.sort(scores.v).values), method.label_smoothing)


def apo_zero(scores: Scores, method: Method) -> Tensor:
    """1 - s(bu) + s(bv): for chosen answers better than the model's own. Paper: APO 2408.06266, eq. 7."""
    return 1 - torch.sigmoid(method.beta * scores.u) + torch.sigmoid(method.beta * scores.v)


def apo_down(scores: Scores, method: Method) -> Tensor:
    """s(bu) + 1 - s(bh): for chosen answers worse than the model's own. Paper: APO 2408.06266, eq. 8."""
    return torch.sigmoid(method.beta * scores.u) + 1 - torch.sigmoid(method.beta * (scores.u - scores.v))


def discopop(scores: Scores, method: Method) -> Tensor:
    """(1-m) sp(bh) + m e^(-bh) with m = s(bh/tau). Paper: DiscoPOP 2406.08414, eq. 5."""
    logit = method.beta * _difference(scores, method)
    scaled = logit / method.discopop_tau
    # m e^-z as one exponential: e^-z alone overflows where m is far smaller than e^z
    return torch.sigmoid(-scaled) * -F.logsigmoid(logit) + torch.exp(F.logsigmoid(scaled) - logit)


def simpo(scores: Scores, method: Method) -> Tensor:
    """sp(b (a_w - a_l) - gamma); needs no reference. Paper: SimPO 2405.14734, eq. 6."""
    averages = scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens
    return _smoothed(method.beta * averages - method.simpo_gamma, method.label_smoothing)


def sft(_scores: Scores, _method: Method, nll: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen answer, a mean over tokens. Papers: RPO 2404.19733, MPO 2411.10442."""
    return nll


def orpo(scores: Scores, method: Method, nll: Tensor) -> Tensor:
    """NLL_w + b sp(log odds_w - log odds_l), odds = e^a / (1 - e^a). Paper: ORPO 2403.07691, eq. 6.

    NLL is over the answer's tokens, as in the paper; some implementations add the prompt's.
    """
    return nll + method.beta * -F.logsigmoid(
        _log_odds(scores.chosen / scores.chosen_tokens) - _log_odds(scores.rejected / scores.rejected_tokens)
    )


def cpo(scores: Scores, method: Method, nll: Tensor) -> Tensor:
    """sp(b (S_w - S_l)) + cpo_alpha NLL_w; needs no reference. Paper: CPO 2401.08417, eq. 7."""
    preference = _smoothed(method.beta * (scores.chosen - scores.rejected), method.label_smoothing)
    return preference + method.cpo_alpha * nll


def _log_odds(average: Tensor) -> Tensor:
    # log(e^a / (1 - e^a)); a just below 0 makes 1 - e^a vanish, so -expm1 keeps its digits
    limit = -torch.finfo(average.dtype).eps
    average = torch.clamp(average, max=limit)
    return average - torch.log(-torch.expm1(average))


PREFERENCE: dict[str, Loss] = {
    "sigmoid": sigmoid,
    "sigmoid_norm": sigmoid_norm,
    "hinge": hinge,
    "ipo": ipo,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "robust": robust,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "simpo": simpo,
}
TOKEN_MEAN: dict[str, Callable[[Scores, Method, Tensor], Tensor]] = {"sft": sft, "orpo": orpo, "cpo": cpo}

assert PREFERENCE.keys() | TOKEN_MEAN.keys() == LOSSES.keys()
assert PREFERENCE.keys() >= COUPLED
