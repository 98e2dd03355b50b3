"""Instructions: what the pool is asked to do with which image.

Yes/no questions come in MME's pairs, one whose true answer is yes beside one whose true answer is no: preferences drawn
from them then say nothing about yes as such.
"""

import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from support.files import atomic_path
from tasks.scenes.language import DETAILED, OPEN, SHORT, YES_NO, YES_NO_SUFFIX, open_question, yes_no_pair
from tasks.scenes.world import Scene, image_of, scenes
from trainers.config.data import Data


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction about one image."""

    id: str
    prompt: str
    image: str
    """File name within the run's image folder."""
    kind: str
    """ "caption", "question" or "yes/no"."""
    source: str = ""
    """Name of the source it was drawn from; "" where all come from the scenes."""
    origin: str = ""
    """Its id in the source's own data, which may repeat; "" where that has none."""


def scenes_instructions(data: Data, seed: int, images: Path) -> list[Instruction]:
    """`data.instructions` of them about training scenes; their pictures are written to `images`, scene graph in the
    PNG's text."""
    rng = random.Random(f"instructions/{seed}")
    found: list[Instruction] = []
    for scene in islice(scenes(f"train/{seed}"), data.instructions):
        if rng.random() < data.captions:
            asked = [(rng.choice(DETAILED if rng.random() < 0.8 else SHORT), "caption")]
        elif rng.random() < 0.7:
            # What is hallucinated most is asked most: whether a thing is there.
            pair = yes_no_pair(scene, "existence" if rng.random() < 0.5 else rng.choice(YES_NO), rng)
            suffix = YES_NO_SUFFIX if rng.random() < 0.5 else ""
            asked = [(question.text + suffix, "yes/no") for question in pair or ()]
        else:
            question = open_question(scene, rng.choice([type for type in OPEN if type != "holistic"]), rng)
            asked = [(question.text, "question")] if question else []
        if asked:
            name = write_image(scene, images)
            found += [
                Instruction(id=f"{scene.id}/{i}", prompt=prompt, image=name, kind=kind)
                for i, (prompt, kind) in enumerate(asked)
            ]
        if len(found) >= data.instructions:
            break
    return found[: data.instructions]


def write_image(scene: Scene, folder: Path) -> str:
    """The scene's picture as PNG; the scenes judge finds the scene graph in its text, a model sees only pixels."""
    name = scene.id.replace("/", "-") + ".png"
    info = PngInfo()
    info.add_text("scene", scene.to_json())
    with atomic_path(folder / name, durable=False) as temporary:
        image_of(scene.id).save(temporary, "PNG", pnginfo=info)
    return name
