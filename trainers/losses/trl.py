"""Losses by their name in recipes as arguments of TRL's trainers."""

from typing import TYPE_CHECKING, Any

from support.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    pass


MPO_WEIGHTS = (0.8, 0.2, 1.0)
"""Of preference (DPO), quality (BCO) and generation (NLL) in MPO (2411.10442)."""

IN_TRL = ("dpo", "cdpo", "robust", "ipo", "hinge", "mpo")
"""Losses that TRL's trainer computes from a pair alone; the others need more sequences or other weights than a pair
has."""


def trl_arguments(loss: str, *, beta: float, smoothing: float = 0.0, sft_weight: float = 0.0) -> dict[str, Any]:
    """What TRL's DPOConfig must be given to compute this loss, plus `sft_weight` times `nll`; RecipeError.

    TRL has no cDPO. It is 2 (1 - e) DPO - (1 - 2 e) robust, exactly.
    """
    preference, quality, generation = MPO_WEIGHTS
    terms: dict[str, dict[str, float]] = {
        "dpo": {"sigmoid": 1.0},
        "cdpo": {"sigmoid": 2 * (1 - smoothing), "robust": -(1 - 2 * smoothing)},
        "robust": {"robust": 1.0},
        "ipo": {"ipo": 1.0},
        "hinge": {"hinge": 1.0},
        "mpo": {"sigmoid": preference, "bco_pair": quality, "sft": generation},
    }
    if loss not in terms:
        raise RecipeError(f"no loss {loss!r} for training on pairs{did_you_mean(loss, IN_TRL)}")
    if not 0 <= smoothing < 0.5:
        raise RecipeError(f"smoothing = {smoothing}: the share of swapped labels is at least 0 and below 0.5")
    if smoothing and loss not in ("cdpo", "robust"):
        raise RecipeError(f"{loss!r} takes no smoothing; cdpo and robust do")
    weights = terms[loss]
    if sft_weight:
        weights = {**weights, "sft": weights.get("sft", 0.0) + sft_weight}
    return {
        "beta": beta,
        "label_smoothing": smoothing,
        "loss_type": list(weights),
        "loss_weights": list(weights.values()),
    }
