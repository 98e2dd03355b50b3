"""A real vLLM is told what its checkpoint's files would decide otherwise: sampling, penalties, the first token."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from lm_eval.api.instance import Instance
from PIL import Image

from harness.datasets.pool import load_spec
from harness.models.fetch import fetch
from harness.models.load import load
from harness.models.spec import WEIGHTS, ModelSpec
from harness.serving.model_server import served
from harness.serving.settings import ServerSettings
from tasks.judges.replies import clean
from tests.harness.zoo import FAMILIES
from tests.harness.zoo_parts import _widen
from tests.vllm.conftest import FLAGS

pytestmark = pytest.mark.slow
COLOURS = ("red", "green", "blue", "white", "black", "gray")


def make(folder: Path) -> ModelSpec:
    """A Qwen2-VL of the zoo with attention heads of 32, which vLLM's kernels for CPUs take."""
    FAMILIES["qwen2_vl"](folder)
    config: Any = hf.AutoConfig.from_pretrained(folder)
    kept = hf.GenerationConfig.from_pretrained(folder)
    config.text_config.hidden_size, config.text_config.head_dim = 128, 32
    config.vision_config.hidden_size, config.vision_config.embed_dim = 128, 64
    config.text_config.rope_parameters["mrope_section"] = [8, 4, 4]
    torch.manual_seed(0)
    model: Any = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _widen(model)
    model.generation_config = kept
    model.save_pretrained(folder)
    return fetch(ModelSpec(name="qwen2_vl", pretrained=str(folder)))


def asking(number: int, text: str = "", **settings: Any) -> Instance:
    picture = Image.new("RGB", (84, 56), COLOURS[number % len(COLOURS)])
    given = {"until": [], "max_gen_toks": 12, "do_sample": False} | settings
    return Instance(
        request_type="generate_until",
        doc={},
        arguments=(f"<image>Is it {number}?", given, {"visual": [picture]}),
        idx=0,
    )


def ask(lm: Any, requests: list[Instance]) -> list[str]:
    for request in requests:
        context = lm.apply_chat_template([{"role": "user", "content": request.args[0]}])
        request.arguments = (context, *request.args[1:])
    lm.chat_applied = True
    answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
    return answers


def test_a_sampled_pool_member_has_as_many_answers_as_it_has_seeds_whatever_its_checkpoint_says(
    tmp_path: Path,
) -> None:
    spec = make(tmp_path / "m")
    said = json.loads((tmp_path / "m/generation_config.json").read_text())
    own = {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.01, "repetition_penalty": 1.3}
    (tmp_path / "m/generation_config.json").write_text(json.dumps(said | own))
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    with served(spec, ServerSettings(flags=FLAGS), folder=tmp_path / "servers") as reached:
        lm: Any = load_spec(reached, ledger=tmp_path / "l.sqlite")
        assert len({*ask(lm, [asking(0, seed=seed, **sampled) for seed in range(8)])}) == 8
        greedy = ask(lm, [asking(number) for number in range(12)])
        told = lm.provenance()
    assert told["sampling"].startswith("temperature 0, top_p 1, top_k -1, min_p 0, repetition_penalty 1,")
    assert "sampling of the server's own" not in told
    # What the same checkpoint says here when nothing in its files penalises repeating.
    (tmp_path / "m/generation_config.json").write_text(json.dumps(said))
    here = ask(load(spec), [asking(number) for number in range(12)])
    # A server's reply is kept without control characters and the first bytes of a character, and scored without a
    # leading space.
    assert greedy == [clean(answer).removeprefix(" ").rstrip("\ufffd") for answer in here]


def test_a_model_whose_template_has_no_first_token_is_asked_as_it_is_here(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "scenes-base", tmp_path / "m")
    template = tmp_path / "m/chat_template.jinja"
    file = tmp_path / "m/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    (first,) = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<s>"]
    token = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    tokenizer["post_processor"]["single"].insert(0, token)
    tokenizer["post_processor"]["special_tokens"]["<s>"] = {"id": "<s>", "ids": [first], "tokens": ["<s>"]}
    file.write_text(json.dumps(tokenizer))
    assert "{{ bos_token }}" in template.read_text()
    template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    spec = fetch(ModelSpec(name="m", pretrained=str(tmp_path / "m"), dtype="float32"))

    def questions() -> list[Instance]:
        return [asking(number, text) for text in ("Describe the image.", "Is it red?") for number in range(30)]

    here = ask(load(spec), questions())
    with served(spec, ServerSettings(flags=FLAGS), folder=tmp_path / "servers") as reached:
        lm: Any = load(reached, ledger=tmp_path / "l.sqlite")
        there = ask(lm, questions())
        told, known = lm.provenance(), lm.digests
    assert there == here
    assert "add_special_tokens true" in told["sampling"]
    assert known["server version"].startswith("vllm ")
    assert known["dtype"] == "float32"


def test_answers_in_two_dtypes_are_those_of_two_models(tmp_path: Path) -> None:
    spec = make(tmp_path / "m")
    asked = []
    for dtype in ("float32", "bfloat16", "float32"):
        settings = ServerSettings(flags={**FLAGS, "dtype": dtype})
        with served(spec, settings, folder=tmp_path / "servers") as reached:
            lm: Any = load(reached, ledger=tmp_path / "l.sqlite")
            ask(lm, [asking(number) for number in range(4)])
            asked.append(lm.client.asked)
            assert lm.digests["dtype"] == dtype
    assert asked == [4, 4, 0]
