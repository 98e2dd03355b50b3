"""Rated answers about drawn scenes, in a file that `harness train` reads."""

from pathlib import Path

from support.images import ImageRef
from tasks.scenes.language import caption
from tasks.scenes.world import make_scene
from trainers.config.data import ASPECTS
from trainers.data.rows import Completion, Row
from trainers.data.vlfeedback_format import write_rows
from trainers.vlfeedback.instructions import write_image


def _rated(text: str, points: int) -> Completion:
    return Completion(model=str(points), response=text, ratings=dict.fromkeys(ASPECTS, str(points)))


def write_rated_scenes(folder: Path, seed: str) -> Path:
    """Sixteen rows, a pair each; the file."""
    rows = []
    for index in range(16):
        scene = make_scene(f"{seed}/{index}")
        name = write_image(scene, folder)
        answers = (_rated(caption(scene), 5), _rated("a red ring. " + caption(scene), 2))
        images = (ImageRef(Path(name).name, folder / name),)
        prompt = f"describe the image. {index}"
        rows.append(Row(index=index, id=str(index), prompt=prompt, images=images, completions=answers))
    write_rows(rows, folder / "rows.jsonl")
    return folder / "rows.jsonl"
