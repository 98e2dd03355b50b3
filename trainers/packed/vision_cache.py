"""A cache of image features, for encoders that are not trained: an image is encoded once, not once an epoch.

    features = KeptFeatures(backbone, room=2 << 30)
    backbone.get_image_features = features       # same arguments, same results
    features.clear()

Entries are found by the pixels that the model is given, so a changed image (augmented, noised) is another entry. Every
image is encoded alone: its features are then bit by bit the same, whatever else is in the batch or the cache.
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
"""One image's arguments of `get_image_features`: its pixels, grid, size or mask."""

BEYOND = ("output_hidden_states", "output_attentions")
"""Outputs of the encoder that are not cached."""


class KeptFeatures:
    """A model's `get_image_features`, cached in `room` bytes of CPU memory; the least recently used are dropped.

    The output has only `pooler_output` (and `deepstack_features`), without a graph. Features that depend on random
    numbers are not cached.
    """

    def __init__(self, backbone: Any, room: int) -> None:
        self.backbone, self.room = backbone, room
        self.encode = backbone.get_image_features
        self.__signature__ = inspect.signature(self.encode)  # `generate` checks which arguments are taken
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
        """One image's features: those of its tokens, then those added in deeper layers."""
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
    """The arguments of `get_image_features` by image (by tile if they don't say which tiles make an image)."""
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
        # LLaVA-OneVision tiles the only image of a prompt differently from one of several.
        counts = given.get("batch_num_images")
        beside: list[Image] = [{}] * len(sizes)
        if counts is not None:
            beside = [{"batch_num_images": count[None]} for count in counts for _ in range(int(count))]
        for part, size, more in zip(pixels, sizes, beside, strict=True):
            yield {"pixel_values": part[None], "image_sizes": size[None], **more}


def digest(image: Image, state: str) -> bytes:
    """A digest of what an image's features depend on besides weights; `state`: the part common to all images."""
    found = hashlib.sha256(state.encode())
    for name, value in sorted(image.items()):
        if name == "pixel_values" and "image_sizes" in image and value.dim() == 5:
            # Empty tiles fill up to the largest number in the batch; they are not the image's.
            filled = value[0].flatten(1).any(-1).nonzero()
            value = value[:, : int(filled.max()) + 1 if len(filled) else 0]
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        raw: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        found.update(raw)
    return found.digest()


def modules_before_text(backbone: Any) -> set[Any]:
    """All modules between pixels and the language model."""
    decoder, tower = backbone.get_decoder(), backbone.get_encoder(modality="image")
    return set(tower.modules()) if decoder is backbone else set(backbone.modules()) - set(decoder.modules())


def is_trained(backbone: Any) -> bool:
    """True if anything between pixels and the language model is trained, or has adapters that can be switched."""
    return any(
        isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        or any(own.requires_grad for own in module.parameters(recurse=False))
        for module in modules_before_text(backbone)
    )


def _autocast_type(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
