"""A server's prompt begins as the processor's does: with the model's first token once."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.models.chat_templates import chat_template_of
from harness.models.fetch import fetch
from harness.models.first_token import adds_first_token, lacks_first_token
from harness.models.load import load
from harness.models.spec import ModelSpec
from tests.harness.zoo import FAMILIES

QUESTION = "<image>Is there a red circle?"
CHATS = tuple(sorted({*FAMILIES} - {"fuyu", "idefics", "instructblip", "paligemma"}))


@pytest.mark.parametrize("family", CHATS)
def test_a_server_reads_the_first_tokens_that_the_processor_writes(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    spec = fetch(ModelSpec(name=family, pretrained=str(tmp_path)))
    spec = ModelSpec(**vars(spec) | {"folder": tmp_path})
    template = chat_template_of(spec)
    lm: Any = load(spec)
    rendered = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    lm.chat_applied = True
    wanted = lm.tokens(rendered, [Image.new("RGB", (42, 42), "red")])
    # What vLLM does: it renders the template, and adds special tokens where that is asked for.
    lacks = lacks_first_token(spec, template)
    served = lm.tokenizer(rendered, add_special_tokens=lacks)["input_ids"]
    begun = next(at for at, pair in enumerate(zip(served, wanted, strict=False)) if pair[0] != pair[1])
    read = lm.tokenizer.decode(served[:begun])
    assert "user" in read.lower() or "INST" in read  # to the place of the picture, which differs
    assert lacks is (family in ("llava", "llava_next")), family


class Words:
    """A tokenizer of words."""

    bos_token: str | None = "<s>"
    bos_token_id: int | None = 1

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        ids = [1 if word == "<s>" else len(word) + 2 for word in text.split()]
        return {"input_ids": [*([1] if add_special_tokens else []), *ids]}


def test_one_first_token_is_enough() -> None:
    assert adds_first_token(Words(), "USER: a")
    assert not adds_first_token(Words(), "<s> USER: a")
    without = Words()
    without.bos_token = without.bos_token_id = None
    assert not adds_first_token(without, "USER: a")
