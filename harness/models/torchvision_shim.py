"""Processors without torchvision.

    allow_missing_torchvision()
    AutoProcessor.from_pretrained("Qwen/Qwen2.5-VL-3B-Instruct")        # images only

transformers builds a video processor for every processor that has a slot for one (Qwen-VL, InternVL, LLaVA-OneVision,
SmolVLM, Gemma 4), its video processors need torchvision, and so none of these loads without it, whatever it is shown
(huggingface/transformers#48558). Here the slot holds a stand-in that remembers the settings and refuses videos. Only
image use is served.

Two more gaps are closed: SmolVLM's processor wants num2words, which it needs for videos only, and Fuyu's hands tensors
to numpy code where torchvision is missing.
"""

import copy
import functools
from typing import Any

import numpy as np
import torch
from transformers import ImageProcessingMixin, processing_utils
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin


class VideoSlot(ImageProcessingMixin):
    """What stands in a processor's video slot: settings as they were read, written again when the processor is
    saved."""

    model_input_names: tuple[str, ...] = ()
    num_frames = None
    fps = None
    """SmolVLM's chat template reads both before it knows whether there is a video."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "VideoSlot":
        """The settings that the checkpoint has for its videos, none if there are none."""
        try:
            settings, _ = VideoProcessorMixin.get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            settings = {}
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """As the checkpoint has them."""
        return copy.deepcopy(self.settings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """No videos."""
        raise ImportError("videos need torchvision, which is not installed; images do not")


def _spelled_out(*args: Any, **kwargs: Any) -> str:
    raise ImportError("videos need num2words, which is not installed; images do not")


def _of_tensors(patchify: Any) -> Any:
    """numpy's patchify for tensors."""

    @functools.wraps(patchify)
    def patches(self: Any, image: Any, patch_size: Any = None) -> torch.Tensor:
        return torch.as_tensor(patchify(self, np.asarray(image), patch_size))

    return patches


def allow_missing_torchvision() -> None:
    """Have processors load, and process images, without torchvision. Does nothing where torchvision is importable, or
    when called again."""
    if (
        is_torchvision_available()
        or processing_utils.MODALITY_TO_BASE_CLASS_MAPPING["video_processor"] == ImageProcessingMixin.__name__
    ):
        return
    from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
    from transformers.models.smolvlm import processing_smolvlm

    processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES["video_processor"] = (
        __name__,
        VideoSlot.__name__,
    )
    processing_utils.MODALITY_TO_BASE_CLASS_MAPPING["video_processor"] = ImageProcessingMixin.__name__
    processing_smolvlm.num2words = processing_smolvlm.num2words or _spelled_out
    FuyuImageProcessorPil.patchify_image = _of_tensors(FuyuImageProcessorPil.patchify_image)
