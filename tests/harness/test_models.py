"""What a model's name may be."""

import json
from pathlib import Path

import pytest

from harness.models.file_digests import digest_of_folder
from harness.models.provenance import digest_of_model
from harness.models.spec import MODELS, find
from support.errors import InputError


def test_the_embedded_models_come_along() -> None:
    for name in ("scenes-base", "scenes-careful", "scenes-early"):
        spec = MODELS[name]
        assert (Path(spec.pretrained) / "model.safetensors").stat().st_size < 4_000_000


def test_an_adapter_folder_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/somewhere/else", "revision": None})
    )
    (tmp_path / "checkpoint.json").write_text(json.dumps({"base": "scenes-base"}))
    spec = find(str(tmp_path))
    assert spec.adapter == tmp_path
    assert spec.pretrained == MODELS["scenes-base"].pretrained
    (tmp_path / "checkpoint.json").unlink()
    with pytest.raises(InputError, match="/somewhere/else"):
        find(str(tmp_path))


def test_a_weights_folder_and_a_hub_id_are_models(random_model: Path) -> None:
    assert find(str(random_model)).pretrained == str(random_model)
    assert find("llava-hf/llava-1.5-7b-hf").pretrained == "llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize("name", ("scenes-bse", "runs/no/such/checkpoint", "", "/etc"))
def test_anything_else_is_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(InputError, match=r"scenes-base|neither config\.json"):
        find(name)


def test_a_checkpoint_overwritten_in_place_has_another_digest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = digest_of_model(find(str(tmp_path)))
    weights.write_bytes(b"two")
    assert digest_of_model(find(str(tmp_path))) != first


def test_what_a_trainer_leaves_beside_weights_is_no_part_of_their_digest(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    before = digest_of_folder(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"the folder's name")
    assert digest_of_folder(tmp_path) == before
    (tmp_path / "adapter_model.bin").write_bytes(b"other weights")
    assert digest_of_folder(tmp_path) != before
