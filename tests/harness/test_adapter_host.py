"""Adapters swapped on one base answer as each does on a base of its own; what changes nothing is told of."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from harness.engine.config import EngineConfig
from harness.models.adapter_host import AdapterHost, changes_something
from harness.models.load import load
from harness.models.load import register as register_ours
from harness.models.spec import find
from support.errors import ModelError
from support.progress import show_on
from tasks.scenes.world import image_of
from tests.harness.lm_requests import ask
from tests.harness.qwen_vl_checkpoint import write

TEXT = {"llava": r".*language_model.*q_proj", "qwen": r".*\.h\.\d+\.attn\.c_attn"}
VISION = {"llava": r".*(vision_model|vision_tower).*q_proj", "qwen": r".*visual\.transformer.*mlp\.c_fc"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bases(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models") / "qwen"
    write(folder)
    return {"llava": random_model, "qwen": folder}


Adapters = Callable[..., Path]


@pytest.fixture(scope="module")
def adapters(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    """Writes adapters with random weights: adapter(family, targets, seed)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    register_ours()

    def write_adapter(family: str, targets: str, seed: int, scale: float = 0.2, **settings: Any) -> Path:
        model = AutoModelForImageTextToText.from_pretrained(bases[family], dtype=torch.float32)
        torch.manual_seed(seed)
        adapted = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
        )
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name or (parameter.requires_grad and name.endswith("bias")):
                    parameter.copy_(torch.randn_like(parameter) * scale)
        out = tmp_path_factory.mktemp("adapters") / f"{family}-{seed}"
        adapted.save_pretrained(out)
        return out

    return write_adapter


def requests(lm: Any) -> list[Instance]:
    questions = ("describe the image in detail.", "is there a red circle in the image?")
    images = range(2 if lm.hf.config.model_type == "llava" else 1)  # 1024 patches cost seconds
    return ask(lm, *(([image_of(f"r/{i}")], question) for i in images for question in questions), max_gen_toks=4)


def said(lm: Any) -> tuple[list[str], torch.Tensor]:
    """Answers, and all logits of a prompt with an image."""
    asked = requests(lm)
    answers = [str(answer) for answer in lm.generate_until(asked, disable_tqdm=True)]
    with torch.inference_mode():
        return answers, lm.hf(**lm.processor_inputs(asked[0].args[0], asked[0].args[2]["visual"])).logits


def assert_same(got: tuple[list[str], torch.Tensor], expected: tuple[list[str], torch.Tensor]) -> None:
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])


class Counting:
    """Loads, counts, and sees to it that no other LM is alive when it does."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[Any]] = []

    def __call__(self, spec: Any, *given: Any, **more: Any) -> Any:
        assert spec.adapter is None
        assert all(lm() is None for lm in self.alive)
        lm = load(spec, *given, **more)
        self.alive += [weakref.ref(lm), weakref.ref(lm.hf)]
        return lm

    @property
    def loads(self) -> int:
        return len(self.alive) // 2


@pytest.mark.parametrize("family", ("llava", "qwen"))
@pytest.mark.parametrize("part", (TEXT, VISION))
def test_a_swapped_adapter_answers_as_on_a_base_of_its_own(
    family: str, part: dict[str, str], bases: dict[str, Path], adapters: Adapters
) -> None:
    first, second = (find(str(adapters(family, part[family], seed))) for seed in (1, 2))
    plain = find(str(bases[family]))
    alone = {spec.name: said(AdapterHost().load(spec)) for spec in (plain, first, second)}
    if family == "llava":  # of others, lm-eval shrinks the vocabulary to the tokenizer's where there is an adapter
        assert_same(said(load(first)), alone[first.name])
    assert len({float(logits.sum()) for _, logits in alone.values()}) == 3  # else equality says little
    count = Counting()
    resident = AdapterHost(count)
    for spec in (plain, first, second, plain):
        assert_same(said(resident.load(spec)), alone[spec.name])
    assert count.loads == 1


def test_features_stay_where_the_adapter_leaves_vision_alone_and_only_there(
    bases: dict[str, Path], adapters: Adapters, tmp_path: Path
) -> None:
    plain = find(str(bases["llava"]))
    text, vision = (find(str(adapters("llava", part["llava"], 3))) for part in (TEXT, VISION))
    resident = AdapterHost()
    engine = EngineConfig(features=tmp_path / "features")
    encoded = []
    for spec in (plain, text, plain, vision, plain, text):
        lm = resident.load(spec, engine)
        before = lm.images_encoded
        said(lm)
        encoded.append(lm.images_encoded - before)
    assert encoded == [2, 0, 0, 2, 0, 0]  # back on the plain base they come from disk
    assert_same(said(resident.load(vision, engine)), said(AdapterHost().load(vision)))
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 4


@pytest.mark.parametrize("family", ("llava", "qwen"))
@pytest.mark.parametrize("part", (TEXT, VISION))
def test_of_an_adapter_that_changes_nothing_one_is_told(
    family: str, part: dict[str, str], bases: dict[str, Path], adapters: Adapters, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "harness")
    zero, good = (adapters(family, part[family], seed, scale) for seed, scale in ((4, 0.0), (5, 0.2)))
    resident = AdapterHost()
    assert not changes_something(resident.load(find(str(zero))))
    assert [f"adapter {zero} changes nothing" in line for line in caplog.messages] == [True]
    assert_same(said(resident.load(find(str(bases[family])))), said(load(find(str(bases[family])))))
    assert changes_something(resident.load(find(str(good))))
    assert not changes_something(resident.load(find(str(bases[family]))))
    assert len(caplog.messages) == 1


def test_an_adapter_that_does_not_fit_is_one_line(bases: dict[str, Path], adapters: Adapters) -> None:
    from safetensors.torch import load_file, save_file

    other = adapters("llava", TEXT["llava"], 6)
    weights = load_file(other / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[2:]), other / "adapter_model.safetensors", {"format": "pt"})
    resident = AdapterHost()
    resident.load(find(str(bases["llava"])))
    with pytest.raises(ModelError, match="doesn't fit its base: it has no weight for 2 of") as caught:
        resident.load(find(str(other)))
    assert "\n" not in str(caught.value)
    assert_same(said(resident.load(find(str(bases["llava"])))), said(load(find(str(bases["llava"])))))


def test_a_base_that_an_adapter_wrote_into_is_loaded_anew(bases: dict[str, Path], adapters: Adapters) -> None:
    plain, biased = find(str(bases["llava"])), find(str(adapters("llava", VISION["llava"], 7, bias="all")))
    count = Counting()
    resident = AdapterHost(count)
    expected = said(resident.load(plain))
    assert_same(said(resident.load(biased)), said(AdapterHost().load(biased)))
    gc.collect()
    assert_same(said(resident.load(plain)), expected)
    assert count.loads == 2


def test_another_base_dtype_or_setting_is_loaded_anew_and_the_old_one_dropped_before(bases: dict[str, Path]) -> None:
    count = Counting()
    resident = AdapterHost(count)
    plain = find(str(bases["llava"]))
    hints: list[Any] = [{}, {"task": object()}]
    resident.load(plain)
    assert resident.load(plain, hints=hints[1]).hints is hints[1]
    assert count.loads == 1
    resident.load(plain, EngineConfig(dtype="float64"))
    resident.load(plain, EngineConfig(suffix=" answer in one word."))
    resident.load(find(str(bases["qwen"])))
    assert count.loads == 4
    resident.drop()
    assert all(lm() is None for lm in count.alive)


def test_kept_answers_are_those_of_the_adapter_that_gave_them(
    bases: dict[str, Path], adapters: Adapters, tmp_path: Path
) -> None:
    resident = AdapterHost()
    engine = EngineConfig(answers=tmp_path / "answers.sqlite")
    specs = [find(str(bases["llava"])), *(find(str(adapters("llava", TEXT["llava"], seed))) for seed in (8, 9))]
    first = [said(resident.load(spec, engine))[0] for spec in specs]
    assert len({tuple(answers) for answers in first}) == 3
    for spec, answers in zip(specs, first, strict=True):
        lm = resident.load(spec, engine)
        assert said(lm)[0] == answers
        assert lm.counts["from the store"] == 4
    alone: Any = load(specs[1], engine)
    assert said(alone)[0] == first[1]
    assert alone.counts["from the store"] == 4


def test_an_adapter_goes_on_the_base_that_the_user_names(bases: dict[str, Path], adapters: Adapters) -> None:
    folder = str(adapters("llava", TEXT["llava"], 10))
    count = Counting()
    resident = AdapterHost(count)
    expected = said(resident.load(find(folder)))
    assert_same(said(resident.load(find(folder, base=str(bases["llava"])))), expected)
    assert count.loads == 1


def test_a_run_has_its_own_progress_counts_and_clock(bases: dict[str, Path]) -> None:
    resident = AdapterHost()
    plain = find(str(bases["llava"]))
    said(resident.load(plain))
    heard: list[tuple[str, int, int]] = []
    lm = resident.load(plain)
    assert not lm.counts
    assert not lm.clock.seconds
    with show_on(lambda *report: heard.append(report)):
        lm.generate_until(requests(lm))
    assert heard[-1] == (f"answers of {plain.name}", 4, 4)
