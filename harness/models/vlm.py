"""An lm-eval LM for Hugging Face vision-language models in which every distinct image is processed and encoded once.

    lm = SharedImageLM(pretrained="llava-hf/llava-1.5-7b-hf", batch_size=8)        # arguments: lm-eval's HFMultimodalLM
    lm.generate_until(requests)

Requests are answered in order of length, whatever task they come from; features of an image are kept for its next question. Families
whose vision encoder needs more than pixels (InstructBLIP) or whose processor lays images out by itself (Fuyu) go lm-eval's own way.
"""

import copy
import hashlib
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER, HFMultimodalLM
from lm_eval.models.utils import handle_stop_sequences, replace_placeholders
from lm_eval.models.utils_hf import stop_sequences_criteria
from PIL.Image import Image
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import ProcessorMixin

from tasks.answer import FailedAnswer
from tasks.pictures import MAX_PIXELS, Picture


def image_digest(image: Image) -> str:
    """What is the same for the same image: a benchmark's key, else sha256 of mode, size and pixels, remembered on the image."""
    if isinstance(image, Picture):
        return image.key
    digest = image.info.get("pixels_sha256")
    if digest is None:
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
        image.info["pixels_sha256"] = digest
    return str(digest)


@dataclass(frozen=True, eq=False)
class _Encoded:
    """One image as the language model takes it."""

    features: list[Tensor]
    extra: dict[str, Tensor]
    """What the forward pass wants beside features (grid sizes)."""
    replacements: list[str]
    """Text that its placeholder in the prompt becomes."""


class SharedImageLM(HFMultimodalLM):
    """See the module's docstring. `max_kept` bounds how many images' features are held; `progress` hears (answered, asked)."""

    def __init__(self, pretrained: str, max_kept: int = 512, progress: Callable[[int, int], None] | None = None, **settings: Any) -> None:
        super().__init__(pretrained, **settings)
        self.progress = progress
        self.model.eval()
        self.max_kept = max_kept
        self.kept: OrderedDict[str, _Encoded] = OrderedDict()
        self.images_encoded = 0
        self.encoder = getattr(self.model.base_model, "get_image_features", None)
        takes = set(inspect.signature(self.encoder).parameters) if self.encoder else set()
        processor = type(self.processor)
        self.shares_images = bool(
            self.encoder
            and self.model._supports_mm_encoder_outputs()
            and not any(name == "input_ids" or "qformer" in name for name in takes)
            and processor.prepare_inputs_layout is ProcessorMixin.prepare_inputs_layout
            and processor.replace_image_token is not ProcessorMixin.replace_image_token
        )
        self.encoder_takes = takes
        self.forward_takes = set(inspect.signature(self.model.forward).parameters)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where an image could not be read."""
        if not self.shares_images or any(len(request.args) < 3 for request in requests):
            answers: list[str] = super().generate_until(requests, disable_tqdm)
            return answers
        results: list[str | None] = [None] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            error = next((problem for image in request.args[2]["visual"] if (problem := _problem(image))), None)
            if error:
                results[index] = FailedAnswer(error)
            else:
                # Questions without an image apart: a batch has features for all of its rows or for none.
                groups[repr((bool(request.args[2]["visual"]), sorted(request.args[1].items())))].append(index)
        batches = []
        for indices in groups.values():
            # Like lengths together, and within them one image's questions together.
            order = sorted(indices, key=lambda i: (len(requests[i].args[0]), [image_digest(v) for v in requests[i].args[2]["visual"]]))
            batches += [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        done = sum(result is not None for result in results)
        for batch in batches:
            for index, answer in zip(batch, self._answer([requests[i] for i in batch]), strict=True):
                results[index] = answer
            done += len(batch)
            if self.progress is not None and not disable_tqdm:
                self.progress(done, len(requests))
        return [result if result is not None else FailedAnswer("not answered") for result in results]

    @torch.inference_mode()
    def _answer(self, requests: list[Instance]) -> list[str]:
        """Answers to requests of the same generation settings."""
        settings = copy.deepcopy(requests[0].args[1])
        until = handle_stop_sequences(settings.pop("until", None), self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        new_tokens = settings.pop("max_gen_toks", self.max_gen_toks)
        if not settings.get("do_sample"):
            settings = {"do_sample": False}
        visuals = [request.args[2]["visual"][: self.max_images] for request in requests]
        features = iter(self._encoded([image for images in visuals for image in images]))
        encoded = [[next(features) for _ in images] for images in visuals]
        prompts = [self._prompt(request.args[0], images) for request, images in zip(requests, encoded, strict=True)]
        rows = [self.tokenizer(prompt, add_special_tokens=not self.chat_applied)["input_ids"] for prompt in prompts]
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self.device)
        inputs = self._image_inputs([image for images in encoded for image in images])
        if self.processor.return_mm_token_type_ids:
            types = [self.processor.create_mm_token_type_ids([row])[0] for row in rows]
            inputs["mm_token_type_ids"] = torch.tensor([[0] * (length - len(row)) + list(row) for row in types], device=self.device)
        stop = StoppingCriteriaList(stop_sequences_criteria(self.tokenizer, until, length, len(rows)))
        written = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            pad_token_id=pad,
            use_cache=True,
            stopping_criteria=stop,
            **settings,
            **inputs,
        )
        answers = []
        for row in written[:, length:].tolist():
            answer: str = self.tok_decode(row)
            for end in until:
                if end:
                    answer = answer.split(end)[0]
            answers.append(answer)
        return answers

    def _prompt(self, text: str, images: list[_Encoded]) -> str:
        if not self.chat_applied:
            text = replace_placeholders(text, DEFAULT_IMAGE_PLACEHOLDER, self.image_token, self.max_images)
        expanded, _ = self.processor.get_text_with_replacements([text], [part for image in images for part in image.replacements])
        return str(expanded[0])

    def _encoded(self, images: list[Image]) -> list[_Encoded]:
        """Features of each image, from what is kept where it is there."""
        missing = list({image_digest(image): image for image in images if image_digest(image) not in self.kept}.items())
        by_size: dict[tuple[int, int], list[tuple[str, Image]]] = defaultdict(list)
        for digest, image in missing:
            by_size[image.size].append((digest, image))
        for group in by_size.values():
            self.kept.update(zip([digest for digest, _ in group], self._encode([image for _, image in group]), strict=True))
        self.images_encoded += len(missing)
        found = []
        for image in images:
            self.kept.move_to_end(image_digest(image))
            found.append(self.kept[image_digest(image)])
        while len(self.kept) > self.max_kept:
            self.kept.popitem(last=False)
        return found

    def _encode(self, images: list[Image]) -> list[_Encoded]:
        """Images of one size, in one pass where the family's tensors have one row an image."""
        kwargs = self.processor._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, return_tensors="pt")
        processed, replacements = self.processor._process_images([image.convert("RGB") for image in images], **kwargs["images_kwargs"])
        tensors = {
            name: (value := torch.as_tensor(part)).to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, part in processed.items()
            if name not in self.processor.unused_input_names
        }
        assert self.encoder is not None
        output = self.encoder(**{name: part for name, part in tensors.items() if name in self.encoder_takes}, return_dict=True)
        features, count = list(output.pooler_output), len(images)
        extra = {name: part for name, part in tensors.items() if not name.startswith(("pixel_values", "image_patches"))}
        if count > 1 and (len(features) != count or len(replacements) != count or any(len(part) != count for part in extra.values())):
            return [self._encode([image])[0] for image in images]
        if count == 1:
            return [_Encoded(features=features, extra=extra, replacements=list(replacements))]
        return [
            _Encoded(features=[features[i]], extra={name: part[i : i + 1] for name, part in extra.items()}, replacements=[replacements[i]])
            for i in range(count)
        ]

    def _image_inputs(self, images: list[_Encoded]) -> dict[str, Any]:
        if not images:
            return {}
        extra: dict[str, list[Tensor]] = defaultdict(list)
        for image in images:
            for name, part in image.extra.items():
                if name in self.forward_takes:
                    extra[name].append(part)
        features = BaseModelOutputWithPooling(pooler_output=[part for image in images for part in image.features])
        return {name: torch.cat(parts) for name, parts in extra.items()} | {"mm_encoder_outputs": {"image": features}}


def _problem(image: Image) -> str | None:
    """Why this image can't be shown to a model, or None."""
    try:
        if image.width * image.height > MAX_PIXELS:
            return f"image of {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS}"
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return f"image can't be read: {error}"
    return None
