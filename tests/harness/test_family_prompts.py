"""Families are asked as their authors document it, token by token, with a chat template of the hub and without one.

Qwen-VL-Chat's prompt is in test_shown_prompt.py, its tokens are in test_qwen_vl.py."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as smolvlm_template

from harness.engine.family_prompts import is_address
from harness.evaluation.protocol import as_asked, conversation_of
from harness.models.chat_templates import chat_template_of
from harness.models.configuration import identity_behind_server
from harness.models.fetch import fetch
from harness.models.load import load
from harness.models.spec import ModelSpec, find
from harness.runs.recipe_training import base_to_train
from support.errors import ModelError, TrainingError
from tasks.answer import FailedAnswer
from tests.harness.lm_requests import instance
from tests.harness.test_chat_templates import weights, write
from tests.harness.test_llava_15 import HUB_TEMPLATE
from tests.harness.zoo import FAMILIES

QUESTION = "Is there a red circle in the image?"


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))


DOCUMENTED: dict[str, Callable[[Any, Image.Image], Any]] = {
    # huggingface.co/HuggingFaceM4/idefics-9b-instruct
    "idefics": lambda processor, image: processor(
        text=[["User:", image, f"{QUESTION}<end_of_utterance>", "\nAssistant:"]],
        add_end_of_utterance_token=False,
        return_tensors="pt",
    ),
    # huggingface.co/adept/fuyu-8b
    "fuyu": lambda processor, image: processor(text=f"{QUESTION}\n", images=[image], return_tensors="pt"),
    # ai.google.dev/gemma/docs/paligemma/prompt-system-instructions, whose "\n" the processor writes
    "paligemma": lambda processor, image: processor(
        text=f"<image>answer en {QUESTION}", images=image, return_tensors="pt"
    ),
    # huggingface.co/Salesforce/instructblip-vicuna-7b
    "instructblip": lambda processor, image: processor(images=image, text=QUESTION, return_tensors="pt"),
}


GEMMA_3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""
TEMPLATED: dict[str, tuple[str, str]] = {
    # Template: llava-hf/llava-1.5-7b-hf. Prompt: haotian-liu/LLaVA, conversation.py, vicuna_v1.
    "llava": (
        HUB_TEMPLATE,
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the user's questions. USER: <image>\n{QUESTION} ASSISTANT:",
    ),
    # Template: llava-hf/llava-v1.6-mistral-7b-hf. Prompt: its model card, and transformers' example of the class.
    "llava_next": (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
        "{% elif message['role'] == 'user' %}{{ '[INST] ' }}{# Render all images first #}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + message['content'][0]['text'] + '<\\s> ' }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        f"[INST] <image>\n{QUESTION} [/INST]",
    ),
    # Template: Qwen/Qwen2.5-VL-7B-Instruct. Prompt: QwenLM/Qwen2.5-VL, README, "Add ids for multiple image inputs".
    "qwen2_5_vl": (
        "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
        "{% for content in message['content'] %}"
        "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
        "{% set image_count.value = image_count.value + 1 %}"
        "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif content['type'] == 'video' or 'video' in content %}"
        "{% set video_count.value = video_count.value + 1 %}"
        "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|image_pad|><|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    ),
    # Template: OpenGVLab/InternVL3-8B-hf, as transformers' tests/models/internvl/test_processing_internvl.py has it.
    # Prompt: transformers' page of InternVL.
    "internvl": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}"
        "{{ '<video>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}",
        f"<|im_start|>user\n<IMG_CONTEXT>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    ),
    # Template: the processor's own. Prompt: transformers' tests/models/smolvlm/test_processing_smolvlm.py.
    "smolvlm": (
        smolvlm_template,
        f"<|im_start|>User:<image>{QUESTION}<end_of_utterance>\nAssistant:",
    ),
    # Template: google/gemma-3-4b-it. Prompt: ai.google.dev/gemma/docs/core/prompt-structure.
    "gemma3": (
        GEMMA_3,
        f"<start_of_turn>user\n<start_of_image>{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
    ),
}


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_hub_template_gives_the_tokens_of_the_documented_prompt(tmp_path: Path, family: str) -> None:
    template, documented = TEMPLATED[family]
    FAMILIES[family](tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    lm: Any = load(as_asked(fetch(find(str(tmp_path))), "official"))
    system = conversation_of("official", find(str(tmp_path))).system
    turns = [{"role": "system", "content": system}] if system else []
    asked = str(lm.apply_chat_template([*turns, {"role": "user", "content": f"<image>{QUESTION}"}]))
    expected = lm.processor(text=[documented], images=[[picture()]], return_tensors="pt")["input_ids"][0].tolist()
    assert lm.tokens(asked, [picture()]) == expected
    assert lm.processor_inputs(asked, [picture()])["input_ids"][0].tolist() == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for family in DOCUMENTED:
        FAMILIES[family](root / family)
    return {family: root / family for family in DOCUMENTED}


def ask(lm: Any, question: str = QUESTION) -> str:
    return str(lm.apply_chat_template([{"role": "user", "content": f"<image>{question}"}]))


@pytest.mark.parametrize("family", DOCUMENTED)
def test_a_prompt_has_the_tokens_of_the_authors_example(folders: dict[str, Path], family: str) -> None:
    lm: Any = load(find(str(folders[family])))
    documented = DOCUMENTED[family](AutoProcessor.from_pretrained(folders[family]), picture())
    assert lm.tokens(ask(lm), [picture()]) == documented["input_ids"][0].tolist()
    ours = lm.processor_inputs(ask(lm), [picture()])
    assert ours["input_ids"].tolist() == documented["input_ids"].tolist()


def test_idefics_ends_its_turn_and_writes_no_image(folders: dict[str, Path]) -> None:
    lm: Any = load(find(str(folders["idefics"])))
    of = lm.tokenizer.convert_tokens_to_ids
    config = lm.hf.generation_config
    assert config.eos_token_id == [of("</s>"), of("<end_of_utterance>")]
    assert config.bad_words_ids == [[of("<image>")], [of("<fake_token_around_image>")]]
    assert of("<end_of_utterance>") in lm.rules.end_tokens()
    with torch.no_grad():  # a model whose likeliest token is always one of these
        for name in ("<image>", "<end_of_utterance>"):
            bias = torch.zeros(len(lm.tokenizer))
            bias[of(name)] = 100.0
            hook = lm.hf.lm_head.register_forward_hook(lambda *given, bias=bias: given[-1] + bias)
            (answer,) = lm.generate_until([instance(ask(lm), [picture()])], disable_tqdm=True)
            hook.remove()
            assert "<image>" not in answer
            assert (answer == "") == (name == "<end_of_utterance>")


def test_an_address_in_a_question_is_not_fetched(folders: dict[str, Path]) -> None:
    lm: Any = load(find(str(folders["idefics"])))
    asked = instance(ask(lm, "http://127.0.0.1:9/secret.png"), [picture()])
    (answer,) = lm.generate_until([asked], disable_tqdm=True)
    assert isinstance(answer, FailedAnswer)
    assert "address" in answer.error
    assert not is_address("What is at http://x.y/z ?")


def test_the_base_of_idefics_knows_no_dialogue(tmp_path: Path) -> None:
    base, instruct = weights(tmp_path / "base", "idefics"), weights(tmp_path / "instruct", "idefics")
    write(tmp_path / "base", "added_tokens.json", {"<image>": 32001})
    write(tmp_path / "instruct", "added_tokens.json", {"<image>": 32001, "<end_of_utterance>": 32002})
    assert chat_template_of(base).text is None
    assert "<end_of_utterance>" in str(chat_template_of(instruct).text)


@pytest.mark.parametrize("family", ("idefics", "fuyu", "paligemma"))
def test_what_writes_questions_alone_trains_nothing_and_claims_no_server(folders: dict[str, Path], family: str) -> None:
    spec = fetch(find(str(folders[family])))
    assert "chat template" not in identity_behind_server(spec)
    with pytest.raises(TrainingError, match="no chat template"):
        base_to_train(spec, family)


@pytest.mark.parametrize("lacking", ("the folder", "its files"))
def test_without_its_own_q_former_tokenizer_instructblip_is_refused(
    folders: dict[str, Path], tmp_path: Path, lacking: str
) -> None:
    shutil.copytree(folders["instructblip"], tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "qformer_tokenizer")
    if lacking == "its files":
        (tmp_path / "m" / "qformer_tokenizer").mkdir()
    with pytest.raises(ModelError, match=r"no tokenizer in its sub-folder qformer_tokenizer.*whole repository"):
        load(find(str(tmp_path / "m")))


def test_its_q_former_reads_the_question_in_its_own_tokens(folders: dict[str, Path]) -> None:
    lm: Any = load(find(str(folders["instructblip"])))
    own = AutoTokenizer.from_pretrained(folders["instructblip"] / "qformer_tokenizer")
    inputs = lm.processor_inputs(ask(lm), [picture()])
    assert inputs["qformer_input_ids"][0].tolist() == own(QUESTION)["input_ids"]
    assert own(QUESTION)["input_ids"] != lm.tokenizer(QUESTION)["input_ids"]


def test_a_converted_copy_has_the_files_of_its_parts(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "bin"
    shutil.copytree(folders["instructblip"], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "tokenizer.json").write_text("{}")
    (folder / "checkpoint-5" / "pytorch_model.bin").write_text("")
    spec = fetch(ModelSpec(name="m", pretrained=str(folder)))
    copy = spec.local_folder
    assert (copy / "qformer_tokenizer" / "tokenizer.json").is_file()
    assert not (copy / "checkpoint-5").exists()
    assert load(spec).processor.qformer_tokenizer.get_vocab()
