"""LLaVA-1.5 as its authors asked and trained it: a sentence before the chat, pictures padded to a square.

    is_hub_copy(Path("llava-1.5-7b-hf"), template)      # its files ask otherwise
    pad_pictures(processor)

Their conversation is `conv_vicuna_v1`, their pictures those of `expand2square` (haotian-liu/LLaVA:
llava/conversation.py, llava/mm_utils.py). The copies on the hub (llava-hf) begin with the question, and cut a square
out of a picture's middle.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.bounded import call_bounded
from support.errors import SettingError
from support.parsing import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

SYSTEM: Final = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# vicuna_v1, which LLaVA-1.5 and LLaVA-RLHF were tuned on. `<s>` is in it because TRL has the tokenizer add none to a
# prompt that a template made; transformers adds none to one that begins with it. Images come first, as in the tuning
# data.
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% if not messages or messages[0]['role'] != 'system' %}"
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ '' if loop.first else ' ' }}{{ part['text'] | trim }}{% endfor %}"
    "{% endif %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

MEAN_COLOUR: Final = (122, 116, 104)
"""CLIP's mean, in 8 bits."""
_CLIP: Final = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")
_KEPT: Final = (
    *("size", "crop_size", "image_mean", "image_std", "rescale_factor", "resample", "do_resize", "do_center_crop"),
    *("do_rescale", "do_normalize", "do_convert_rgb"),
)
"""Settings of an image processor that stay when it learns to pad."""


def is_hub_copy(folder: Path, template: str | None) -> bool:
    """True for a folder's LLaVA-1.5 whose files ask it otherwise than it was trained: by `template`, its own, a
    question has no sentence before it, and its pictures are cut."""
    if template is None or not is_family(folder) or pads(folder):
        return False
    return _image_settings(folder).get("image_processor_type") in _CLIP and _is_without_sentence(template)


def is_without_sentence(folder: Path) -> bool:
    """True for a checkpoint whose own chat template has no sentence before a question."""
    path = folder / "chat_template.jinja"
    return path.is_file() and _is_without_sentence(path.read_text(encoding="utf-8"))


def is_family(folder: Path) -> bool:
    """True for a Llama that sees by CLIP, in LLaVA's layout."""
    config = _read(folder / "config.json")
    kinds = {"model_type": config.get("model_type")}
    for part, usual in (("text_config", "llama"), ("vision_config", "clip_vision_model")):
        kinds[part] = _part(config, part).get("model_type", usual)
    return kinds == {"model_type": "llava", "text_config": "llama", "vision_config": "clip_vision_model"}


def pads(folder: Path) -> bool:
    """True for a folder whose own image processor pads pictures to a square."""
    return _image_settings(folder).get("do_pad") is True


def pad_pictures(processor: Any) -> None:
    """From here on, pictures are padded to a square with the mean colour, before they are resized. SettingError for an
    image processor that does not cut squares."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    kind = type(processor.image_processor).__name__
    if not kind.startswith(("CLIPImageProcessor", "LlavaImageProcessor")):
        raise SettingError(f"picture = 'pad': would not act on pictures of {kind}, which cuts no squares")
    own = processor.image_processor.to_dict()
    kept = {name: own[name] for name in _KEPT if own.get(name) is not None}
    processor.image_processor = LlavaImageProcessorPil(**kept, do_pad=True)


def padded(image: "Image") -> "Image":
    """The same for a picture that is sent to a server, which resizes it."""
    if image.width == image.height:
        return image
    from PIL.Image import new

    side = max(image.size)
    square = new("RGB", (side, side), MEAN_COLOUR)
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square


@functools.cache
def _is_without_sentence(template: str) -> bool:
    """True if a template writes vicuna_v1's turns and nothing before them; it is a program of whoever wrote it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it so?"}]}]

    def render() -> Any:
        return render_jinja_template([asked], chat_template=template, add_generation_prompt=True)[0][0]

    try:
        return bool(call_bounded(render) == "USER: <image>\nIs it so? ASSISTANT:")
    except RuntimeError:  # whoever asks by it says what is wrong with it
        return False


def _image_settings(folder: Path) -> dict[str, Any]:
    return _part(_read(folder / "processor_config.json"), "image_processor") or _read(
        folder / "preprocessor_config.json"
    )


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is none that can be read."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
