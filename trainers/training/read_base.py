"""Reads a model that training starts from or that is asked: whole, or refused in one line that names what is wrong."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from torch import OutOfMemoryError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    ProcessorMixin,
    dynamic_module_utils,
)

from support.bounded import call_bounded
from support.errors import HarnessError, ModelError, TrainingError, one_line
from support.parsing import parse_json
from trainers.training.checkpoints import what_weights_lack
from trainers.training.foreign_code import asks_for_code, check_code, refuse_code
from trainers.training.llava_15 import CHAT_TEMPLATE as LLAVA_15
from trainers.training.llava_15 import is_hub_copy, pad_pictures

dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
"""Where transformers is told nothing of code that it finds, it would ask on standard input, where a "y" may wait."""

CONFIGS: Final = (
    *("config.json", "adapter_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("preprocessor_config.json", "processor_config.json", "model.safetensors.index.json"),
)
MOST_LAYERS: Final = 10_000
_COUNTS_LAYERS: Final = re.compile(r"(layers?|depths?|experts|blocks|stages)$")
"""Names of what a configuration has many of, each of which is made."""
TOKENIZERS: Final = ("tokenizer.json", "*.model", "*.tiktoken", "vocab.json", "vocab.txt")


class CompleteModel(AutoModelForImageTextToText):
    """Loads no model of which weights are missing: transformers makes them up, and only logs that."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As AutoModelForImageTextToText's; ModelError names the first weight that isn't there."""
        quantization = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith(("load_in_", "bnb_4bit_"))}
        if quantization:
            kwargs["quantization_config"] = BitsAndBytesConfig(**quantization)
        trusted = kwargs.pop("trust_remote_code", None) or False
        model, found = AutoModelForImageTextToText.from_pretrained(
            *args, output_loading_info=True, trust_remote_code=trusted, **kwargs
        )
        for what in ("missing_keys", "mismatched_keys"):
            if names := sorted(map(str, found.get(what) or ())):
                more = f" and {len(names) - 1} more" * (len(names) > 1)
                raise ModelError(f"{args[0]}: {what.replace('_keys', '')} weights: {names[0]}{more}")
        return model


def what_folder_lacks(folder: Path) -> str:
    """What a model's folder lacks to be loaded, in words; "" where nothing is known to be missing or torn."""
    if not folder.is_dir():
        return ""
    for name in CONFIGS:
        if (path := folder / name).is_file():
            try:
                whole = isinstance(json.loads(path.read_bytes()), dict)
            except (OSError, ValueError, RecursionError):
                whole = False
            if not whole:
                return f"{name} is torn: it holds no JSON object"
    if lacks := what_weights_lack(folder):
        return lacks
    tokenizer = any(path for pattern in TOKENIZERS for path in folder.glob(pattern))
    is_adapter = (folder / "adapter_config.json").is_file()  # which goes with its base's
    return "" if tokenizer or is_adapter else f"no tokenizer (none of {', '.join(TOKENIZERS)})"


def check_layers(folder: Path, name: str) -> None:
    """ModelError for a config.json that asks for more layers than any model has: making them would not end."""
    try:
        found = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return  # whoever reads it says what is wrong with it
    waiting = [("", found)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, one) for one in value]
        elif isinstance(value, (int, float)) and value > MOST_LAYERS and _COUNTS_LAYERS.search(key):
            raise ModelError(f"{name}: config.json: {key} = {value}: no model has so many")


def describe(error: Exception) -> str:
    """What another library's error says, in one line of at most 300 signs; with its class where that says more."""
    words = one_line(error)[:300]
    return words if " " in words else f"{type(error).__name__}: {words}"


@contextmanager
def reading(name: str, folder: str, what: str = "", *, remote_code: bool = False) -> Iterator[None]:
    """Inside, what transformers can't read is a ModelError, which names the torn file where there is one; code that the
    user did not allow by `remote_code` is an InputError."""
    check_code(Path(folder), name, remote_code)
    check_layers(Path(folder), name)
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # of libraries, at files that nobody foresaw
        if not remote_code and asks_for_code(error):
            raise refuse_code(Path(folder), name) from error
        if isinstance(error, OutOfMemoryError):
            raise ModelError(
                f"{name}: its weights don't fit this GPU: half precision takes half of float32, load_in_4bit=true a "
                f"quarter of that, parallelize=true more GPUs (--model-set) ({one_line(error)[:200]})"
            ) from error
        lacks = what_folder_lacks(Path(folder))
        what = f"its {what} can't be read" if what else "can't be loaded"
        raise ModelError(f"{name}: {what}: {lacks or describe(error)}") from error


def read_processor(folder: str, name: str, template: str | None = None, *, remote_code: bool = False) -> Any:
    """The processor in a base's folder, with the chat template that is trained with. ModelError; TrainingError without
    a template."""
    with reading(name, folder, "tokenizer or processor", remote_code=remote_code):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=remote_code)
    check_own_tokenizers(processor, folder)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(f"{name}: has no image processor with a tokenizer in {folder}")
    found = template or processor.chat_template or tokenizer.chat_template
    if found is None:
        raise TrainingError(
            f"{name}: has no chat template, which tells questions from answers, so it can't be trained on pairs"
        )
    if found == LLAVA_15 and is_hub_copy(Path(folder), processor.chat_template):
        pad_pictures(processor)  # as its authors did, whose template it is given
    processor.chat_template = found
    return processor


def check_own_tokenizers(processor: Any, folder: str) -> None:
    """ModelError where a part of a processor has no tokenizer of its own in its sub-folder, such as InstructBLIP's
    Q-Former: transformers would give it the language model's, and only log that."""
    for part in processor.get_attributes() if isinstance(processor, ProcessorMixin) else ():
        if part == "tokenizer" or "tokenizer" not in part:
            continue
        try:
            AutoTokenizer.from_pretrained(folder, subfolder=part, trust_remote_code=False)
        except (OSError, ValueError):
            raise ModelError(
                f"{folder}: no tokenizer in its sub-folder {part}, which {type(processor).__name__} reads beside "
                f"the language model's; get the whole repository, sub-folders too"
            ) from None


def check_base(folder: str, name: str, template: str | None = None, *, remote_code: bool = False) -> None:
    """ModelError or TrainingError for a base that can't be read for training, before anything else is done; its weights
    are not loaded."""
    with reading(name, folder, "config.json", remote_code=remote_code):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    with reading(name, folder, "model type"):
        own = remote_code and "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
        if not own and type(config) not in AutoModelForImageTextToText._model_mapping:  # what from_pretrained looks at
            raise ModelError(f"{name}: models of type {config.model_type!r} answer no questions about pictures")
    if lacks := what_folder_lacks(Path(folder)):
        raise ModelError(f"{name}: can't be read: {lacks}")
    processor = read_processor(folder, name, template, remote_code=remote_code)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}]
    try:  # a chat template is a program of whoever wrote it
        call_bounded(lambda: processor.apply_chat_template(asked, tokenize=False))
    except RuntimeError as error:
        raise TrainingError(f"{name}: its chat template can't be trained with: {one_line(error)[:300]}") from None
