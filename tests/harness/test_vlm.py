"""Encoding an image once changes no answer."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.images import ImageRef, keep, picture
from tasks.answer import FailedAnswer
from tasks.scenes.world import image_of
from tests.harness.lm_requests import ask

QUESTIONS = (
    "describe the image in detail.",
    "is there a red circle in the image?",
    "what is the background?",
    "list the objects in the image.",
)


def requests(lm: Any, images: list[Any], **settings: Any) -> list[Any]:
    return ask(lm, *(([image], question) for image in images for question in QUESTIONS), **settings)


@pytest.fixture(scope="module")
def lm(random_model: Path) -> Any:
    from harness.engine.config import EngineConfig
    from harness.engine.lm import SharedImageLM

    return SharedImageLM(str(random_model), EngineConfig(dtype="float32", device="cpu", batch_size=6))


def test_answers_equal_lm_evals_own_and_every_image_is_encoded_once(lm: Any, random_model: Path) -> None:
    from lm_eval.models.hf_vlms import HFMultimodalLM

    images = [image_of(f"test-vlm/{i}") for i in range(7)]
    theirs = HFMultimodalLM(pretrained=str(random_model), dtype="float32", device="cpu", batch_size=1)
    expected = theirs.generate_until(requests(theirs, images), disable_tqdm=True)
    before = lm.images_encoded
    got = lm.generate_until(requests(lm, images), disable_tqdm=True)
    assert lm.sharing.shares_images
    assert got == expected
    assert len(set(got)) > 10  # else equality says little
    assert lm.images_encoded - before == 7


def test_what_is_kept_is_bounded_and_dropping_it_changes_nothing(lm: Any) -> None:
    images = [image_of(f"test-vlm/{i}") for i in range(7)]
    expected = lm.generate_until(requests(lm, images), disable_tqdm=True)
    one = next(iter(lm.encoder.kept.values())).nbytes
    lm.encoder.max_bytes, bound = 2 * one, lm.encoder.max_bytes
    try:
        lm.forget()
        assert lm.generate_until(requests(lm, images), disable_tqdm=True) == expected
        assert len(lm.encoder.kept) == 2
    finally:
        lm.encoder.max_bytes = bound


def test_images_of_several_sizes_in_one_batch(lm: Any) -> None:
    images = [image_of("test-vlm/1"), image_of("test-vlm/2").resize((90, 70)), image_of("test-vlm/3").convert("L")]
    together = lm.generate_until(requests(lm, images), disable_tqdm=True)
    alone = [answer for image in images for answer in lm.generate_until(requests(lm, [image]), disable_tqdm=True)]
    assert together == alone


def test_an_image_that_cannot_be_read_is_a_failed_answer_and_costs_no_other(lm: Any, tmp_path: Path) -> None:
    good = image_of("test-vlm/4")
    incomplete = tmp_path / "incomplete.png"
    good.save(incomplete)
    incomplete.write_bytes(incomplete.read_bytes()[:800])
    huge = Image.new("1", (10_000, 10_000))
    answers = lm.generate_until(requests(lm, [Image.open(incomplete), good, huge]), disable_tqdm=True)
    assert [isinstance(answer, FailedAnswer) for answer in answers] == [True] * 4 + [False] * 4 + [True] * 4
    assert answers[4:8] == lm.generate_until(requests(lm, [good]), disable_tqdm=True)


def test_a_question_without_an_image_is_answered_beside_those_with_one(lm: Any) -> None:
    seeing = requests(lm, [image_of("test-vlm/6")])
    answers = lm.generate_until([*ask(lm, ([], "is a circle round?")), *seeing], disable_tqdm=True)
    assert not isinstance(answers[0], FailedAnswer)
    assert answers[1:] == lm.generate_until(seeing, disable_tqdm=True)


def test_a_benchmarks_picture_is_answered_like_the_image_it_is(lm: Any, tmp_path: Path) -> None:
    image = image_of("test-vlm/7")
    image.save(tmp_path / "7.png")
    (tmp_path / "none.png").write_bytes(b"")
    pictured, broken = (picture(keep(ImageRef.at(tmp_path / name))) for name in ("7.png", "none.png"))
    answers = lm.generate_until(requests(lm, [pictured, broken]), disable_tqdm=True)
    assert answers[:4] == lm.generate_until(requests(lm, [image]), disable_tqdm=True)
    assert all(isinstance(answer, FailedAnswer) for answer in answers[4:])


def test_sampling_is_seeded(lm: Any) -> None:
    import torch

    def sampled(seed: int) -> list[str]:
        asked = requests(lm, [image_of("test-vlm/5")], do_sample=True, temperature=1.0, top_k=0)
        torch.manual_seed(seed)
        answers: list[str] = lm.generate_until(asked, disable_tqdm=True)
        return answers

    assert sampled(0) == sampled(0) != sampled(1)
