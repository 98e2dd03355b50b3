"""The losses that a recipe can name. Recipes are checked, trainers and TRL's arguments chosen by these entries, and the
table of docs/training.md is made of them.

    find_loss("cdpo").trl_arguments(beta=0.1, smoothing=0.1)

A new loss that TRL has terms for is an entry here and its formula in trainers/losses/functions.py, which a test holds
TRL to. One that reads something else also needs a dataset and a trainer; trainers/training/dpo.py chooses by `reads`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from support.errors import RecipeError, did_you_mean

MPO_WEIGHTS: Final = (0.8, 0.2, 1.0)
"""Of preference (DPO), quality (BCO) and generation (NLL) in MPO (2411.10442)."""

Reads = Literal["pair", "changed tokens", "crop", "noised image"]
"""The two answers; both with a weight a token; or also a third sequence: the chosen answer with a crop of the image, or
with the image in noise."""


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """A loss and what it needs."""

    name: str
    summary: str
    """As in the table of docs/training.md."""
    reads: Reads = "pair"
    settings: tuple[str, ...] = ()
    """Keys of [training] that it takes besides `beta`; "noise.step" is a key of the table noise."""
    needs_smoothing: bool = False
    """True if it would be plain DPO with `smoothing` = 0."""
    trl_terms: Callable[[float], Mapping[str, float]] = lambda smoothing: {"sigmoid": 1.0}
    """`smoothing` -> TRL's loss types and their weights."""

    @property
    def packed(self) -> bool:
        """True if it can be trained on packed rows, which have no place for a second picture."""
        return self.reads in ("pair", "changed tokens")

    def trl_arguments(self, *, beta: float, smoothing: float = 0.0, sft_weight: float = 0.0) -> dict[str, Any]:
        """Arguments of TRL's DPOConfig for this loss plus `sft_weight` times the chosen answers' NLL."""
        terms = dict(self.trl_terms(smoothing))
        if sft_weight:
            terms["sft"] = terms.get("sft", 0.0) + sft_weight
        weighted = {"loss_type": list(terms), "loss_weights": list(terms.values())}
        return {"beta": beta, "label_smoothing": smoothing, **weighted}


def _cdpo_terms(smoothing: float) -> dict[str, float]:
    # TRL has no cDPO. It is 2 (1 - e) DPO - (1 - 2 e) robust, exactly.
    return {"sigmoid": 2 * (1 - smoothing), "robust": -(1 - 2 * smoothing)}


_NOISE = ("noise.step", "noise.overflow", "noise.place")

_SPECS: Final = (
    LossSpec(name="dpo", summary="the chosen answer above the rejected one (2305.18290)", settings=("sft_weight",)),
    LossSpec(
        name="cdpo",
        summary="the same where a share of labels is swapped (Mitchell, 2023)",
        settings=("smoothing", "sft_weight"),
        needs_smoothing=True,
        trl_terms=_cdpo_terms,
    ),
    LossSpec(
        name="robust",
        summary="the same, without bias (2403.00409)",
        settings=("smoothing", "sft_weight"),
        needs_smoothing=True,
        trl_terms=lambda smoothing: {"robust": 1.0},
    ),
    LossSpec(
        name="ipo",
        summary="squared distance of the margin a token from 1 / (2 beta) (2310.12036)",
        settings=("sft_weight",),
        trl_terms=lambda smoothing: {"ipo": 1.0},
    ),
    LossSpec(
        name="hinge",
        summary="0 from a margin of 1 / beta on (2309.06657)",
        settings=("sft_weight",),
        trl_terms=lambda smoothing: {"hinge": 1.0},
    ),
    LossSpec(
        name="mpo",
        summary="0.8 DPO + 0.2 BCO + likelihood (2411.10442)",
        settings=("sft_weight",),
        trl_terms=lambda smoothing: dict(zip(("sigmoid", "bco_pair", "sft"), MPO_WEIGHTS, strict=True)),
    ),
    LossSpec(
        name="ddpo",
        summary="DPO whose log-probabilities count the tokens in which two answers differ `gamma` (5) times, "
        "divided by the weights' sum (RLHF-V, 2312.00849, with `beta = 0.5`)",
        reads="changed tokens",
        settings=("gamma",),
    ),
    LossSpec(
        name="mdpo",
        summary="DPO on answers, DPO on pictures (the chosen answer beside a crop of 1 to 20% of the area), "
        "and the chosen reward held above `anchor` (2406.11839)",
        reads="crop",
        settings=("crop_area", "anchor"),
    ),
    LossSpec(
        name="povid-paper",
        summary="also against what the model reads off a noised picture, as the paper has it (2402.11411)",
        reads="noised image",
        settings=(*_NOISE, "noise.alpha", "noise.beta_image"),
    ),
    LossSpec(name="povid-code", summary="the same as the released code has it", reads="noised image", settings=_NOISE),
)
LOSSES: Final[Mapping[str, LossSpec]] = {spec.name: spec for spec in _SPECS}
LOSS_SETTINGS: Final = tuple(dict.fromkeys(name for spec in LOSSES.values() for name in spec.settings))
"""Settings that not every loss takes."""


def find_loss(name: str) -> LossSpec:
    """The loss of this name; RecipeError."""
    if name not in LOSSES:
        raise RecipeError(f"no loss of that name{did_you_mean(name, LOSSES)}")
    return LOSSES[name]


def losses_taking(setting: str) -> str:
    """The losses that take a setting, as words: "the losses cdpo and robust"."""
    *others, last = (name for name, spec in LOSSES.items() if setting in spec.settings)
    return f"the losses {', '.join(others)} and {last}" if others else f"the loss {last}"
