"""Settings of the engine: what acts, what entries record, and under which key answers are kept."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from harness.engine.config import EngineConfig, config_from
from harness.engine.response_cache import Json, ResponseCache
from harness.models.fetch import fetch
from harness.models.load import facts_of, load
from harness.models.spec import find
from support.errors import SettingError
from support.settings import settings_of
from tasks.scenes.world import image_of
from tests.harness.lm_requests import ask

GIVEN: dict[str, Any] = {"dtype": "float64", "device": "cpu", "suffix": " now", "exact": "true", "load_in_4bit": True}
GIVEN |= {"compile": "True", "share": "features", "max_pixels": "1000"}
GIVEN |= {"batch_size": "auto", "workers": 2, "features": "f", "answers": "a"}
OF_THE_MACHINE = ("weights", "files", "torch", "transformers", "pillow", "device")


def test_every_setting_says_what_it_is_for() -> None:
    assert all(setting.help for setting in settings_of(EngineConfig))
    assert all("use" in field.metadata for field in fields(EngineConfig))


def test_entries_record_settings_in_the_words_they_always_had() -> None:
    assert config_from(GIVEN, "--model-set").recorded() == {
        "model settings": "compile=True, device=cpu, dtype=float64, load_in_4bit=True, max_pixels=1000, share=features",
        "prompt suffix": " now",
        "shared": "nothing (exact)",
    }
    assert EngineConfig(batch_size=4, answers=Path("a")).recorded() == {}


def test_facts_under_which_answers_are_kept_are_those_of_earlier_versions() -> None:
    spec = fetch(find("scenes-base"))

    def own(engine: EngineConfig) -> dict[str, str]:
        return {name: value for name, value in facts_of(spec, engine).items() if name not in OF_THE_MACHINE}

    expected = {"dtype": "float64", "suffix": " now", "exact": "True", "load_in_4bit": "True", "compile": "True"}
    assert own(config_from(GIVEN, "--model-set")) == expected | {"share": "features", "max_pixels": "1000"}
    assert own(EngineConfig()) == {"dtype": "float32"}


def test_the_digest_of_a_question_is_that_of_earlier_versions(tmp_path: Path) -> None:
    facts = {"weights": "59fa4fe91c5d7b9e", "files": "0123456789abcdef", "torch": "2.8.0", "transformers": "5.0.0"}
    facts |= {"pillow": "12.0.0", "device": "cpu (1 threads)", "dtype": "float32", "suffix": " now"}
    cache = ResponseCache(tmp_path / "answers.sqlite").of(facts)
    settings: dict[str, Json] = {"do_sample": False, "max_gen_toks": 10, "until": []}
    question: dict[str, Json] = {"prompt": "<image> what?", "images": ["abc"], "settings": settings, "new tokens": 10}
    question |= {"rule": "", "choices": ["yes", "no"]}
    cache.put(question, "a dog")
    ((digest, model),) = ResponseCache(tmp_path / "answers.sqlite")._run("SELECT digest, model FROM answers")
    assert model == "9d6cae749da8946d33549f901ee28d54"
    assert digest == "c8619a2d4b6deb2b9f1ff8a64fe099fe7f6f343f9a82a74c38e4c5790cc49f38"


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"batch_size": "many"}, "batch_size = 'many': must be a number of questions"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"share": "all"}, "share = 'all': must be one of prefix, features, answers"),
        ({"compile": "perhaps"}, "compile = 'perhaps': must be true or false"),
        ({"max_memory_per_gpu": "20GB"}, "max_memory_per_gpu = '20GB': would not act without parallelize"),
        ({"attn_implementation": "flash"}, "attn_implementation = 'flash': unknown.*known: eager, sdpa"),
        ({"bnb_4bit_quant_type": "nf4"}, "would not act without load_in_4bit"),
    ),
)
def test_a_value_that_cannot_be_or_would_not_act_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        config_from(given, "--model-set")


def test_an_unknown_setting_is_refused_and_the_nearest_one_named(random_model: Path) -> None:
    with pytest.raises(SettingError, match=r"unknown model setting 'dtyp' \(did you mean 'dtype'\?\)"):
        load(find(str(random_model)), config_from({"dtyp": "float32"}, "--model-set"))


def test_a_field_of_the_checkpoints_configuration_may_be_replaced(random_model: Path) -> None:
    engine = config_from({"vision_feature_layer": -1, "dtype": "float32"}, "--model-set")
    lm: Any = load(find(str(random_model)), engine)
    assert lm.hf.config.vision_feature_layer == -1
    assert engine.recorded() == {"model settings": "dtype=float32, vision_feature_layer=-1"}
    assert engine.cache_facts()["vision_feature_layer"] == "-1"


def test_a_longest_answer_acts_and_is_recorded(random_model: Path) -> None:
    engine = config_from({"max_new_tokens": "3"}, "--model-set")
    lm: Any = load(find(str(random_model)), engine)
    assert engine.recorded() == {"model settings": "max_new_tokens=3"}
    asked = ask(lm, ([image_of("test-config/0")], "describe the image in detail."))
    (answer,) = lm.generate_until(asked, disable_tqdm=True)
    assert 0 < len(lm.tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 4


@pytest.mark.parametrize("given", ({"features": "f"}, {"batch_size": 4}, {"nonsense": 3}, {"exact": True}))
def test_a_setting_that_a_server_does_not_hear_of_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(SettingError, match=f"openai:m: {name} = .* would not act: the model is behind a server"):
        load(find("openai:m"), config_from(given, "--model-set"))


@pytest.mark.parametrize(
    "given",
    (
        {"load_in_4bit": "true", "load_in_8bit": "true"},
        {"image_string": "<image>", "image_token_id": "5"},
    ),
)
def test_of_two_settings_of_which_one_decides_the_other_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=f"{list(given)[1]} = .*: would not act beside {next(iter(given))}"):
        config_from(given, "--model-set")


@pytest.mark.parametrize("name", ("architectures", "use_cache", "_name_or_path", "max_pixels", "min_pixels"))
def test_a_setting_that_changes_nothing_of_this_model_is_refused_when_it_is_loaded(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} = .*: would not act"):
        load(find("scenes-base"), config_from({name: "1000"}, "--model-set"))
