"""A prompt's tokens: text and image positions in the order in which the model reads them.

layout = PromptLayout(model, processor, image_token="<image>", image_token_id=32000, device=device)
layout.ids(context, encoded, templated=True)                # images that were encoded before
layout.processor_inputs(context, images, templated=True)    # all of it by the checkpoint's own processor
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER
from lm_eval.models.utils import replace_placeholders
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from harness.engine.families import INTERLEAVED, PLACES_IMAGES_ITSELF
from harness.engine.family_prompts import is_address
from harness.engine.feature_files import Encoded


class BadPrompt(ValueError):
    """A prompt that can't be laid out with its images; the message says why."""


class PromptLayout:
    """See the module's docstring. `templated` prompts were written by a chat template, image placeholders included."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        image_token: str,
        image_token_id: int | None,
        max_images: int,
        device: torch.device,
    ) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.image_token, self.max_images, self.device = image_token, max_images, device
        known = [*getattr(processor, "image_token_ids", ()), image_token_id]
        self.image_ids = frozenset(token for token in known if token is not None)
        """Tokens at whose positions an image is read."""
        self._replacement_ids: dict[str, list[int]] = {}

    def ids(self, context: str, images: Sequence[Encoded], *, templated: bool) -> list[int]:
        """A prompt's ids, with the positions of its images filled in. BadPrompt."""
        replacements = [part for image in images for part in image.replacements]
        given = self.with_placeholders(context, templated)
        # Some processors lay out the text only beside images; what these show doesn't matter.
        stand_ins = {"images": [[new_image("RGB", (8, 8))] * len(images)]} if images else {}
        (text,) = self.processor.prepare_inputs_layout(text=[given], **stand_ins)[1]
        place = getattr(self.processor, "image_token", None)
        if place is not None and replacements and text.count(place) != len(replacements):
            raise BadPrompt(
                f"the prompt has {text.count(place)} places for {len(replacements)} images: its text holds {place!r}"
            )
        expanded, _ = self.processor.get_text_with_replacements([text], replacements)
        bos = self.tokenizer.bos_token
        processor_wrote_bos = bos is not None and bos in text and bos not in given
        add_special = self.adds_special_tokens(text, templated) and not processor_wrote_bos
        ids = [int(token) for token in self.tokenizer(expanded[0], add_special_tokens=add_special)["input_ids"]]
        wanted = sum(token in self.image_ids for part in replacements for token in self._ids_of_replacement(part))
        if (there := sum(token in self.image_ids for token in ids)) != wanted:
            raise BadPrompt(
                f"the prompt has {there} image positions for {wanted} of its images: its text holds an image's tokens"
            )
        return ids

    def types(self, ids: list[int]) -> list[int] | None:
        """1 for each token that is an image's; None in families that are not told."""
        if not self.processor.return_mm_token_type_ids:
            return None
        types: list[int] = self.processor.create_mm_token_type_ids([ids])[0]
        return types

    def end_of_images(self, ids: Sequence[int]) -> int:
        """How many tokens there are up to the end of the last image."""
        return next((at + 1 for at in reversed(range(len(ids))) if ids[at] in self.image_ids), 0)

    def processor_inputs(self, context: str, images: Sequence[Image], *, templated: bool) -> dict[str, Any]:
        """What the forward pass takes, made by the processor alone."""
        rgb = [image.convert("RGB") for image in images]
        shown: dict[str, Any] = {"images": [rgb]} if images else {}
        if self.model.config.model_type in PLACES_IMAGES_ITSELF:
            text = context.replace(DEFAULT_IMAGE_PLACEHOLDER, "")
            inputs = self.processor(text=[text], return_tensors="pt", **shown)
        elif self.model.config.model_type in INTERLEAVED:
            parts = context.split(DEFAULT_IMAGE_PLACEHOLDER)
            mixed = [part for pair in zip_longest(parts, rgb) for part in pair if part not in (None, "")]
            for part in mixed:
                if isinstance(part, str) and is_address(part):  # the processor would fetch it
                    raise BadPrompt(f"the prompt has an address where its processor expects words: {part.strip()[:80]}")
            # The prompt has the marks of its turns already.
            inputs = self.processor(text=[mixed], return_tensors="pt", add_end_of_utterance_token=False)
        else:
            text = self.with_placeholders(context, templated)
            add_special = self.adds_special_tokens(text, templated)
            inputs = self.processor(text=[text], return_tensors="pt", add_special_tokens=add_special, **shown)
        return {name: self._on_device(part) for name, part in inputs.items()}

    def _on_device(self, part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        return part.to(self.device, self.model.dtype if part.is_floating_point() else None)

    def adds_special_tokens(self, text: str, templated: bool) -> bool:
        """False if a template wrote the first of the tokenizer's own tokens."""
        bos = self.tokenizer.bos_token
        return not (templated and bos is not None and text.startswith(bos))

    def _ids_of_replacement(self, replacement: str) -> list[int]:
        """The ids of what an image's placeholder becomes."""
        if replacement not in self._replacement_ids:
            ids = self.tokenizer(replacement, add_special_tokens=False)["input_ids"]
            self._replacement_ids[replacement] = ids
        return self._replacement_ids[replacement]

    def with_placeholders(self, context: str, templated: bool) -> str:
        """The text with the model's own placeholder for images where no template wrote it."""
        if templated:
            return context
        text: str = replace_placeholders(context, DEFAULT_IMAGE_PLACEHOLDER, self.image_token, self.max_images)
        return text
