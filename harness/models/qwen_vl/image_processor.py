"""Images as Qwen-VL takes them: RGB, squeezed to 448 x 448 by bicubic interpolation, CLIP's mean and standard
deviation."""

from typing import Any

import numpy as np
from PIL.Image import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import SizeDict
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling


class QwenVLImageProcessor(PilBackend):
    """Images -> pixel_values [images, 3, 448, 448], float32."""

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 448, "width": 448}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The original repositories have no preprocessor_config.json: theirs are the defaults."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except OSError:
            return cls()

    def convert_to_rgb(self, image: Any, input_data_format: Any = None) -> np.ndarray:
        """As PIL converts: transparency is dropped, not laid over white."""
        if isinstance(image, Image):
            return np.asarray(image.convert("RGB"))
        if isinstance(image, np.ndarray) and image.ndim == 2:
            return np.stack([image] * 3, axis=-1)
        converted: np.ndarray = super().convert_to_rgb(image, input_data_format=input_data_format)
        return converted

    def resize(self, image: np.ndarray, size: SizeDict, resample: Any = None, **kwargs: Any) -> np.ndarray:
        """Where the height shrinks more than the width, the vertical pass comes first, as in Pillow 13 and on.

        Each pass rounds to 8 bits, so the order shows: earlier Pillows always began with the horizontal one.
        """
        height, width = image.shape[-2:]
        if size.height and size.width and size.height < height and size.height * width < size.width * height:
            image = super().resize(image, SizeDict(height=size.height, width=width), resample, **kwargs)
        resized: np.ndarray = super().resize(image, size, resample, **kwargs)
        return resized
