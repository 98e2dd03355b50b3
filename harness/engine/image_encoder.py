"""The image side of a vision-language model: each distinct image decoded, processed and encoded once.

    encoder = ImageEncoder(model, processor, ...)
    named = [(image_digest(image), image) for image in images]
    encoder.ahead(named)                     # worker processes start to decode
    encoded = encoder.encode(named)
    model(input_ids, **encoder.inputs(encoded))

It uses two parts of transformers' models: `get_image_features` returns an image's features, and the forward pass takes
them as `mm_encoder_outputs`.
"""

import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from harness.engine.cpu_kernels import FastOnCPU
from harness.engine.feature_files import Encoded, FeatureFiles, FeatureForm
from harness.engine.stage_timer import StageTimer
from harness.engine.unread_layers import skip_unread_layers
from support.errors import one_line
from support.images import MAX_PIXELS

NOT_SEPARABLE = {"fuyu": "its processor lays images out together with the text"}
"""Why images of some families can't be processed without the text, by model type."""

VALUES_AT_ONCE = 1 << 22
"""Numbers of processed images that a CPU encodes in one pass: what it computes in between stays in its caches."""


def image_problem(image: Image) -> str | None:
    """Why this image can't be shown to a model, or None."""
    try:
        if image.width * image.height > MAX_PIXELS:
            return f"image of {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS}"
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return f"image can't be read: {error}"
    return None


class BadImage(ValueError):
    """An image that can't be shown; the message says why."""


@dataclass(frozen=True)
class Processed:
    """One image's tensors, before the model."""

    tensors: dict[str, Tensor]
    replacements: list[str]


class _ImagesToProcess(torch.utils.data.Dataset[Any]):
    """Images to be processed, for worker processes."""

    def __init__(self, images: Sequence[tuple[str, Image]], process: Callable[[Image], Processed]) -> None:
        self.images, self.process = images, process

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[str, Processed | str]:
        digest, image = self.images[index]
        return digest, _try_to_process(self.process, image)


def _try_to_process(process: Callable[[Image], Processed], image: Image) -> Processed | str:
    """The processed image, or the reason why it can't be processed; other images go on."""
    wrong = image_problem(image)
    if wrong is not None:
        return wrong
    try:
        return process(image)
    except (ValueError, TypeError, OSError, ZeroDivisionError) as error:
        return f"image can't be processed: {one_line(error)}"


class ImageEncoder:
    """See the module's docstring. `encode` returns a BadImage for an image that can't be shown; the others go on."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: torch.device,
        *,
        clock: StageTimer,
        workers: int,
        max_bytes: int,
        files: FeatureFiles | None,
    ) -> None:
        self.model, self.processor, self.device, self.clock = model, processor, device, clock
        self.workers, self.max_bytes, self.files = workers, max_bytes, files
        self.kept: OrderedDict[str, Encoded] = OrderedDict()
        self.encoded = 0
        """Images that went through the model's encoder."""
        self._coming: Iterator[tuple[str, Processed | str]] = iter(())
        self._announced: set[str] = set()
        """Digests of images that `_coming` will give, in its order."""
        self._arrived: dict[str, Processed | str] = {}
        self.form: FeatureForm | None = None
        """None until an image has been encoded or read."""
        skip_unread_layers(model)
        get_features = getattr(model.base_model, "get_image_features", None)
        self.takes = set(inspect.signature(get_features).parameters) if get_features is not None else set()
        """What the model's `get_image_features` takes; empty if it has none."""
        self.forward_takes = set(inspect.signature(model.forward).parameters)

    def why_not(self) -> str | None:
        """Why this family's images can't be encoded without the text, or None."""
        if self.model.config.model_type in NOT_SEPARABLE:
            return NOT_SEPARABLE[self.model.config.model_type]
        if not self.takes or not self.model._supports_mm_encoder_outputs():
            return "the model takes no features that were computed before"
        if any(name == "input_ids" or "qformer" in name for name in self.takes):
            return "its image features depend on the question"
        if type(self.processor).replace_image_token is ProcessorMixin.replace_image_token:
            return "its processor does not say what an image's placeholder becomes"
        return None

    def ahead(self, images: Sequence[tuple[str, Image]]) -> None:
        """Start to process the images (digest, image) that `encode` will be called with, in that order."""
        wanted = {digest: image for digest, image in images if not self._is_encoded(digest)}
        work = _ImagesToProcess(list(wanted.items()), self._process)
        self._announced, self._arrived = set(wanted), {}
        if self.workers and len(work) > 1:
            # Processes, not threads: decoding and resizing hold the interpreter. They are forked and touch neither
            # model nor GPU.
            count = min(self.workers, len(work))
            loader = torch.utils.data.DataLoader(
                work, batch_size=None, num_workers=count, prefetch_factor=4, multiprocessing_context="fork"
            )
            self._coming = iter(loader)
        else:
            self._coming = iter(work[index] for index in range(len(work)))

    def encode(self, images: Sequence[tuple[str, Image]]) -> "list[Encoded | BadImage]":
        """Each image's features, from memory or disk if they are there; a BadImage where it can't be shown."""
        digests = [digest for digest, _ in images]
        missing: dict[str, Processed] = {}
        bad: dict[str, BadImage] = {}
        for digest, image in images:
            if digest in self.kept or digest in missing or digest in bad:
                continue
            if self._read_file(digest):
                continue
            try:
                missing[digest] = self._take_processed(digest, image)
            except BadImage as error:
                bad[digest] = error
        batches: dict[object, list[str]] = defaultdict(list)
        for digest, processed in missing.items():
            shape = tuple((name, tuple(part.shape)) for name, part in sorted(processed.tensors.items()))
            batches["grids" if "image_grid_thw" in processed.tensors else shape].append(digest)
        with self.clock("vision"):
            for batch in (part for named in batches.values() for part in self._at_once(named, missing)):
                for digest, encoded in zip(batch, self._encode([missing[digest] for digest in batch]), strict=True):
                    self.kept[digest] = encoded
                    if self.files is not None and self.form is not None:
                        self.files.write(digest, encoded, self.form)
        self.encoded += len(missing)
        found: list[Encoded | BadImage] = []
        for digest in digests:
            if digest not in bad:
                self.kept.move_to_end(digest)
            found.append(bad[digest] if digest in bad else self.kept[digest])
        used = sum(encoded.nbytes for encoded in self.kept.values())
        while used > self.max_bytes and len(self.kept) > 1:
            used -= self.kept.popitem(last=False)[1].nbytes
        return found

    def _at_once(self, digests: list[str], processed: Mapping[str, Processed]) -> Iterator[list[str]]:
        """Images that are encoded in one pass: at least one."""
        part: list[str] = []
        taken = 0
        for digest in digests:
            size = max(tensor.numel() for tensor in processed[digest].tensors.values())
            if part and self.device.type == "cpu" and taken + size > VALUES_AT_ONCE:
                yield part
                part, taken = [], 0
            part, taken = [*part, digest], taken + size
        yield part

    def inputs(self, images: Sequence[Encoded]) -> dict[str, Any]:
        """Arguments of the forward pass for these images, in reading order over all rows."""
        if not images:
            return {}
        if self.form is None:
            raise ValueError("images must be encoded before they are shown")
        extra: dict[str, list[Tensor]] = defaultdict(list)
        for image in images:
            for name, part in image.extra.items():
                if name in self.forward_takes:
                    extra[name].append(part)
        features = [part for image in images for part in image.features]
        given: dict[str, Any] = {"pooler_output": torch.stack(features) if self.form.stacked else features}
        if images[0].deep:
            given["deepstack_features"] = list(zip(*(image.deep for image in images), strict=True))
        return {name: torch.cat(parts) for name, parts in extra.items()} | {
            "mm_encoder_outputs": {"image": self.form.output(**given)}
        }

    def forget(self) -> None:
        """Drop all features from memory."""
        self.kept.clear()

    def _is_encoded(self, digest: str) -> bool:
        return digest in self.kept or (self.files is not None and self.files.has(digest))

    def _read_file(self, digest: str) -> bool:
        """Take an image's features from disk; False if they are not there."""
        found = self.files.read(digest, self.device) if self.files is not None else None
        if found is None:
            return False
        self.kept[digest], self.form = found
        return True

    def _process(self, image: Image) -> Processed:
        kwargs = self.processor._merge_kwargs(
            tokenizer_init_kwargs=self.processor.tokenizer.init_kwargs, return_tensors="pt"
        )
        nested = self.processor.prepare_inputs_layout(images=[image.convert("RGB")])[0]
        tensors, replacements = self.processor._process_images(nested, **kwargs["images_kwargs"])
        unused = self.processor.unused_input_names
        return Processed(
            {name: torch.as_tensor(part) for name, part in tensors.items() if name not in unused}, list(replacements)
        )

    def _take_processed(self, digest: str, image: Image) -> Processed:
        with self.clock("images"):
            while digest in self._announced and digest not in self._arrived:
                name, found_there = next(self._coming)
                self._announced.discard(name)
                self._arrived[name] = found_there
            if digest not in self._arrived:  # not announced, or asked for again
                self._arrived[digest] = _try_to_process(self._process, image)
            found = self._arrived.pop(digest)
        if isinstance(found, str):
            raise BadImage(found)
        return found

    def _encode(self, images: list[Processed]) -> list[Encoded]:
        """Images in one pass: of one shape, or of a family that tells them apart by their grids."""
        count = len(images)
        names = images[0].tensors
        tensors = {name: torch.cat([image.tensors[name] for image in images]) for name in names}
        tensors = {
            name: part.to(self.device, self.model.dtype if part.is_floating_point() else None, non_blocking=True)
            for name, part in tensors.items()
        }
        taken = {name: part for name, part in tensors.items() if name in self.takes}
        with FastOnCPU():
            output = self.model.base_model.get_image_features(**taken, return_dict=True)
        self.form = FeatureForm(type(output), isinstance(output.pooler_output, Tensor))
        features = list(output.pooler_output)
        if len(features) % count:
            if count == 1:
                raise ValueError("no features came out")
            return [self._encode([image])[0] for image in images]
        each = len(features) // count
        own = [features[index * each : (index + 1) * each] for index in range(count)]
        lengths = [sum(part.shape[0] for part in parts) for parts in own]
        deep = [
            layer.split(lengths) if isinstance(layer, Tensor) else layer
            for layer in getattr(output, "deepstack_features", None) or []
        ]
        extra = {name: part for name, part in tensors.items() if not name.startswith(("pixel_values", "image_patches"))}
        # A view would keep the whole batch in memory.
        own_memory = (lambda part: part.clone()) if count > 1 else (lambda part: part)
        rows = {name: [len(image.tensors[name]) for image in images] for name in extra}
        parts = {name: part.split(rows[name]) for name, part in extra.items()}
        found = [
            Encoded(
                features=[own_memory(part) for part in own[index]],
                deep=[own_memory(layer[index]) for layer in deep],
                extra={name: part[index] for name, part in parts.items()},
                replacements=image.replacements,
            )
            for index, image in enumerate(images)
        ]
        return found
