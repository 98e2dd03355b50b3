"""The preference losses, as pure functions of log-probabilities.

    ratio = log_probs - reference_log_probs                      # [pairs], of whole answers
    dpo(chosen=ratio_w, rejected=ratio_l, beta=0.1).mean()

`chosen` and `rejected` are log-ratios: log pi(y | m, q) - log pi_ref(y | m, q), summed over an answer's tokens, in
nats, [pairs]. A loss is [pairs] too, to be averaged. `trainers.config.losses` says how TRL's trainer computes the same
if it can.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trainers.config.losses import MPO_WEIGHTS

GAMMA = 5.0
"""Weight of a changed token in RLHF-V (2312.00849)."""
SHORTEST_RUN = 3
"""Least number of consecutive common tokens that count as unchanged: RLHF-V's `min_match_size`."""


def dpo(*, chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (r_w - r_l)) (Rafailov et al., 2305.18290); Silkie, and POVID's first stage."""
    return -logsigmoid(beta * (chosen - rejected))


def cdpo(*, chosen: Tensor, rejected: Tensor, beta: float, smoothing: float) -> Tensor:
    """Conservative DPO, for labels of which a share `smoothing` is swapped (Mitchell's note of 2023)."""
    right, swapped = dpo(chosen=chosen, rejected=rejected, beta=beta), dpo(chosen=rejected, rejected=chosen, beta=beta)
    return (1 - smoothing) * right + smoothing * swapped


def robust(*, chosen: Tensor, rejected: Tensor, beta: float, smoothing: float) -> Tensor:
    """Unbiased estimate of DPO's loss from labels of which a share `smoothing` < 0.5 is swapped (2403.00409)."""
    right, swapped = dpo(chosen=chosen, rejected=rejected, beta=beta), dpo(chosen=rejected, rejected=chosen, beta=beta)
    return ((1 - smoothing) * right - smoothing * swapped) / (1 - 2 * smoothing)


def hinge(*, chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta (r_w - r_l)) (SLiC's form, 2309.06657)."""
    return torch.relu(1 - beta * (chosen - rejected))


def ipo(*, chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float) -> Tensor:
    """(r_w / |y_w| - r_l / |y_l| - 1 / (2 beta))^2 (2310.12036), log-ratios a token as its authors run it."""
    return (chosen / chosen_tokens - rejected / rejected_tokens - 1 / (2 * beta)) ** 2


def bco(*, chosen: Tensor, rejected: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    """-log sigmoid(beta r_w - delta) - log sigmoid(-(beta r_l - delta)) (2404.04656); TRL's delta is 0."""
    return -logsigmoid(beta * chosen - delta) - logsigmoid(-(beta * rejected - delta))


def nll(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the chosen answers' tokens: log_probs and mask [pairs, length] -> a scalar."""
    return -(log_probs * mask).sum() / mask.sum()


def mpo(*, chosen: Tensor, rejected: Tensor, likelihood: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    """0.8 DPO + 0.2 BCO + 1.0 NLL (2411.10442); `likelihood` is `nll` of the batch."""
    preference, quality, generation = MPO_WEIGHTS
    own = preference * dpo(chosen=chosen, rejected=rejected, beta=beta)
    return own + quality * bco(chosen=chosen, rejected=rejected, beta=beta, delta=delta) + generation * likelihood


def mdpo(*, chosen: Tensor, rejected: Tensor, chosen_elsewhere: Tensor, beta: float, anchor: float = 0.0) -> Tensor:
    """DPO on the answers + DPO on the images + an anchor that keeps the chosen reward above `anchor` (2406.11839).

    `chosen_elsewhere`: log-ratio of the chosen answer given a crop of at most 20% of the image.
    """
    images = dpo(chosen=chosen, rejected=chosen_elsewhere, beta=beta)
    return dpo(chosen=chosen, rejected=rejected, beta=beta) + images - logsigmoid(beta * chosen - anchor)


def changed_tokens(
    chosen: Sequence[int], rejected: Sequence[int], shortest: int = SHORTEST_RUN
) -> tuple[list[bool], list[bool]]:
    """For each answer, which tokens are outside of common runs of at least `shortest` tokens.

    As in RLHF-V's paper; its code does not count insertions and deletions.
    """
    changed = [True] * len(chosen), [True] * len(rejected)
    for block in difflib.SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks():
        if block.size >= shortest:
            changed[0][block.a : block.a + block.size] = [False] * block.size
            changed[1][block.b : block.b + block.size] = [False] * block.size
    return changed


def segment_log_probs(log_probs: Tensor, mask: Tensor, changed: Tensor, gamma: float = GAMMA) -> Tensor:
    """DDPO's log-probability of an answer: a mean over its tokens, changed ones weighted by `gamma` (2312.00849).

    All [pairs, length] -> [pairs]; `dpo` takes the log-ratio of these, with RLHF-V's beta of 0.5.
    """
    weights = mask * torch.where(changed, gamma, 1.0)
    return (log_probs * weights).sum(-1) / weights.sum(-1)


def answer_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """log pi of whole answers: logits [pairs, length, vocabulary] that predict tokens [pairs, length] -> [pairs]."""
    return (logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1) * mask).sum(-1)


def seen_through_noise(noisy: Tensor) -> Tensor:
    """POVID's answer y_n: the likeliest token at each position of the chosen answer, given a noised image."""
    return noisy.argmax(-1)


def povid_paper_ratio(*, noisy: Tensor, reference_noisy: Tensor, mask: Tensor) -> Tensor:
    """Log-ratio of y_n in POVID's paper: policy and reference score the policy's y_n, given the noised image.

    Logits [pairs, length, vocabulary] along the chosen answer -> [pairs].
    """
    tokens = seen_through_noise(noisy)
    return answer_log_probs(noisy, tokens, mask) - answer_log_probs(reference_noisy, tokens, mask)


def povid_code_ratio(
    *, clean: Tensor, noisy: Tensor, reference_clean: Tensor, reference_noisy: Tensor, mask: Tensor
) -> Tensor:
    """Log-ratio of y_n in POVID's released code: each model scores its own y_n, given the clean image."""
    own = answer_log_probs(clean, seen_through_noise(noisy), mask)
    return own - answer_log_probs(reference_clean, seen_through_noise(reference_noisy), mask)


def povid_paper(
    *, chosen: Tensor, rejected: Tensor, own: Tensor, alpha: float, beta_text: float, beta_image: float
) -> Tensor:
    """One sigmoid over both rejected answers: -log sigmoid(alpha r_w - (beta1 r_l + beta2 r_n)) (2402.11411).

    `own` is `povid_paper_ratio`. The paper does not report its three coefficients.
    """
    return -logsigmoid(alpha * chosen - (beta_text * rejected + beta_image * own))


def povid_code(*, chosen: Tensor, rejected: Tensor, own: Tensor, beta: float = 0.1) -> Tensor:
    """Mean of two DPO losses, against each rejected answer; `own`: `povid_code_ratio` (POVID's repository, 92c7c67)."""
    return (dpo(chosen=chosen, rejected=rejected, beta=beta) + dpo(chosen=chosen, rejected=own, beta=beta)) / 2
