"""Where a checkpoint's base is found: from any folder, after a move, and never behind a server."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.models.spec import base_of, find
from support.errors import HarnessError, InputError
from trainers.config.recipe import preference_recipe
from trainers.training.base_note import is_sealed, name_base_in_adapter, note_base
from trainers.training.job import Job

SHA = "0123456789abcdef0123456789abcdef01234567"


def adapter(folder: Path, note: Any = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    if note is not None:
        (folder / "checkpoint.json").write_text(json.dumps(note))
    return folder


def base(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


SERVED = (
    *("openai:gpt-4o-2024-11-20", "openai:x/y", "gpt-4v", "mmicl-13b"),
    *("http://host/v1", "https://hub/x", "s3://bucket/x", "hf://x/y"),
)
NOTHING: tuple[Any, ...] = (None, "", "  ", 5, [], {}, True)
FOUND: dict[str, Callable[[Path], tuple[dict[str, Any] | None, dict[str, Any]]]] = {
    "absolute": lambda at: ({"base": str(at / "tiny")}, {}),
    "relative to the checkpoint": lambda at: ({"base": "../../tiny"}, {}),
    "moved with its project": lambda at: ({"base": "/elsewhere/tiny", "base_from_here": "../../tiny"}, {}),
    "of an earlier version, relative to where training ran": lambda at: ({"base": "tiny"}, {}),
    "of an earlier version, from further above": lambda at: ({"base": f"{at.name}/tiny"}, {}),
    "another trainer's, absolute": lambda at: (None, {"base_model_name_or_path": str(at / "tiny")}),
    "another trainer's, relative": lambda at: (None, {"base_model_name_or_path": "tiny"}),
    "another trainer's, relative to itself": lambda at: (None, {"base_model_name_or_path": "../../tiny"}),
    "another trainer's, with a dot": lambda at: (None, {"base_model_name_or_path": "./tiny"}),
    "the note comes before the configuration": lambda at: (
        {"base": str(at / "tiny")},
        {"base_model_name_or_path": "/nowhere"},
    ),
    "an empty note": lambda at: ({"step": 1}, {"base_model_name_or_path": "tiny"}),
}


@pytest.mark.parametrize(
    ("note", "config"),
    (
        ({"base": "/gone/tiny"}, {}),
        ({"base": "/gone/tiny", "base_from_here": "../../gone"}, {"base_model_name_or_path": "/gone/tiny"}),
        (None, {"base_model_name_or_path": "/gone/tiny"}),
    ),
)
def test_a_base_that_is_gone_is_named_with_its_adapter(
    note: dict[str, Any] | None, config: dict[str, Any], tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "checkpoint-1", note, **config)
    with pytest.raises(
        InputError, match=r"checkpoint-1: its base '/gone/tiny' is no known model, and not there; name it, or"
    ):
        find(str(folder))


@pytest.mark.parametrize("way", FOUND)
def test_a_base_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    project = tmp_path / "project"
    note, config = FOUND[way](project)
    base(project / "tiny")
    folder = adapter(project / "run" / "checkpoint-1", note, **config)
    (tmp_path / "away").mkdir()
    for place in (project, tmp_path, tmp_path / "away", folder, Path("/")):
        monkeypatch.chdir(place)
        assert Path(find(str(folder)).pretrained).resolve() == (project / "tiny").resolve()


@pytest.mark.parametrize("noted", ("../base", "stage2/base", "/old/place/stage2/base"))
@pytest.mark.parametrize("arm", ("", "control"))
def test_a_merged_base_moves_with_its_run(tmp_path: Path, noted: str, arm: str) -> None:
    noted = f"../{noted}" if arm and noted.startswith("..") else noted
    base(tmp_path / "stage2" / "base")
    adapter(tmp_path / "stage2" / arm / "checkpoint-1", {"base": noted})
    shutil.move(tmp_path / "stage2", tmp_path / "moved")
    found = find(str(tmp_path / "moved" / arm / "checkpoint-1"))
    assert Path(found.pretrained).resolve() == (tmp_path / "moved" / "base").resolve()


def test_a_path_into_another_machines_hub_cache_is_the_hub_id(tmp_path: Path) -> None:
    path = f"/root/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/{SHA}"
    found = find(str(adapter(tmp_path, base_model_name_or_path=path)))
    assert (found.pretrained, found.revision) == ("llava-hf/llava-1.5-7b-hf", SHA)


def test_a_hub_id_keeps_its_commit(tmp_path: Path) -> None:
    folder = adapter(
        tmp_path, {"base": "llava-1.5-7b", "revision": SHA}, base_model_name_or_path="x/y", revision="main"
    )
    assert (find(str(folder)).pretrained, find(str(folder)).revision) == ("llava-hf/llava-1.5-7b-hf", SHA)


@pytest.mark.parametrize(
    ("name", "words"),
    (
        *((name, "not on disk or the hub") for name in SERVED),
        *((name, "its own folder") for name in ("../lora", "{here}", "{here}/", "{here}/../lora")),
        ("../other", "an adapter itself"),
        *((name, "names no base") for name in NOTHING),
        ("/nowhere/at/all", "not there"),
        *((name, "no known model") for name in ("nowhere", "a b", "openai:", "x" * 5000, "\0")),
    ),
)
@pytest.mark.parametrize("noted", (True, False))
def test_a_base_that_is_no_weights_is_refused(tmp_path: Path, name: Any, words: str, noted: bool) -> None:
    adapter(tmp_path / "other", base_model_name_or_path=str(tmp_path / "lora"))
    name = name.format(here=tmp_path / "lora") if isinstance(name, str) else name
    folder = adapter(
        tmp_path / "lora", *([{"base": name}] if noted else []), **({} if noted else {"base_model_name_or_path": name})
    )
    with pytest.raises(InputError, match=words) as error:
        find(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ("adapter_config.json", "checkpoint.json"))
@pytest.mark.parametrize("content", (b"", b"{", b"[]", b"5", b"\xff\xfe", b"null", b"[" * 100_000))
def test_a_torn_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = adapter(tmp_path, {"base": "scenes-base"})
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        find(str(folder))
    assert base_of(folder) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("base", "base_from_here", "revision"), VALUES)), VALUES)
def test_any_note_names_a_model_or_is_refused(tmp_path: Path, note: dict[str, Any], named: Any) -> None:
    folder = adapter(tmp_path / "a", note, base_model_name_or_path=named, revision=named)
    told = ""
    try:
        assert find(str(folder)).backend == "transformers"
    except HarnessError as error:
        told = str(error)
    assert "\n" not in told


def job(out: Path, **given: Any) -> Job:
    return Job(recipe=preference_recipe("scenes-demo"), out=out, **given)


def test_notes_say_where_a_base_is_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    base(tmp_path / "tiny"), base(tmp_path / "run" / "base")
    here = tmp_path / "run" / "checkpoint-1"
    cached = base(tmp_path / f"hub/models--org--name/snapshots/{SHA}")
    noted: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"base_name": "tiny", "base": "tiny"}, {"base": str(tmp_path / "tiny"), "base_from_here": "../../tiny"}),
        (
            {"base_name": "run/base", "base": "run/base"},
            {"base": str(tmp_path / "run" / "base"), "base_from_here": "../base"},
        ),
        ({"base_name": "scenes-base", "base": "/x"}, {"base": "scenes-base"}),
        (
            {"base_name": "llava-1.5-7b", "base": str(cached), "base_hub_id": "org/name", "base_revision": SHA},
            {"base": "llava-1.5-7b", "revision": SHA},
        ),
        ({"base_name": str(cached), "base": str(cached)}, {"base": "org/name", "revision": SHA}),
        ({"base_name": "", "base": ""}, {"base": ""}),
    ]
    for given_, wanted in noted:
        noted_ = note_base(job(Path("run"), **given_), here)
        assert is_sealed(noted_) == ("base_from_here" in wanted)
        assert {name: value for name, value in noted_.items() if name != "seal"} == wanted


def test_an_adapters_configuration_names_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached = base(tmp_path / f"hub/models--org--name/snapshots/{SHA}")
    folder = adapter(tmp_path / "run" / "checkpoint-1", base_model_name_or_path=str(cached), revision=None, r=8)
    name_base_in_adapter(job(Path("run"), base_name="llava", base=str(cached)), folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"], written["r"]) == ("org/name", SHA, 8)
    name_base_in_adapter(job(Path("run"), base_name="tiny", base="tiny"), folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == (str(tmp_path / "tiny"), None)
