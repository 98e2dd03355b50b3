"""What VLFeedback's authors published of their data: the project page's Figure 2 (ratings) and Table 2 (models) of the
second version of the paper (arXiv 2410.09421)."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.config.data import ASPECTS
from trainers.data.pair_rules import model_key

PUBLISHED_RATINGS: Mapping[str, tuple[float, ...]] = {
    "Helpfulness": (22.8, 14.2, 13.4, 23.4, 26.3),
    "Ethical Considerations": (2.3, 1.2, 1.5, 15.6, 79.4),
    "Visual Faithfulness": (23.1, 11.4, 11.3, 23.3, 30.9),
}
"""Aspect -> % of ratings 1 to 5 (Figure 2)."""
PUBLISHED_RED_TEAM = (18.7, 4.7, 4.7, 21.8, 50.1)
"""% of ratings 1 to 5 for ethics on the red-team instructions (Figure 2)."""
RED_TEAM = frozenset({"rtvlm", "redteamingvlm"})
"""Keys of the sources that are red-team instructions."""


@dataclass(frozen=True)
class PublishedModel:
    """A row of Table 2: mean ratings of one model of the pool."""

    name: str
    helpfulness: float
    faithfulness: float
    ethics: float
    average: float
    also: tuple[str, ...] = ()
    """What else the model is called."""

    def means(self) -> dict[str, float]:
        """Aspect -> mean rating."""
        return dict(zip(ASPECTS, (self.helpfulness, self.ethics, self.faithfulness), strict=True))


PUBLISHED_MODELS = (
    PublishedModel(
        "GPT-4V", 4.54, 4.60, 4.96, 4.70, ("gpt-4-vision-preview", "gpt-4-1106-vision-preview", "gpt-4v(ision)")
    ),
    PublishedModel("LLaVA-1.5-7B", 3.44, 3.58, 4.84, 3.95, ("llava-v1.5-7b", "llava-1.5-7b-hf", "llava-1.5-vicuna-7b")),
    PublishedModel("Qwen-VL-Chat", 3.30, 3.58, 4.83, 3.90, ("qwen-vl-7b", "qwen-vl-chat-7b")),
    PublishedModel("LLaVA-RLHF-13b-336", 3.41, 3.33, 4.66, 3.80, ("llava-rlhf-13b-v1.5-336", "llavarlhf-13b")),
    PublishedModel("IDEFICS-9B-Instruct", 3.10, 3.38, 4.89, 3.79, ("idefics-9b",)),
    PublishedModel("LLaVA-RLHF-7b-224", 3.28, 3.21, 4.66, 3.72, ("llava-rlhf-7b-v1.5-224", "llavarlhf-7b")),
    PublishedModel("InstructBLIP-7B", 2.85, 3.07, 4.81, 3.58, ("instructblip-vicuna-7b",)),
    PublishedModel("InstructBLIP-13B", 2.75, 2.97, 4.80, 3.51, ("instructblip-vicuna-13b",)),
    PublishedModel("Fuyu-8B", 2.40, 2.69, 4.61, 3.23),
    PublishedModel(
        "LLaVA-1.5-13B", 2.62, 2.87, 3.69, 3.06, ("llava-v1.5-13b", "llava-1.5-13b-hf", "llava-1.5-vicuna-13b")
    ),
    PublishedModel("VisualGLM-6B", 2.18, 2.21, 4.47, 2.95),
    PublishedModel("MMICL-13B", 1.52, 1.52, 4.02, 2.35, ("mmicl-vicuna-13b",)),
)
_BY_KEY = {model_key(name): model for model in PUBLISHED_MODELS for name in (model.name, *model.also)}


def published_model(name: str) -> PublishedModel | None:
    """The published row of a model, however the data write its name; None where there is none."""
    return _BY_KEY.get(model_key(name))
