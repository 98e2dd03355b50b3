"""Image features, kept where the encoder is not trained: an image goes through it once, whatever the number of epochs.

    features = KeptFeatures(backbone, room=2 << 30)
    backbone.get_image_features = features       # takes and answers what the model's own takes and answers
    features.clear()

An entry is found by the very pixels that the model is given, so that an image changed on its way (augmented, noised) is
another one. Every image is encoded alone: its features are then the same bits whichever others were missing, and
whether they were kept or are computed anew.
"""

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

Image = dict[str, Tensor]
"""The arguments of `get_image_features` that are this image's: its pixels, grid, size or mask."""

BEYOND = ("output_hidden_states", "output_attentions")
"""Outputs of the encoder that are not kept."""


class KeptFeatures:
    """A cached `get_image_features` of a model: least recently used features are dropped beyond `room` bytes of CPU
    memory.

    The output has only `pooler_output` (and `deepstack_features`), without a graph. Features that depend on random
    numbers are not kept.
    """

    def __init__(self, backbone: Any, room: int) -> None:
        self.backbone, self.room = backbone, room
        self.encode = backbone.get_image_features
        self.__signature__ = inspect.signature(self.encode)  # `generate` looks which arguments are taken
        self.used = 0
        """Bytes."""
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._kind: Any = None
        self._stacked = False
        """True if the model returns its features as one tensor, not one an image."""

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.used = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The features of these images, kept or computed now."""
        given = self.__signature__.bind(*args, **kwargs).arguments
        beside = given.pop("kwargs", {})
        images = list(split_images(given))
        if not images or any(beside.get(name) for name in BEYOND) or beside.get("return_dict") is False:
            return self.encode(*args, **kwargs)
        settings = {name: value for name, value in given.items() if name not in images[0]}
        device = images[0]["pixel_values"].device
        state = repr((sorted(settings.items()), self.backbone.training, self.backbone.dtype, _autocast_type(device)))
        keys = [digest(image, state) for image in images]
        found: dict[bytes, list[Tensor]] = {}
        for key, image in zip(keys, images, strict=True):
            if key in found:
                continue
            if key in self._kept:
                self._kept.move_to_end(key)
                found[key] = [part.to(device, non_blocking=True) for part in self._kept[key]]
            else:
                found[key] = self._encode(key, {**settings, **image, **beside})
        pooled, *deep = zip(*(found[key] for key in keys), strict=True)
        layers = {"deepstack_features": [list(layer) for layer in deep]} if deep else {}
        return self._kind(pooler_output=torch.cat(pooled) if self._stacked else list(pooled), **layers)

    @torch.no_grad()
    def _encode(self, key: bytes, arguments: Mapping[str, Any]) -> list[Tensor]:
        """One image's features: those of its tokens, then those that deeper layers add to them."""
        device = arguments["pixel_values"].device
        before = _random_state(device)
        output = self.encode(**{**arguments, "return_dict": True})
        self._kind, self._stacked = type(output), isinstance(output.pooler_output, Tensor)
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
        assert all(len(layer) == 1 for layer in layers)
        parts = [layer if isinstance(layer, Tensor) else layer[0] for layer in layers]
        size = sum(part.nbytes for part in parts)
        if size <= self.room and torch.equal(before, _random_state(device)):
            self._kept[key] = [part.to("cpu", copy=True) for part in parts]
            self.used += size
            while self.used > self.room:
                self.used -= sum(part.nbytes for part in self._kept.popitem(last=False)[1])
        return parts


def split_images(given: Mapping[str, Any]) -> Iterator[Image]:
    """The arguments of `get_image_features`, image by image (tile by tile if they don't say which tiles make an image);
    none if they have no pixels."""
    pixels, grids, sizes, mask = (
        given.get(name) for name in ("pixel_values", "image_grid_thw", "image_sizes", "pixel_attention_mask")
    )
    if pixels is None:
        return
    if grids is not None:  # rows of patches
        for part, grid in zip(pixels.split(grids.prod(-1).tolist()), grids, strict=True):
            yield {"pixel_values": part, "image_grid_thw": grid[None]}
    elif mask is not None:  # [prompts, tiles, ...], filled up with empty tiles
        shown = (pixels != 0).flatten(2).any(-1)
        for part, own in zip(pixels[shown], mask[shown], strict=True):
            yield {"pixel_values": part[None, None], "pixel_attention_mask": own[None, None]}
    elif sizes is None:
        yield from ({"pixel_values": part[None]} for part in pixels)
    elif len(sizes) == len(pixels):
        # LLaVA-OneVision cuts the only image of a prompt otherwise than one of several.
        counts = given.get("batch_num_images")
        beside = (
            [{}] * len(sizes)
            if counts is None
            else [{"batch_num_images": count[None]} for count in counts for _ in range(int(count))]
        )
        for part, size, more in zip(pixels, sizes, beside, strict=True):
            yield {"pixel_values": part[None], "image_sizes": size[None], **more}


def digest(image: Image, state: str) -> bytes:
    """Of all that an image's features depend on except weights; `state`: what is the same for all images of a call."""
    found = hashlib.sha256(state.encode())
    for name, value in sorted(image.items()):
        if name == "pixel_values" and "image_sizes" in image and value.dim() == 5:
            # Tiles are filled up to the most in the batch; the size says how many are the image's.
            filled = value[0].flatten(1).any(-1).nonzero()
            value = value[:, : int(filled.max()) + 1 if len(filled) else 0]
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        raw: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        found.update(raw)
    return found.digest()


def is_trained(backbone: Any) -> bool:
    """True if anything between pixels and the language model is trained, or has adapters that can be switched."""
    decoder, tower = backbone.get_decoder(), backbone.get_encoder(modality="image")
    in_decoder = set(decoder.modules())
    sees = (
        list(tower.modules())
        if decoder is backbone
        else [module for module in backbone.modules() if module not in in_decoder]
    )
    return any(
        isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        or any(own.requires_grad for own in module.parameters(recurse=False))
        for module in sees
    )


def _autocast_type(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
