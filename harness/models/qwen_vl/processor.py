"""Text and images for Qwen-VL: ChatML, each image as "Picture k: <img>...</img>" with 256 positions."""

from typing import Any

from transformers.processing_utils import ProcessorMixin

from harness.models.qwen_vl.config import IMAGE_TOKENS
from harness.models.qwen_vl.image_processor import QwenVLImageProcessor
from harness.models.qwen_vl.tokenizer import IMAGE_PAD, QwenVLTokenizer


class QwenVLProcessor(ProcessorMixin):
    """Where images stand in a text is marked by `<img><imgpad></img>`, which the chat template writes."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        self.image_token = IMAGE_PAD
        self.image_token_id = tokenizer.img_pad_id
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @classmethod
    def _get_arguments_from_pretrained(cls, name: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        """The original repositories have no processor files: what they lack is known."""
        tokenizer = QwenVLTokenizer.from_pretrained(name, **kwargs)
        settings = (processor_dict or {}).get("image_processor")
        if settings is None:
            return [QwenVLImageProcessor.from_pretrained(name, **kwargs), tokenizer]
        return [QwenVLImageProcessor(**settings), tokenizer]

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """What the mark of one image becomes."""
        return IMAGE_PAD * IMAGE_TOKENS
