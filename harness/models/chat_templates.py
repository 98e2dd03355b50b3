"""Which chat template a model was trained with: its own, its base's, or the user's.

    template = chat_template_of(fetch(find("runs/x/checkpoint-40")))      # template.text, .digest, .source

Files are read as transformers reads them, without loading the model. A folder whose trainer saved no template is asked
with the one of the base that its files name; where no base is known or here, it is refused.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from harness.engine.chat_template import ChatTemplate
from harness.engine.config import EngineConfig
from harness.engine.families import NO_CONVERSATION
from harness.engine.family_prompts import authors_prompt
from harness.models.base_names import holds_weights, is_outside, named_base
from harness.models.fetch import in_cache
from harness.models.spec import MODELS, ModelSpec, find
from support.errors import HarnessError, ModelError, SettingError, first_few, one_line
from trainers.training.llava_15 import CHAT_TEMPLATE as LLAVA_15
from trainers.training.llava_15 import is_hub_copy, pads

TEMPLATE_FILES: Final = ("chat_template.json", "chat_template.jinja")
"""A processor's own, the older one first: transformers prefers it."""
_OPTION: Final = "--chat-template"
_MOST_BASES: Final = 4
"""How many steps from a checkpoint to its base's base are followed."""


def chat_template_of(spec: ModelSpec, engine: EngineConfig | None = None) -> ChatTemplate:
    """The template of a local model, whose files are here. SettingError; ModelError where none is known."""
    if spec.chat_template is not None:
        return spec.chat_template
    if engine is not None and engine.chat_template is not None:
        return read_template_file(engine.chat_template)
    base = own_template(spec.local_folder)
    if spec.adapter is not None:
        own = own_template(spec.adapter)
        if own is not None and (base is None or own.text != base.text):
            return ChatTemplate(text=own.text, source=f"{own.source} beside the adapter", own=False)
    if base is not None:
        if spec.as_authors and is_hub_copy(spec.local_folder, base.text):
            return ChatTemplate(text=LLAVA_15, source="LLaVA-1.5's authors", own=False)
        return base
    kind = _read_config(spec.local_folder).get("model_type")
    if kind == "qwen":
        from harness.models.qwen_vl.tokenizer import CHAT_TEMPLATE

        return ChatTemplate(text=CHAT_TEMPLATE, source="the family's own (Qwen-VL)")
    unread: list[str] = []
    if (found := _find_in_bases(spec.local_folder, kind, unread)) is not None:
        return found
    if (authors := authors_prompt(kind, _read_added_tokens(spec.local_folder))) is not None:
        return ChatTemplate(
            text=authors.template, source=f"the family's own ({authors.source})", own=False, asks_only=True
        )
    # A configuration without a type is refused when it is loaded, with a better reason.
    if kind is None or kind in NO_CONVERSATION:
        return ChatTemplate(text=None, source=f"models of type {kind} have none")
    why = f" (its base {unread[0]!r} is not on this machine)" if unread else ""
    raise ModelError(
        f"{spec.name}: no chat template in {spec.local_folder}{why}: it can't be asked as it was trained; put its "
        f"base's into the folder as chat_template.jinja, or name it to `harness eval` by {_OPTION} FILE"
    )


def pads_pictures(spec: ModelSpec, template: ChatTemplate) -> bool:
    """True where a model asked by this template is shown its pictures padded to a square, which its own files don't do:
    where the spec says so, and for a hub copy of LLaVA-1.5."""
    own = own_template(spec.local_folder)
    if spec.pad_pictures:
        return not pads(spec.local_folder)
    asked_so = spec.as_authors or template.text == LLAVA_15
    return asked_so and own is not None and is_hub_copy(spec.local_folder, own.text)


def own_template(folder: Path) -> ChatTemplate | None:
    """The template in a folder's own files: the processor's, else the tokenizer's; None without one. ModelError."""
    processor = _read_object(folder / "processor_config.json").get("chat_template")
    if processor is not None:
        return _pick_template(processor, "processor_config.json", folder)
    legacy, jinja = (folder / name for name in TEMPLATE_FILES)
    if legacy.is_file():
        return _pick_template(_read_object(legacy).get("chat_template"), legacy.name, folder)
    if jinja.is_file():
        return _pick_template(_read_text(jinja), jinja.name, folder)
    tokenizer = _read_object(folder / "tokenizer_config.json").get("chat_template")
    return None if tokenizer is None else _pick_template(tokenizer, "tokenizer_config.json", folder)


def read_template_file(path: Path) -> ChatTemplate:
    """The template that the user gave: Jinja, or a JSON file that holds it as `chat_template`. SettingError."""
    source = f"{_OPTION} {path}"
    try:
        text = _read_text(path)
        held = _parse(text, path).get("chat_template") if path.suffix == ".json" else text
        found = _pick_template(held, path.name, path.parent)
    except ModelError as error:
        raise SettingError(f"{source}: {error}") from None
    return ChatTemplate(text=found.text, source=source, own=False)


def _pick_template(held: Any, name: str, folder: Path) -> ChatTemplate:
    """The one template in what a file holds; of several the one that is called default. ModelError."""
    if isinstance(held, list):
        held = {each.get("name"): each.get("template") for each in held if isinstance(each, dict)}
    if isinstance(held, dict):
        if held and "default" not in held:
            others = first_few(list(map(str, held)))
            raise ModelError(f"{folder / name}: holds no chat template called 'default', but {others}")
        held = held.get("default")
    if not isinstance(held, str) or not held.strip():
        raise ModelError(f"{folder / name}: holds no chat template; put its base's there")
    return ChatTemplate(text=held, source=name)


def _find_in_bases(folder: Path, kind: Any, unread: list[str], depth: int = 0) -> ChatTemplate | None:
    """The template of the first base that a folder names, is of its kind and is here; names of others in `unread`."""
    for name in _find_base_names(folder):
        there = _find_folder(name, folder)
        if there is None:
            unread.append(name)
        elif there.resolve() != folder.resolve() and _read_config(there).get("model_type") == kind:
            if (own := own_template(there)) is not None:
                return ChatTemplate(text=own.text, source=f"{own.source} of its base {name}", own=False)
            if depth < _MOST_BASES and (below := _find_in_bases(there, kind, unread, depth + 1)) is not None:
                return below
    return None


def _find_base_names(folder: Path) -> Iterator[str]:
    """What a folder of weights says it was made from, the surest first."""
    noted = named_base(folder, MODELS)
    named = [
        noted.name if noted is not None and not noted.outside else None,
        _read_config(folder).get("_name_or_path"),
        _read_base_on_card(folder / "README.md"),
    ]
    yield from dict.fromkeys(name for name in named if isinstance(name, str) and name.strip())


def _read_base_on_card(card: Path) -> str | None:
    """`base_model` of a model card's head, where it names one model."""
    try:
        head = card.read_text(encoding="utf-8").split("---", 2)[1] if card.is_file() else ""
    except (OSError, ValueError, IndexError):
        return None
    found = re.search(r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*|\[[ \t]*)?['\"]?([^\s'\"\[\],]+)", head, re.MULTILINE)
    return found[1] if found else None


def _find_folder(name: str, of: Path) -> Path | None:
    """Where the files of a base lie on this machine; nothing is downloaded."""
    for folder in (of / name, Path(name)):
        if holds_weights(folder):
            return None if is_outside(folder, of.resolve(), name) else folder
    try:
        spec = find(name)
        return in_cache(spec) if spec.backend == "transformers" and spec.adapter is None else None
    except (HarnessError, OSError, ValueError):
        return None


def _read_added_tokens(folder: Path) -> set[str]:
    """The tokens that a tokenizer's files say were added to its vocabulary."""
    decoder = _read_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    held = [
        _read_object(folder / "tokenizer.json").get("added_tokens"),
        _read_object(folder / "special_tokens_map.json").get("additional_special_tokens"),
        list(decoder.values()) if isinstance(decoder, dict) else None,
        list(_read_object(folder / "added_tokens.json")),
    ]
    tokens = [token for listed in held if isinstance(listed, list) for token in listed]
    named = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    return {token for token in named if isinstance(token, str)}


def _read_config(folder: Path) -> dict[str, Any]:
    return _read_object(folder / "config.json")


def _read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; nothing where there is no file. ModelError."""
    return _parse(_read_text(path), path) if path.is_file() else {}


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: can't be read: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ModelError(f"{path}: can't be read: {reason}") from None
