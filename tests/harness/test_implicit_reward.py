"""The implicit DPO reward of a trained model: the log-probabilities that training takes, read once and kept."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.main import run
from harness.judge_bench import implicit_reward
from harness.judge_bench.benches import BENCHES, read_scenes
from harness.judge_bench.figures import figures_of
from harness.judge_bench.implicit_reward import log_probs, reference_of, score_pairs
from harness.models.load import register
from harness.models.spec import ModelSpec, find
from support.errors import SettingError
from support.images import ImageRef, keep, picture
from tasks.answer import FailedAnswer
from tasks.pairs.protocol import Pair
from tests.harness.zoo import FAMILIES
from trainers.data.chat import Chat, stops_of
from trainers.training.llava_15 import CHAT_TEMPLATE, is_hub_copy, pad_pictures

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            FAMILIES[family](made[family])
        return made[family]

    return make


@pytest.fixture(scope="module")
def adapter(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an adapter on the random model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_pretrained(random_model, dtype=torch.float32)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("run") / "checkpoint-40"
    adapted.save_pretrained(folder)
    note = {"base": str(random_model.resolve())}
    (folder / "checkpoint.json").write_text(json.dumps(note), encoding="utf-8")
    return folder


def one_by_one(folder: Path, pairs: Any, side: str) -> list[float]:
    """Each answer alone, without batches, caches and padding: a sum over its tokens."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    register()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    if is_hub_copy(folder, processor.chat_template):  # LLaVA-1.5 is read as its authors asked and trained it
        processor.chat_template = CHAT_TEMPLATE
        pad_pictures(processor)
    chat, found = Chat(processor, stops_of(model, processor)), []
    for pair in pairs:
        shown = picture(pair.image).convert("RGB")
        asked = [{"role": "user", "content": pair.question}]
        turn = chat.read(asked, [shown], [getattr(pair, side)])
        given = dict(processor(text=[turn.prompt], images=[[shown]], add_special_tokens=False, return_tensors="pt"))
        answer = torch.tensor([turn.answers[0]])
        for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in given:
                behind = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
                given[name] = torch.cat([given[name], behind.get(name, torch.zeros_like(answer))], 1)
        with torch.inference_mode():
            logits = model(**given).logits[0].double().log_softmax(-1)
        start = given["input_ids"].shape[1] - answer.shape[1]
        found.append(sum(float(logits[start - 1 + place, token]) for place, token in enumerate(turn.answers[0])))
    return found


def sums(spec: ModelSpec, pairs: Sequence[Pair], out: Path, **more: Any) -> list[Mapping[str, float]]:
    found = log_probs(spec, pairs, out, **more)
    assert not any(isinstance(values, FailedAnswer) for values in found)
    return [values for values in found if not isinstance(values, FailedAnswer)]


@pytest.mark.parametrize("family", ("llava", "qwen2_5_vl", "idefics3", "gemma3"))
def test_log_probabilities_are_those_of_each_answer_alone(
    family: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, pairs = tiny(family), read_scenes({})[:5]
    found = sums(replace(find(str(folder)), dtype="float32"), pairs, tmp_path, batch_size=3)
    for side in ("chosen", "rejected"):
        assert [values[side] for values in found] == pytest.approx(one_by_one(folder, pairs, side), rel=1e-4)


def test_a_picture_is_encoded_once_for_all_answers_about_it(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Counting(implicit_reward._Reader):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            encoder = self.model.base_model.get_encoder(modality="image")
            encoder.register_forward_hook(lambda module, args, kwargs, out: seen.append(1), with_kwargs=True)

        def read(self, pairs: Any) -> Any:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(self.model, "generate", None)
                return super().read(pairs)

    monkeypatch.setattr(implicit_reward, "_Reader", Counting)
    pairs = read_scenes({})[:9]
    random.Random(0).shuffle(pairs)
    log_probs(find(str(random_model)), pairs, tmp_path, batch_size=2)
    assert sum(seen) == len({pair.image for pair in pairs}) < len(pairs)


def test_the_reward_of_a_model_against_itself_is_a_tie(random_model: Path, tmp_path: Path) -> None:
    model, pairs = find(str(random_model)), read_scenes({})[:8]
    compared = score_pairs(pairs, policy=model, reference=model, out=tmp_path)
    found = figures_of(BENCHES["scenes"], compared)
    assert (found.accuracy[0].value, found.ties, found.beside) == (50.0, 8, ())


def test_a_checkpoint_is_measured_against_its_base_and_what_was_read_is_kept(
    adapter: Path,
    random_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["judge", "bench", "--model", str(adapter), "--limit", "12", "--out", str(tmp_path), "--json"]
    assert run([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"12 pairs, read by {adapter} and base of {adapter}" in told
    assert not list(tmp_path.iterdir())
    assert run(arguments) == 0
    (first,) = json.loads(capsys.readouterr().out)["results"]
    assert first["judge"] == f"reward of {adapter}"
    assert first["pairs"] == 12
    assert first["ties"] == 0

    (kept,) = tmp_path.glob("scenes-*.json")
    drawn = {pair["id"] for pair in json.loads(kept.read_text(encoding="utf-8"))["compared"]}
    pairs = [pair for pair in read_scenes({}) if pair.id in drawn]
    policy, reference = (sums(find(str(folder)), pairs, tmp_path / "log_probs") for folder in (adapter, random_model))
    right = [p["chosen"] - r["chosen"] > p["rejected"] - r["rejected"] for p, r in zip(policy, reference, strict=True)]
    assert first["accuracy"][0]["value"] == pytest.approx(100 * sum(right) / 12)

    def refuse(*given: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(implicit_reward, "_Reader", refuse)
    assert run(arguments) == 0
    out = capsys.readouterr()
    (again,) = json.loads(out.out)["results"]
    assert again["accuracy"] == first["accuracy"]
    assert "12 log-probabilities from the store" in out.err


def test_a_pair_that_can_t_be_read_costs_itself_alone(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pairs = find(str(random_model)), read_scenes({})[:5]
    pairs[2] = replace(pairs[2], image=keep(ImageRef("lost.png", problem="missing picture")))
    pairs[3] = replace(pairs[3], chosen="<image> in an answer")
    compared = score_pairs(pairs, policy=model, reference=model, out=tmp_path)
    found = figures_of(BENCHES["scenes"], compared)
    assert (found.lost, found.pairs, found.accuracy[0].pairs) == (2, 5, 3)


def test_a_broken_model_gives_no_score(random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(random_model)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    AutoProcessor.from_pretrained(random_model).save_pretrained(tmp_path / "broken")
    arguments = ["judge", "bench", "--model", str(tmp_path / "broken"), "--reference", str(random_model)]
    assert run([*arguments, "--limit", "3", "--out", str(tmp_path / "out")]) == 4
    err = capsys.readouterr().err
    assert "3 of 3 pairs without a score" in err
    assert "the model gives an answer no finite probability (3, such as " in err


def test_the_base_is_what_the_files_name(adapter: Path, random_model: Path) -> None:
    policy = find(str(adapter))
    assert reference_of(policy, "base").pretrained == policy.pretrained
    assert reference_of(policy, "base").adapter is None
    assert reference_of(policy, "scenes-base").name == "scenes-base"
    with pytest.raises(SettingError, match="name no base"):
        reference_of(find(str(random_model)), "base")
