"""Qwen-VL-Chat and Silkie as ordinary transformers classes; importing this registers them with the Auto classes.

    model = QwenVLForConditionalGeneration.from_pretrained("Qwen/Qwen-VL-Chat")     # the original checkpoint, unchanged
    processor = QwenVLProcessor.from_pretrained("Qwen/Qwen-VL-Chat")

Written from the published description of the architecture (Bai et al., 2023, arXiv 2308.12966) and checked against what
the official implementation computes. Modules carry the names of the checkpoint's weights, so that weights and adapters
load as they are.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from harness.models.qwen_vl.config import QwenVLConfig
from harness.models.qwen_vl.image_processor import QwenVLImageProcessor
from harness.models.qwen_vl.model import QwenVLForConditionalGeneration
from harness.models.qwen_vl.processor import QwenVLProcessor
from harness.models.qwen_vl.tokenizer import QwenVLTokenizer

__all__ = [
    "QwenVLConfig",
    "QwenVLForConditionalGeneration",
    "QwenVLImageProcessor",
    "QwenVLProcessor",
    "QwenVLTokenizer",
]

AutoConfig.register(QwenVLConfig.model_type, QwenVLConfig)
AutoModelForImageTextToText.register(QwenVLConfig, QwenVLForConditionalGeneration)
AutoImageProcessor.register(QwenVLConfig, image_processor_classes={"pil": QwenVLImageProcessor})
AutoTokenizer.register(QwenVLConfig, tokenizer_class=QwenVLTokenizer)
AutoProcessor.register(QwenVLConfig, QwenVLProcessor)
REGISTERED_TOKENIZER_CLASSES["QWenTokenizer"] = QwenVLTokenizer  # as the original tokenizer_config.json names it
