"""What is trained on is what is generated: the same prompt, the same tokens behind it, and the token that stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from harness.engine.greedy_decoding import DecodingRules
from harness.models.load import register
from support.errors import TrainingError
from support.images import ImageRef
from tasks.thoughts import split_thoughts
from tests.harness.zoo import FAMILIES
from tests.trainers.one_answer import picture
from trainers.data.chat import Chat, stops_of, tokens_behind
from trainers.data.collators import AnswerCollator, PairCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Answers, Pairs
from trainers.packed.collator import PackedCollator

register()
WITHOUT_TEMPLATE = ("fuyu", "idefics", "instructblip", "paligemma")
CHATTING = [*sorted(set(FAMILIES) - set(WITHOUT_TEMPLATE)), "qwen"]
ASKED = [{"role": "user", "content": "what is in the image"}]


def pair(chosen: str = "two dogs on the table .", rejected: str = "no one") -> Preference:
    shown: ImageRef = picture(1, (56, 56))
    return Preference(id="0", prompt="what is in the image", images=(shown,), chosen=chosen, rejected=rejected, row=0)


def trained_rows(processor: Any, stops: frozenset[int], one: Preference) -> dict[str, tuple[list[int], list[int]]]:
    """(prompt, chosen answer) as tokens, by each path that trains."""
    found = {}
    for kind in (PackedCollator, PairCollator):
        batch = kind(processor, None, stops)([Pairs([one])[0]])
        mask = batch["completion_mask"][0].bool()
        ids = batch["input_ids"][0][: int(batch["attention_mask"][0].sum())]
        mask = mask[: len(ids)]
        found[kind.__name__] = ids[~mask].tolist(), ids[mask].tolist()
    batch = AnswerCollator(processor, None, stops)([Answers([one])[0]])
    told = batch["labels"][0] != -100
    found["AnswerCollator"] = batch["input_ids"][0][~told].tolist(), batch["input_ids"][0][told].tolist()
    return found


@pytest.mark.parametrize(("opening", "closing"), (("<think>\n", "\n</think>\n\n"), ("[THINK]", "[/THINK]")))
@pytest.mark.parametrize("written", (False, True))
def test_an_answer_is_not_trained_on_as_a_thought(
    opening: str, closing: str, written: bool, checkpoint: Callable[[str], Path]
) -> None:
    """Where a template opens a thought in the prompt, it ends before the answer, whether or not it writes one there."""
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    for mark in (opening.strip(), closing.strip()):
        processor.tokenizer.add_tokens([AddedToken(mark, special=True)])
    before = opening + closing if written else ""
    processor.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<image>\nUSER: {{ m.content[-1].text }} A:{% else %}"
        + before
        + "{{ m.content[0].text }}{{ eos_token }}{% endif %}{% endfor %}"
        + ("{% if add_generation_prompt %}" + opening + "{% endif %}")
    )
    chat, shown = Chat(processor, frozenset({processor.tokenizer.eos_token_id})), picture(1, (56, 56)).open()
    turn = chat.read(ASKED, [shown], ["two dogs"])
    assert turn.prompt.endswith(opening)
    text = processor.tokenizer.decode(turn.answers[0])
    assert split_thoughts(text.removesuffix(processor.tokenizer.eos_token), turn.prompt).answer == "two dogs"


@pytest.mark.parametrize("family", CHATTING)
def test_trained_tokens_are_generated_ones(family: str, checkpoint: Callable[[str], Path]) -> None:
    """A model that says the chosen answer is asked as in an evaluation; what it generates is what was trained on."""
    folder = checkpoint(family)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    stops = stops_of(model, processor)
    one = pair()
    rows = trained_rows(processor, stops, one)
    parts = [{"type": "image"}, {"type": "text", "text": one.prompt}]
    asked = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    read = processor(text=[asked], images=[[one.images[0].open()]], add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ][0]
    for path, (prompt, answer) in rows.items():
        assert prompt == read.tolist(), path
        assert answer == rows["PackedCollator"][1], path
        assert answer[-1] in DecodingRules(model, processor.tokenizer, default_new_tokens=8).end_tokens(), path
        assert not stops & set(answer[:-1]), path
        # As `lm.text_of` shows it; many tokenizers begin a text's first word by a space.
        assert processor.tokenizer.decode(answer[:-1]).strip() == one.chosen, path
        whole = processor.tokenizer.decode([*read.tolist(), *answer[:-1]])
        assert whole.endswith(one.chosen), path
        assert whole == processor.tokenizer.decode(read) + processor.tokenizer.decode(
            [*read.tolist()[-1:], *answer[:-1]]
        ).removeprefix(processor.tokenizer.decode(read[-1:])), path


@pytest.mark.parametrize("family", WITHOUT_TEMPLATE)
def test_a_base_without_a_chat_template_is_refused_in_one_line(family: str, checkpoint: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint(family))
    with pytest.raises(TrainingError, match="chat template") as caught:
        PairCollator(processor)([Pairs([pair()])[0]])
    assert "\n" not in str(caught.value)


# Templates, by what they write


class Processor:
    """A processor of text alone: words and single characters, a template in Python, and an end of text."""

    def __init__(self, write: Callable[[list[dict[str, Any]], bool], str], *, specials: tuple[str, ...] = ()) -> None:
        self.write = write
        letters = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
        merges = [("▁", "d"), (":", "▁d"), ("▁d", "o"), ("▁do", "g")]
        vocabulary = ["<unk>", "</s>", *letters, *("".join(both) for both in merges)]
        core = Tokenizer(models.BPE({text: id for id, text in enumerate(vocabulary)}, merges, unk_token="<unk>"))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
        core.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")

    def apply_chat_template(self, messages: Any, *, tokenize: bool, add_generation_prompt: bool = False) -> str:
        return self.write(messages, add_generation_prompt)


def text_of(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def turns(opened: dict[str, str], closed: dict[str, str], generated: str) -> Any:
    """A template that writes each turn between two texts; `generated` begins the assistant's."""

    def write(messages: list[dict[str, Any]], asked: bool) -> str:
        told = "".join(opened[each["role"]] + text_of(each) + closed[each["role"]] for each in messages)
        return told + (generated if asked else "")

    return write


def template(opened: str, closed: str, generated: str | None = None) -> Any:
    return turns({"user": "Q:", "assistant": opened}, {"user": "\n", "assistant": closed}, generated or opened.rstrip())


def stripping(messages: list[dict[str, Any]], asked: bool) -> str:
    told = "".join(f"{each['role']}:{text_of(each).strip()}<e>\n" for each in messages)
    return told + ("assistant:" if asked else "")


@pytest.mark.parametrize(
    ("write", "specials", "stops", "wanted"),
    (
        pytest.param(template("A: ", " "), (), (), "▁dog </s>", id="llava writes no end"),
        pytest.param(template("A: ", ""), (), (), "▁dog </s>", id="nothing behind the answer"),
        pytest.param(template("A: ", "\n"), (), (), "▁dog </s>", id="only a line break behind it"),
        pytest.param(template("A: ", "</s>"), (), (), "▁dog </s>", id="the end of text itself"),
        pytest.param(template("A: ", "</s>\n"), (), (), "▁dog </s>", id="what follows the end is left out"),
        pytest.param(template("A: ", "</s> </s>"), (), (), "▁dog </s>", id="one end of two"),
        pytest.param(template("A: ", "<e>\n"), ("<e>",), (), "▁dog <e>", id="a turn's end"),
        pytest.param(template("A: ", "<e></s>"), ("<e>",), ("</s>",), "▁dog <e> </s>", id="a token that stops nothing"),
        pytest.param(template("A: ", "<e>\n"), ("<e>",), ("</s>", "<e>"), "▁dog <e>", id="two that stop"),
        pytest.param(template("A: ", "!<e>"), ("<e>",), (), "▁dog ! <e>", id="text before the end"),
        pytest.param(template("A \n", "<e>", "A\n"), ("<e>",), (), "d o g <e>", id="another beginning when asked"),
        pytest.param(
            template("A:", "<e>", "A:<t></t>"), ("<e>", "<t>", "</t>"), (), "▁dog <e>", id="thoughts, when asked"
        ),
        pytest.param(stripping, ("<e>",), (), "d o g <e>", id="the answer is stripped"),
    ),
)
def test_an_answer_ends_as_it_is_generated(write: Any, specials: Any, stops: Any, wanted: str) -> None:
    processor = Processor(write, specials=specials)
    ids = frozenset(processor.tokenizer.convert_tokens_to_ids(list(stops)))
    turn = Chat(processor, ids).read(ASKED, [], ["dog"])
    told = processor.tokenizer.convert_ids_to_tokens(turn.answers[0])
    assert " ".join(told) == wanted
    assert turn.prompt == write([{"role": "user", "content": [{"type": "text", "text": ASKED[0]["content"]}]}], True)


def test_a_prompt_whose_end_merges_with_the_answer_keeps_its_tokens() -> None:
    tokenizer = Processor(template("A:", "")).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("A: dog")["input_ids"]) == ["▁", "A", ":▁d", "o", "g"]
    assert tokenizer.convert_ids_to_tokens(tokens_behind(tokenizer, "A:", " dog")) == ["▁dog"]


def test_a_template_without_the_assistants_turn_is_refused() -> None:
    def write(messages: list[dict[str, Any]], asked: bool) -> str:
        return "".join(text_of(message) for message in messages if message["role"] == "user")

    with pytest.raises(TrainingError, match="writes no assistant's answer"):
        Chat(Processor(write)).read(ASKED, [], ["dog"])


LLAVA = Processor(template("A: ", " "))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_answer_ends_once(answer: str) -> None:
    [told] = Chat(LLAVA).read(ASKED, [], [answer]).answers
    assert told[-1] == LLAVA.tokenizer.eos_token_id
    assert (told[:-1] == []) == (answer == "")


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="dog .:A\n", min_size=1, max_size=20))
def test_tokens_of_an_answer_are_its_text(answer: str) -> None:
    [told] = Chat(LLAVA).read(ASKED, [], [answer]).answers
    shown = "".join(LLAVA.tokenizer.convert_ids_to_tokens(told[:-1])).replace("▁", " ")
    assert shown == f" {answer}"


@pytest.mark.parametrize("max_length", (40, 42, 44))
def test_rows_are_cut_alike_on_both_paths(max_length: int, checkpoint: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    examples = [Pairs([pair()])[0]]
    packed, plain = (kind(processor, max_length)(examples) for kind in (PackedCollator, PairCollator))
    for name in ("input_ids", "attention_mask", "completion_mask"):
        assert torch.equal(packed[name], plain[name])


def test_pictures_are_shown_with_both_answers(checkpoint: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    example = {**Pairs([pair()])[0], "images": [Image.new("RGB", (56, 56), "red")]}
    batch = PairCollator(processor)([example])
    assert len(batch["pixel_values"]) == 2
    assert torch.equal(*batch["pixel_values"])
