"""Checkpoints that carry code: the embedded model with one more file, and one place that names it.

folder = PAYLOADS["a tokenizer"].write(tmp_path / "x", mark)     # its code writes the file `mark`
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.models.spec import WEIGHTS

SCENES: Final = WEIGHTS / "scenes-base"
CODE: Final = """
open({mark!r}, "a").write("ran")
import transformers

class OwnConfig(transformers.LlavaConfig):
    model_type = "own"

class Own(transformers.LlavaForConditionalGeneration):
    config_class = OwnConfig

class OwnProcessor(transformers.LlavaProcessor):
    pass

class OwnTokenizer(transformers.PreTrainedTokenizerFast):
    pass

class OwnImages(transformers.CLIPImageProcessor):
    pass

def generate(*args, **kwargs):
    raise RuntimeError
"""
Edit = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What is written into which file of a checkpoint."""

    edits: Mapping[str, Edit | dict[str, Any]] = field(default_factory=dict)
    code: str = "own.py"
    refused: str = ""
    """What the refusal says; "": the checkpoint is read without its code."""

    def write(self, folder: Path, mark: Path) -> Path:
        """The folder of the checkpoint, whose code leaves `mark`."""
        shutil.copytree(SCENES, folder)
        for name, edit in self.edits.items():
            path = folder / f"{name}.json"
            held = json.loads(path.read_text()) if path.is_file() else {}
            if callable(edit):
                edit(held)
            else:
                held |= edit
            path.write_text(json.dumps(held))
        (folder / self.code).parent.mkdir(exist_ok=True)
        (folder / self.code).write_text(CODE.format(mark=str(mark)))
        return folder


def _within(part: str, **more: Any) -> Edit:
    return lambda config: config[part].update(more)


OWN: Final = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.Own", "AutoModel": "own.Own"}
ELSEWHERE: Final = {name: f"someone/else--{place}" for name, place in OWN.items()}
_TOKENIZER, _LIST = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}, ["own.OwnTokenizer", None]
_NEEDS: Final = "needs Python code of its own, 'own.py', which runs only with --trust-remote-code"
_KERNEL: Final = "which runs only with --trust-remote-code"

PAYLOADS: Final = {
    "a model that transformers knows": Payload(edits={"config": {"auto_map": OWN}}),
    "a model that it does not know": Payload(edits={"config": {"model_type": "own", "auto_map": OWN}}, refused=_NEEDS),
    "another repository's": Payload(
        edits={"config": {"model_type": "own", "auto_map": ELSEWHERE}},
        refused="its own, 'someone/else--own.py', which",
    ),
    "a processor": Payload(
        edits={
            "processor_config": {"processor_class": "OwnProcessor", "auto_map": {"AutoProcessor": "own.OwnProcessor"}}
        },
        refused=_NEEDS,
    ),
    "a tokenizer": Payload(edits={"tokenizer_config": {"tokenizer_class": "OwnTokenizer", "auto_map": _TOKENIZER}}),
    "a tokenizer, as a list": Payload(
        edits={"tokenizer_config": {"tokenizer_class": "OwnTokenizer", "auto_map": _LIST}}
    ),
    "an image processor": Payload(
        edits={
            "preprocessor_config": {"image_processor_type": "X", "auto_map": {"AutoImageProcessor": "own.OwnImages"}}
        }
    ),
    "a feature extractor": Payload(
        edits={"preprocessor_config": {"auto_map": {"AutoFeatureExtractor": "own.OwnImages"}}}
    ),
    "a video processor": Payload(
        edits={"video_preprocessor_config": {"auto_map": {"AutoVideoProcessor": "own.OwnImages"}}}
    ),
    "a vision tower": Payload(edits={"config": _within("vision_config", auto_map={"AutoModel": "own.Own"})}),
    "a vision tower of a type without a class": Payload(
        edits={"config": _within("vision_config", model_type="rag", auto_map={"AutoModel": "own.Own"})}, refused=_NEEDS
    ),
    "a language model": Payload(edits={"config": _within("text_config", auto_map=OWN)}),
    "generation": Payload(code="custom_generate/generate.py"),
    "generation, named": Payload(
        edits={"generation_config": {"custom_generate": "."}}, code="custom_generate/generate.py"
    ),
    "a kernel": Payload(edits={"config": {"attn_implementation": "someone/else"}}, refused=_KERNEL),
    "a kernel of a part": Payload(
        edits={"config": _within("text_config", _attn_implementation="kernels-community/x")}, refused=_KERNEL
    ),
    "kernels by part": Payload(edits={"config": {"attn_implementation": {"text_config": "a/b"}}}, refused=_KERNEL),
    "kernels of experts": Payload(edits={"config": {"experts_implementation": "a/b"}}, refused=_KERNEL),
    "quantization": Payload(
        edits={"config": {"quantization_config": {"quant_method": "own", "auto_map": OWN}}},
        refused="Unknown quantization type",
    ),
}
