"""Local models that think: limits are of the answer alone, thoughts have room, and nothing in them stops an answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.datasets.build import PoolSettings, build
from harness.datasets.pool import PoolModels, check_thinking
from harness.engine.answer_progress import MarkTokens, Progress
from harness.engine.config import EngineConfig
from harness.engine.lm import SharedImageLM
from harness.models.load import load
from harness.models.spec import find
from support.errors import SettingError
from tasks.answer import FailedAnswer
from tasks.scenes.judge import ScenesJudge
from tasks.scenes.world import image_of
from tasks.thoughts import NEVER_ENDED, OF_A_THOUGHT
from tests.harness.lm_requests import ask
from trainers.config.data import Data, PoolModel

MARKS = {
    "qwen": ("<think>", "</think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "gemma": ("<|channel> thought", "<channel|>"),
    "its template's own": ("<|ponder_start|>", "<|ponder_end|>"),
    "gpt-oss": ("<|channel|> analysis <|message|>", "assistant <|channel|> final <|message|>"),
}
"""Tokens that open and close a thought; several ones parted by spaces."""
SWITCH = "{% if enable_thinking is not defined or enable_thinking %}OPEN{% else %}OPENCLOSE{% endif %}"
IMAGES = [image_of(f"test-thinking/{number}") for number in range(3)]
ASKED: list[tuple[list[Any], str]] = [([image], "is there a red circle in the image?") for image in IMAGES]


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint whose tokenizer has a family's marks; `opens`: its template opens the thought in the prompt."""

    def make(family: str, *, opens: bool = False, special: bool = False) -> Path:
        from trainers.scenes.model import build_model, build_processor

        folder = tmp_path_factory.mktemp(family) / "model"
        processor: Any = build_processor()
        for token in dict.fromkeys(" ".join(MARKS[family]).split()):
            processor.tokenizer.add_tokens([token], special_tokens=special and not token.isalpha())
        model = build_model(seed=3)
        model.resize_token_embeddings(len(processor.tokenizer))
        opening, closing = (marks.replace(" ", "") for marks in MARKS[family])
        named = "{# content.split('" + opening + "')[-1].split('" + closing + "') #}"
        end = SWITCH.replace("OPEN", opening).replace("CLOSE", closing) if opens else ""
        written = processor.chat_template
        processor.chat_template = written.replace(
            "{{ '<assistant>' if add_generation_prompt else '' }}",
            "{% if add_generation_prompt %}<assistant>" + end + "{% endif %}" + named,
        )
        assert not opens or processor.chat_template != written
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return make


def loaded(folder: Path, **engine: Any) -> SharedImageLM:
    lm = load(find(str(folder)), EngineConfig(dtype="float32", share="features", **engine))
    assert isinstance(lm, SharedImageLM)
    return lm


def write(lm: SharedImageLM, words: str) -> None:
    """Have the model write these words, whatever it is asked: its logits are replaced as they come."""
    known = lm.tokenizer.get_vocab()
    ids = [known[word] if word in known else known["\u2581" + word] for word in words.split()]
    place = [0]

    def force(_: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        read = named.get("input_ids", given[0] if given else None)
        place[0] = place[0] + 1 if read is not None and read.shape[1] == 1 else 0
        wanted = ids[place[0]] if place[0] < len(ids) else lm.tokenizer.eos_token_id
        logits = torch.full_like(output.logits, -50.0)
        logits[..., wanted] = 50.0
        output.logits = logits
        return output

    lm.hf.register_forward_hook(force, with_kwargs=True)


def answers(lm: SharedImageLM, **settings: Any) -> list[Any]:
    found: list[Any] = lm.generate_until(ask(lm, *ASKED, **settings), disable_tqdm=True)
    assert len({str(one) for one in found}) == 1
    return found


WAYS: tuple[dict[str, Any], ...] = ({}, {"do_sample": True, "temperature": 1.0}, {"exact": True})


@pytest.fixture(params=WAYS, ids=("greedy", "sampled", "exact"))
def way(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Engine settings and generation settings."""
    engine = {name: value for name, value in request.param.items() if name == "exact"}
    return engine, {name: value for name, value in request.param.items() if name != "exact"}


@pytest.mark.parametrize("special", (False, True))
@pytest.mark.parametrize("family", MARKS)
def test_a_limit_is_of_the_answer_alone(
    family: str, special: bool, make_model: Callable[..., Path], way: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    opening, closing = MARKS[family]
    engine, settings = way
    lm = loaded(make_model(family, special=special), **engine)
    write(lm, f"{opening} yes no yes no yes no {closing} no yes yes yes")
    (found, *_) = answers(lm, max_gen_toks=2, until=["no yes no"], **settings)
    assert (found.split(), found.reasoning.split(), found.limited) == (["no", "yes"], ["yes", "no"] * 3, True)
    assert "at most 4096 tokens" in lm.provenance()["thinking"]


@pytest.mark.parametrize("family", MARKS)
def test_a_thought_that_the_template_opens_has_room_too(
    family: str, make_model: Callable[..., Path], way: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    closing = MARKS[family][1]
    engine, settings = way
    lm = loaded(make_model(family, opens=True), thinking_tokens=5 + len(closing.split()), **engine)
    write(lm, f"yes no yes no yes {closing} no")
    (found, *_) = answers(lm, max_gen_toks=2, until=["yes"], **settings)
    assert (found, found.reasoning.split(), found.limited) == ("no", ["yes", "no", "yes", "no", "yes"], False)
    lm = loaded(make_model(family, opens=True), thinking_tokens=3, **engine)
    write(lm, f"yes no yes no yes {closing} no")
    (found, *_) = answers(lm, max_gen_toks=2, **settings)
    assert isinstance(found, FailedAnswer)
    assert (found.error, str(found.reasoning).split()) == (NEVER_ENDED, ["yes", "no", "yes"])


def test_thinking_is_switched_by_the_template(make_model: Callable[..., Path]) -> None:
    folder = make_model("qwen", opens=True)
    contexts = {}
    for thinking in (None, "on", "off"):
        lm = loaded(folder, thinking=thinking)
        contexts[thinking] = ask(lm, *ASKED)[0].args[0]
        write(lm, "no yes")
        (found, *_) = answers(lm, max_gen_toks=2)
        if thinking == "off":
            assert (str(found).split(), lm.provenance()["thinking"]) == (["no", "yes"], "off")
        else:
            assert isinstance(found, FailedAnswer)
    assert contexts[None] == contexts["on"]
    assert contexts["on"].endswith("<think>")
    assert contexts["off"].endswith("<think></think>")
    assert EngineConfig(thinking="on").recorded() == {"model settings": "thinking=on"}
    assert EngineConfig(thinking_tokens=9).recorded() == {"model settings": "thinking_tokens=9"}


def test_a_switch_that_would_not_act_is_an_error(make_model: Callable[..., Path]) -> None:
    folder = make_model("qwen")
    with pytest.raises(SettingError, match="thinking = off: would not act: its chat template has no such switch"):
        loaded(folder, thinking="off")
    for wrong in ({"thinking_tokens": -1}, {"thinking": "off", "thinking_tokens": 5}, {"thinking": "maybe"}):
        with pytest.raises(SettingError, match="thinking"):
            EngineConfig(**wrong)


def test_a_member_of_a_pool_thinks_as_it_is_told(make_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, pool = str(make_model("qwen", opens=True)), PoolModels()
    for thinking in (None, "off"):
        member = PoolModel(model=folder, thinking=thinking, thinking_tokens=None if thinking else 9)
        check_thinking([member])
        lm: Any = pool(member)
        assert lm.apply_chat_template([{"role": "user", "content": "<image>So?"}]).endswith("</think>") is bool(
            thinking
        )
    with pytest.raises(SettingError, match="thinking = off: would not act: its chat template has no such switch"):
        check_thinking([PoolModel(model=str(make_model("gemma")), thinking="off")])
    members = (PoolModel(model="scenes-base", thinking="on"), PoolModel(model="scenes-early"))
    data = Data(instructions=1, pool=members, answers=2)
    with pytest.raises(SettingError, match="thinking = on: would not act"):
        build(tmp_path, data, 0, ScenesJudge(), PoolSettings())
    with pytest.raises(ValidationError, match="thinking_tokens = 3: would not act"):
        PoolModel(model=folder, thinking="off", thinking_tokens=3)
    assert PoolModel(model="a").model_dump(mode="json").keys().isdisjoint({"thinking", "thinking_tokens"})


def test_kept_answers_with_thoughts_are_those_of_this_room(make_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, store = make_model("qwen"), tmp_path / "answers.sqlite"

    def answer(room: int) -> tuple[Any, int]:
        lm = loaded(folder, thinking_tokens=room, answers=store)
        write(lm, "<think> yes no yes no </think> no")
        (found, *_) = answers(lm, max_gen_toks=2)
        return found, lm.counts["answered"]

    assert [answer(9), answer(9)] == [("no", 3), ("no", 0)]
    cut, asked = answer(3)
    assert (type(cut), asked) == (FailedAnswer, 3)
    assert answer(9) == ("no", 0)


def test_likelihoods_of_a_thought_are_none_of_an_answer(make_model: Callable[..., Path]) -> None:
    from harness.engine.jobs import Hints

    engine = EngineConfig(dtype="float32", share="features")
    lm = load(find(str(make_model("qwen", opens=True))), engine, hints={"t": Hints(choices=("yes", "no"))})
    assert isinstance(lm, SharedImageLM)
    write(lm, "yes </think> no")
    (found, *_) = answers(lm)
    assert (found, dict(found.choices), found.no_choices) == ("no", {}, OF_A_THOUGHT)


def test_without_room_thoughts_count() -> None:
    def decode(tokens: Any) -> str:
        return "".join(chr(token) for token in tokens)

    def spent_at(text: str, *, limit: int, room: int, prompt: str = "") -> int | None:
        progress = Progress(prompt, limit=limit, room=room, marks=MarkTokens(decode, ()))
        tokens: list[int] = []
        for character in text:
            tokens.append(ord(character))
            progress.note(tokens)
            if progress.is_spent:
                return len(tokens)
        return None

    thought = "<think>abcd</think>"
    assert spent_at(thought + "xyz", limit=9, room=0) == 9
    assert spent_at(thought + "xyz", limit=9, room=20) is None
    assert spent_at(thought + "xyz", limit=2, room=20) == len(thought + "xy")
    assert spent_at("<b>xyz", limit=1, room=20) == 2
    assert spent_at("abcdefghijk", limit=9, room=20) == 9
    assert spent_at("abcd</think>xyz", limit=2, room=20, prompt="A: <think>\n") == len("abcd</think>xy")
    assert spent_at("abcdefgh", limit=2, room=5, prompt="A: <think>\n") == 5
