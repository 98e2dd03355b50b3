"""What models take of a request: the table of families, and a user's own."""

from pathlib import Path

import pytest

from support.errors import SettingError
from tasks.judges.capabilities import OVERRIDE, capabilities_of, host_of


@pytest.mark.parametrize(
    ("model", "host", "kind", "family"),
    (
        ("gpt-5-mini", "api.openai.com", "", "openai-reasoning"),
        ("openrouter/openai/o4-mini", "openrouter.ai", "", "openai-reasoning"),
        ("GPT-5.4", "", "", "openai-reasoning-5-1"),
        ("gpt-5-chat-latest", "", "", "openai-chat"),
        ("gpt-4.1-2025-04-14", "", "", "openai-chat"),
        ("ft:gpt-4o-2024-08-06:us::x", "", "", "openai-chat"),
        ("gpt-5.10-chat-latest", "", "", "openai-chat"),
        ("us.anthropic.claude-opus-4-8-v1:0", "", "", "claude"),
        ("gpt-9", "api.openai.com", "", "openai"),
        ("my-deployment", "me.openai.azure.com", "", "azure"),
        ("claude-opus-4-8", "api.anthropic.com", "", "anthropic"),
        ("anthropic/claude-sonnet-4-5", "openrouter.ai", "", "claude"),
        ("gemini-3.5-flash", "generativelanguage.googleapis.com", "", "gemini"),
        ("qwen", "localhost:11434", "", "ollama"),
        ("gpt-5-mini", "localhost:8000", "vllm", "vllm"),
        ("qwen", "localhost:8000", "", "unknown"),
        ("my-o3", "", "", "unknown"),
    ),
)
def test_a_model_is_known_by_its_name_and_its_server(model: str, host: str, kind: str, family: str) -> None:
    assert capabilities_of(model, host, kind).family == family


def test_what_is_ignored_or_refused_is_not_settable() -> None:
    anthropic = capabilities_of("claude-sonnet-4-5", host_of("https://api.anthropic.com:443/v1"))
    ignored = {
        "seed": 7,
        "response_format": {},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_k": 5,
        "detail": "low",
    }
    assert [name for name, value in ignored.items() if anthropic.setting(name, value) is not False] == []
    assert [anthropic.setting("temperature", value) for value in (0.0, 1.0, 1.5)] == [True, True, False]
    assert capabilities_of("claude-opus-4-8", "api.anthropic.com").setting("temperature", 0.0) is False


@pytest.mark.parametrize("name", ("anthropic/claude-opus-4.8", "eu.anthropic.claude-opus-4-7-v1:0"))
def test_a_model_is_the_same_by_the_names_of_routers(name: str) -> None:
    assert capabilities_of(name).setting("temperature", 0.0) is False


def test_of_an_unknown_model_the_server_decides_all_but_the_usual() -> None:
    takes = capabilities_of("my-judge")
    usual = {"temperature": 0.0, "top_p": 0.2, "stop": [], "seed": 0, "max_tokens": 9}
    assert all(takes.setting(name, value) for name, value in usual.items())
    asked = {
        "reasoning_effort": "low",
        "response_format": {},
        "detail": "low",
        "top_k": 5,
        "logprobs": True,
        "batch": True,
    }
    assert {takes.setting(name, value) for name, value in asked.items()} == {None}


def test_without_thoughts_the_sampling_can_be_set() -> None:
    takes = capabilities_of("gpt-5.4")
    assert (takes.thinks, takes.setting("temperature", 0.0)) == (True, False)
    quiet = takes.at("none")
    assert (quiet.thinks, quiet.setting("temperature", 0.0), quiet.setting("reasoning_effort", "minimal")) == (
        False,
        True,
        False,
    )


def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    path = tmp_path / "families.toml"
    path.write_text(text)
    monkeypatch.setenv(OVERRIDE, str(path))
    return path


def test_a_family_of_the_users_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """[families.mine]
        names = ["my-*"]
        hosts = ["*.openai.azure.com"]
        like = "openai-reasoning-5-1"
        seed = false
        models."my-old*".temperature = "any"
        """
    own_table(tmp_path, monkeypatch, text)
    takes = capabilities_of("My-Deployment", "me.openai.azure.com")
    assert (takes.family, takes.limit, takes.seed, takes.at("none").top_p) == (
        "mine",
        "max_completion_tokens",
        False,
        True,
    )
    assert capabilities_of("my-old-one", "me.openai.azure.com").setting("temperature", 9.0) is True
    assert capabilities_of("my-deployment", "localhost").family == "unknown"


@pytest.mark.parametrize(
    ("text", "why"),
    (
        ("[families", "no table of model families"),
        ("[models.m]", "must have entries"),
        ("[families.m]", "names, hosts or servers"),
        ('[families]\nm = "x"', "must be a table"),
        ('[families.m]\nnames = [""]', "must be a list of texts"),
        ('[families.m]\nnames = "x"\ntemprature = "any"', "did you mean 'temperature'"),
        ('[families.m]\nnames = "x"\ntemperature = 1', 'must be "any"'),
        ('[families.m]\nnames = "x"\ntemperature = [1, 0]', "least must not be above"),
        ('[families.m]\nnames = "x"\nseed = "yes"', 'must be true, false or "unknown"'),
        ('[families.m]\nnames = "x"\nthinks = "unknown"', "must be true or false"),
        ('[families.m]\nnames = "x"\nreasoning_effort = [1]', "or a list of texts"),
        ('[families.m]\nnames = "x"\nlimit = "tokens"', "must be one of max_tokens"),
        ('[families.m]\nnames = "x"\nlike = "openai-chatt"', "no such family"),
        ('[families.m]\nnames = "x"\nlike = 3', "must be a family's name"),
        ('[families.m]\nnames = "x"\nlike = "n"\n[families.n]\nnames = "y"\nlike = "m"', "leads back"),
        ("[families.unknown]\nseed = true", "must have temperature"),
        ('[families.m]\nnames = "x"\nat_effort.none = 3', "must be a table"),
    ),
)
def test_a_mistake_is_one_line(text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_table(tmp_path, monkeypatch, text)
    with pytest.raises(SettingError, match="(?s)" + why.replace("[", r"\[")) as error:
        capabilities_of("m")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
