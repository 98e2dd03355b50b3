"""RLHF-V's DDPO in training: DPO that gives more weight to the tokens in which the two answers differ (2312.00849).

    class Trainer(SegmentWeights, DPOTrainer): ...                  # or PackedDPOTrainer
    trainer = Trainer(gamma=5.0, model=model, args=DPOConfig(beta=0.5, ...), train_dataset=Pairs(pairs), ...)

TRL sums an answer's log-probabilities over its tokens. It is given models whose log-probabilities are multiplied by
their tokens' shares of the weights, so that the sum is `functions.segment_log_probs`. Loss and metrics are TRL's own;
`logps/chosen` and `logps/rejected` are means a token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.losses.functions import GAMMA, SHORTEST_RUN, changed_tokens


def token_weights(input_ids: Tensor, asked: Tensor, gamma: float) -> Tensor:
    """Weights of predicted tokens: [2 pairs, length], chosen before rejected -> [2 pairs, length - 1]; rows sum to 1.

    `asked` marks answers' tokens. They are compared with the prompt's last tokens before them, so that equal beginnings
    count as unchanged.
    """
    found = torch.zeros(len(asked), asked.shape[1] - 1)
    spans = [_find_answer(row) for row in asked]
    half = len(spans) // 2
    for number in range(half):
        ends = (number, number + half)
        lead = min(SHORTEST_RUN, *(spans[end][0] for end in ends))
        chosen, rejected = (input_ids[end, spans[end][0] - lead : spans[end][1]].tolist() for end in ends)
        for end, changed in zip(ends, changed_tokens(chosen, rejected), strict=True):
            weights = torch.where(torch.tensor(changed[lead:], dtype=torch.bool), gamma, 1.0)
            found[end, spans[end][0] - 1 : spans[end][1] - 1] = weights / weights.sum()
    return found


def _find_answer(row: Tensor) -> tuple[int, int]:
    """Where a row's answer begins and ends; an answer without tokens begins after the row's end."""
    places = row.nonzero().flatten().tolist()
    return (places[0], places[-1] + 1) if places else (len(row), len(row))


@dataclass(frozen=True)
class SegmentCollator:
    """A collator whose batches, laid out as TRL's, also have `token_weights`."""

    collate: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
    gamma: float

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the wrapped collator makes, and the weights."""
        batch = self.collate(examples)
        weights = token_weights(batch["input_ids"], batch["completion_mask"].bool(), self.gamma)
        return {**batch, "token_weights": weights}


class WeightedCall:
    """Called by TRL in place of the model: multiplies log-probabilities by their tokens' weights."""

    def __init__(self, model: Any, weights: Tensor) -> None:
        self.model, self.weights = model, weights

    def __call__(self, **given: Any) -> Any:
        """The model's output, weighted."""
        found = self.model(**given)
        found.log_probs = found.log_probs * self.weights
        return found


class SegmentWeights:
    """A mixin that gives a TRL trainer, packed or not, DDPO's loss; it comes first in a class's bases."""

    args: Any
    model: Any
    ref_model: Any
    data_collator: Any

    def __init__(self, *, gamma: float = GAMMA, **given: Any) -> None:
        given["args"].remove_unused_columns = False
        super().__init__(**given)
        self.gamma = gamma
        self.data_collator = SegmentCollator(self.data_collator, gamma)
        self.precompute_ref_logps = True  # TRL then takes them from the batch

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
        asked = dict(inputs)
        if "ref_chosen_logps" not in inputs:
            reference = self.model if self.ref_model is None else self.ref_model
            asked["ref_chosen_logps"], asked["ref_rejected_logps"] = self.compute_ref_log_probs(reference, inputs)
        weights = asked.pop("token_weights")
        return super()._compute_loss(WeightedCall(model, weights), asked, return_outputs)  # type: ignore[misc]

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """The trainer's, of weighted log-probabilities."""
        asked = dict(inputs)
        weights = asked.pop("token_weights")
        return super().compute_ref_log_probs(WeightedCall(model, weights), asked)  # type: ignore[misc]

    def _settings(self) -> str:
        # The packed trainer stores the reference's log-probabilities, which differ with gamma.
        return f"{super()._settings()}/segments {self.gamma!r}"  # type: ignore[misc]
