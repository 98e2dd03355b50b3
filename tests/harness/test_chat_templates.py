"""Which chat template a checkpoint is asked by, and when it is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.engine.chat_template import ChatTemplate, check_template
from harness.engine.config import EngineConfig
from harness.engine.families import NO_CONVERSATION
from harness.models.chat_templates import chat_template_of, own_template
from harness.models.spec import ModelSpec
from support.errors import HarnessError, ModelError, SettingError
from tests.harness.zoo import FAMILIES

TEXT = (
    "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}"
)
TEXT += "{% endfor %}{% endfor %}"


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def weights(folder: Path, kind: str = "llava", **config: Any) -> ModelSpec:
    """A folder as far as templates are concerned."""
    write(folder, "config.json", {"model_type": kind, **config})
    return ModelSpec(name=folder.name, pretrained=str(folder), folder=folder)


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "jinja": lambda text: {"chat_template.jinja": text},
    "older json": lambda text: {"chat_template.json": {"chat_template": text}},
    "processor": lambda text: {"processor_config.json": {"chat_template": text}},
    "tokenizer": lambda text: {"tokenizer_config.json": {"chat_template": text}},
    "several of a tokenizer": lambda text: {
        "tokenizer_config.json": {
            "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
        }
    },
    "json before jinja": lambda text: {"chat_template.json": {"chat_template": text}, "chat_template.jinja": "other"},
    "processor before json": lambda text: {
        "processor_config.json": {"chat_template": text},
        "chat_template.json": {"chat_template": "other"},
    },
    "jinja before tokenizer": lambda text: {
        "chat_template.jinja": text,
        "tokenizer_config.json": {"chat_template": "other"},
    },
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "llava"
    FAMILIES["llava"](folder)
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_found_where_transformers_finds_it(llava: Path, tmp_path: Path, place: str) -> None:
    from transformers import AutoProcessor

    folder = tmp_path / "model"
    shutil.copytree(llava, folder, ignore=shutil.ignore_patterns("chat_template*", "*.safetensors"))
    for name, content in PLACES[place](TEXT).items():
        there = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        write(folder, name, content if isinstance(content, str) else there | content)
    found = own_template(folder)
    processor = AutoProcessor.from_pretrained(folder)
    tokenizers = processor.tokenizer.chat_template
    theirs = processor.chat_template or (tokenizers if isinstance(tokenizers, str) else tokenizers["default"])
    assert found is not None
    assert found.text == theirs == TEXT
    assert found.own


@pytest.mark.parametrize("family", ("llava", "qwen2_vl", "paligemma"))
def test_the_template_read_from_files_is_the_loaded_ones(family: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    from harness.models.load import register

    register()
    FAMILIES[family](tmp_path)
    found = chat_template_of(ModelSpec(name="x", pretrained=str(tmp_path), folder=tmp_path))
    assert found.whole == AutoProcessor.from_pretrained(tmp_path).chat_template


NAMED: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "an absolute note": lambda base, _: {"checkpoint.json": {"base": str(base)}},
    "a note relative to itself": lambda *_: {"checkpoint.json": {"base": "../base"}},
    "a note that moved": lambda *_: {"checkpoint.json": {"base": "/nowhere/base", "base_from_here": "../base"}},
    "an older note": lambda *_: {"checkpoint.json": {"base": "base"}},
    "a note of a run in a project": lambda base, _: {"checkpoint.json": {"base": f"{base.parent.name}/base"}},
    "config.json": lambda base, _: {"config.json": {"model_type": "llava", "_name_or_path": str(base)}},
    "config.json, relative": lambda *_: {"config.json": {"model_type": "llava", "_name_or_path": "../base"}},
    "a model card": lambda base, _: {"README.md": f"---\nlibrary_name: x\nbase_model: {base}\n---\n# a model"},
    "a model card in quotes": lambda base, _: {"README.md": f'---\nbase_model: "{base}"\ntags: []\n---\n'},
    "a list in brackets on a model card": lambda base, _: {"README.md": f"---\nbase_model: [{base}, other/x]\n---\n"},
    "a list on a model card": lambda base, _: {"README.md": f"---\nbase_model:\n- {base}\n---\n"},
    "a base's base": lambda _, between: {"checkpoint.json": {"base": str(between)}},
    "the second of two": lambda base, _: {
        "checkpoint.json": {"base": "/nowhere/else"},
        "config.json": {"model_type": "llava", "_name_or_path": str(base)},
    },
}


@pytest.mark.parametrize("way", NAMED)
def test_without_its_own_a_checkpoint_is_asked_by_its_bases(tmp_path: Path, way: str) -> None:
    write(tmp_path / "base", "chat_template.jinja", TEXT)
    weights(tmp_path / "base")
    weights(tmp_path / "between", _name_or_path=str(tmp_path / "base"))
    spec = weights(tmp_path / "tuned")
    for name, content in NAMED[way](tmp_path / "base", tmp_path / "between").items():
        write(tmp_path / "tuned", name, content)
    found = chat_template_of(spec)
    assert (found.text, found.own) == (TEXT, False)
    assert "chat_template.jinja of its base" in found.source


@pytest.mark.parametrize(
    "name",
    (
        *(
            "/nowhere",
            "nowhere/at-all",
            "openai:gpt-4o",
            "gpt-4v",
            "https://x/y",
            "",
            "   ",
            ".",
            "..",
            "\0",
            "a" * 5000,
        ),
        *("../other-kind", "../without", "../tuned", "scenes-base"),
    ),
)
@pytest.mark.parametrize("where", ("checkpoint.json", "config.json"))
def test_a_base_that_is_no_base_gives_no_template(
    tmp_path: Path, name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights(tmp_path / "without")
    weights(tmp_path / "other-kind", "qwen2_vl")
    write(tmp_path / "other-kind", "chat_template.jinja", TEXT)
    spec = weights(tmp_path / "tuned", **({"_name_or_path": name} if where == "config.json" else {}))
    if where == "checkpoint.json":
        write(tmp_path / "tuned", where, {"base": name})
    if name == "scenes-base":  # of the same kind, and here
        assert chat_template_of(spec).text
        return
    with pytest.raises(ModelError, match=r"no chat template in .*put its base's into .* --chat-template FILE"):
        chat_template_of(spec)


@pytest.mark.parametrize("kind", sorted(NO_CONVERSATION - {"fuyu", "paligemma"}))
def test_families_without_conversations_go_on_as_plain_text(kind: str, tmp_path: Path) -> None:
    found = chat_template_of(weights(tmp_path, kind))
    assert (found.text, found.own, found.facts()["chat template"]) == (None, True, "none: plain text")
    write(tmp_path, "chat_template.jinja", TEXT)
    assert chat_template_of(weights(tmp_path, kind)).text == TEXT


def test_qwen_vl_has_its_familys_own(tmp_path: Path) -> None:
    assert "Picture" in str(chat_template_of(weights(tmp_path, "qwen")).text)


def test_an_adapters_template_is_the_one_it_was_trained_with(tmp_path: Path) -> None:
    spec = weights(tmp_path / "base")
    adapter = tmp_path / "adapter"
    write(adapter, "chat_template.jinja", TEXT)
    tuned = replace(spec, adapter=adapter)
    assert chat_template_of(tuned).source == "chat_template.jinja beside the adapter"
    write(tmp_path / "base", "chat_template.jinja", TEXT)
    assert chat_template_of(tuned).own  # both are the same
    write(adapter, "chat_template.jinja", TEXT + "!")
    assert chat_template_of(tuned).text == TEXT + "!"


def test_the_users_template_comes_first(tmp_path: Path) -> None:
    spec = weights(tmp_path / "m")
    for name, content in (("a.jinja", TEXT), ("b.json", {"chat_template": TEXT}), ("c.txt", TEXT)):
        write(tmp_path, name, content)
        found = chat_template_of(spec, EngineConfig(chat_template=tmp_path / name))
        assert (found.text, found.own, found.source) == (TEXT, False, f"--chat-template {tmp_path / name}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    (
        ("missing.jinja", None, "No such file"),
        ("empty.jinja", b"", "holds no chat template"),
        ("blank.jinja", b" \n", "holds no chat template"),
        ("bytes.jinja", b"\xff\xfe\x00", "can't be read"),
        ("torn.json", b'{"chat_template": "', "can't be read"),
        ("list.json", b"[1]", "holds no JSON object"),
        ("other.json", b'{"text": "x"}', "holds no chat template"),
        ("null.json", b'{"chat_template": null}', "holds no chat template"),
        ("number.json", b'{"chat_template": 5}', "holds no chat template"),
        ("several.json", b'{"chat_template": [{"name": "rag", "template": "x"}]}', "called 'default', but 'rag'"),
    ),
)
def test_a_file_that_holds_no_template_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match=f"--chat-template .*{name}.*{words}"):
        chat_template_of(weights(tmp_path / "m"), EngineConfig(chat_template=tmp_path / name))


class Renders:
    """A processor, as far as templates are concerned."""

    def __init__(self, text: str) -> None:
        self.text = text

    def apply_chat_template(self, messages: list[dict[str, Any]], **given: Any) -> str:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment().from_string(self.text).render(messages=messages, **given)


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("{% for m in messages %}", "can't ask about a picture"),
        ("{{ messages[0]['content'] + '!' }}", "can't ask about a picture"),
        ("{{ raise_exception('roles') }}", "can't ask about a picture"),
        ("{{ 1 / 0 }}", "can't ask about a picture"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves the picture out"),
        ("", "leaves the picture out"),
    ),
)
def test_a_template_that_cannot_ask_about_pictures_is_refused(text: str, words: str) -> None:
    template = ChatTemplate(text=text, source="here")
    with pytest.raises(ModelError, match=words):
        check_template(template, Renders(text), "m")
    check_template(ChatTemplate(text=TEXT, source="here"), Renders(TEXT), "m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, key=st.sampled_from(["chat_template", "_name_or_path", "base", "base_model_name_or_path"]))
def test_any_value_in_any_file_is_a_template_or_one_line(tmp_path: Path, value: Any, key: str) -> None:
    for name in ("tokenizer_config.json", "processor_config.json", "checkpoint.json", "adapter_config.json"):
        folder = tmp_path / name
        spec = weights(folder, **({key: value} if key == "_name_or_path" else {}))
        write(folder, name, {key: value})
        told = ""
        try:
            assert chat_template_of(spec).text
        except HarnessError as error:
            told = str(error)
        assert "\n" not in told
        write(folder, name, json.dumps(value))
        with pytest.raises(HarnessError):
            chat_template_of(spec)
        (folder / name).unlink()
