"""What tests of training share: pairs, jobs on the embedded model, runs that are killed, logs and weights compared."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.models.spec import find
from support.images import ImageRef
from support.progress import show_on
from tasks.scenes.language import caption
from tasks.scenes.world import make_scene
from trainers.config.recipe import PreferenceRecipe, preference_recipe
from trainers.data.rows import Preference
from trainers.training import dpo
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job
from trainers.vlfeedback.instructions import write_image


def captions(folder: Path, count: int, seed: str) -> list[Preference]:
    """Captions of scenes, of which the rejected one names a thing too many."""
    made = []
    for index in range(count):
        scene = make_scene(f"{seed}/{index}")
        image = folder / write_image(scene, folder)
        right = caption(scene)
        wrong = right.replace("the background is", "a red ring. the background is")
        asked, shown = "describe the image in detail.", (ImageRef(image.name, image),)
        made.append(
            Preference(id=scene.id, prompt=asked, images=shown, chosen=right, rejected=wrong, margin=1.0, row=index)
        )
    return made


def job_of(
    preferences: Sequence[Preference],
    out: Path,
    *,
    lora: dict[str, Any] | None = None,
    full: bool = False,
    **training: Any,
) -> Job:
    """scenes-demo on these pairs with small adapters (`full`: with none), and with other values in [training]."""
    recipe = preference_recipe("scenes-demo").model_dump()
    recipe["training"] |= {"batch_size": 4, "checkpoints": 3, **training}
    recipe["training"]["lora"] = None if full else recipe["training"]["lora"] | {"r": 4, "alpha": 8, **(lora or {})}
    return Job(
        recipe=PreferenceRecipe.model_validate(recipe),
        out=out,
        base_name="scenes-base",
        base=find("scenes-base").pretrained,
        dtype="float32",
        preferences=preferences,
    )


class Killed(Exception):
    """In place of a signal."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Training inside dies after this step."""

    def kill(stage: str, done: int, total: int) -> None:
        if stage.startswith("train ") and done == step:
            raise Killed

    with pytest.raises(Killed), show_on(kill):
        yield


def assert_killed_run_ends_alike(job: Callable[[str], Job]) -> None:
    """A DPO run of six steps, killed after its fifth and continued from its fourth, ends with a whole run's weights."""
    [*_, whole] = dpo.train(job("whole"))
    with killed_at(5):
        dpo.train(job("cut"))
    again = dpo.train(job("cut"))
    assert [checkpoint.step for checkpoint in again] == [4, 6]
    assert have_same_weights(whole, again[-1])


def logged(out: Path, name: str) -> list[float]:
    """The values of one figure in a run's log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def have_same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    """True if two checkpoints hold the same adapters, bit by bit."""
    a, b = (load_file(checkpoint.path / "adapter_model.safetensors") for checkpoint in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
