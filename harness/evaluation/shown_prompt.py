"""What exactly a model is asked: a task's wordings by a protocol, in the model's own chat template.

    outlines(asking, task)                      # {"type = relation": "<image>{query}\\nPlease answer yes or no.", ...}
    shown(spec, "<image>{query}", system="")    # "USER: <image>\\n{query} ASSISTANT:", or a server's messages

Columns stand in braces, so that no data are needed.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from jinja2.sandbox import ImmutableSandboxedEnvironment

from harness.engine.chat_template import ChatTemplate, check_switch
from harness.engine.config import EngineConfig
from harness.evaluation.protocol import PLACE, Asking
from harness.models.chat_templates import chat_template_of, pads_pictures
from harness.models.fetch import cached, fetch
from harness.models.first_token import adds_first_token
from harness.models.load import register
from harness.models.spec import ModelSpec
from support.bounded import call_bounded
from support.errors import ModelError, one_line
from tasks.registry import TaskSpec
from tasks.task_yaml import load_yaml
from trainers.training.llava_15 import pad_pictures
from trainers.training.read_base import reading

ALL: Final = "all"
OTHERS: Final = "all others"
_LISTS: Final = {"choices": ["{choice 1}", "{choice 2}"], "options": ["{option 1}", "{option 2}"]}
"""Columns that hold several texts."""


def outlines(asking: Asking, task: TaskSpec) -> dict[str, str]:
    """Which documents -> how they are asked: of each wording, and all others where there are some."""
    found = {}
    for wording in asking.wordings:
        doc = _Columns({name: known[0].replace("*", "x") for name, known in wording.only.items()})
        found[", ".join(f"{name} = {' or '.join(known)}" for name, known in wording.only.items())] = asking.put(
            doc, _own_text(task, doc)
        )
    rest = found.pop("") if "" in found else replace(asking, wordings=()).put({}, _own_text(task, _Columns({})))
    return {**found, OTHERS if found else ALL: rest}


def _own_text(task: TaskSpec, doc: Mapping[str, Any]) -> str:
    """The task's own text of a document."""
    own = str(load_yaml(task.path)["doc_to_text"])
    if "{{" in own:
        return ImmutableSandboxedEnvironment().from_string(own).render(**doc)
    module, _, name = own.rpartition(".")
    return str(getattr(importlib.import_module(module), name)(doc))


def shown(spec: ModelSpec, text: str, system: str = "", engine: EngineConfig | None = None) -> str:
    """The text of one question with special tokens, as a model whose files are here reads it; else the messages that
    its chat template gets. ModelError."""
    return writer_of(spec, system, engine)(text)


def form_of(spec: ModelSpec) -> str:
    """What `shown` gives of a model, in words."""
    if spec.backend != "transformers":
        return "messages, which its server puts into its chat template"
    return "text with special tokens" if cached(spec) else "messages, for its files with the chat template are not here"


def writer_of(spec: ModelSpec, system: str = "", engine: EngineConfig | None = None) -> Callable[[str], str]:
    """`shown` for many questions to one model, whose files are read once; `engine` may name another chat template, and
    switch thinking. SettingError where the template has no such switch."""
    if spec.backend != "transformers" or not cached(spec):
        return lambda text: json.dumps(_messages(text, system), ensure_ascii=False)
    spec, engine = fetch(spec), engine or EngineConfig()
    template = chat_template_of(spec, engine)
    check_switch(template, engine.thinking, spec.name)
    if template.text is None:
        return lambda text: "\n".join(filter(None, (system, text)))
    if engine.thinking is not None:
        template = replace(template, text=template.with_thinking(engine.thinking == "on"))
    register()
    processor = _read_processor(spec)
    if pads_pictures(spec, template):
        pad_pictures(processor)  # or why it can't be
    return lambda text: _render(spec.name, template, processor, _messages(text, system))


def _read_processor(spec: ModelSpec) -> Any:
    from transformers import AutoProcessor

    folder = str(spec.local_folder)
    with reading(spec.name, folder, "tokenizer or processor", remote_code=spec.remote_code):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=spec.remote_code)


def _render(name: str, template: ChatTemplate, processor: Any, messages: list[dict[str, Any]]) -> str:
    render: dict[str, Any] = {"chat_template": template.text, "add_generation_prompt": True}
    try:
        text: str = call_bounded(lambda: processor.apply_chat_template(messages, **render))
    except RuntimeError as error:  # a template is a program of whoever wrote it
        raise ModelError(f"{name}: its prompts can't be laid out: {one_line(error)[:300]}") from None
    tokenizer = processor.tokenizer
    return f"{tokenizer.bos_token}{text}" if adds_first_token(tokenizer, text) else text


def _messages(text: str, system: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for index, part in enumerate(text.split(PLACE)):
        content += [{"type": "image"}] if index else []
        content += [{"type": "text", "text": part}] if part else []
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*before, {"role": "user", "content": content}]


class _Columns(dict[str, Any]):
    """A document whose columns hold their own names in braces."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        choices = (*"ABCD", *(f"choice_{each}" for each in "abcd"))
        names = ("question", "query", "hint", "image", "ocr_tokens", *choices)
        super().__init__({name: f"{{{name}}}" for name in names} | _LISTS | dict(known))
