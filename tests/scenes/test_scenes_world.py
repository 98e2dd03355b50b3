"""Scenes are what their graph says, and the same everywhere."""

import hashlib
from itertools import islice

import numpy as np
import pytest

from tasks.scenes.world import CELL, COMPANIONS, Scene, image_of, make_scene, render, scenes

SOME = list(islice(scenes("test-world"), 300))


def test_a_scene_is_decided_by_its_id() -> None:
    assert make_scene("a/1") == make_scene("a/1")
    assert make_scene("a/1") != make_scene("a/2")
    assert render(make_scene("a/1")).tobytes() == render(make_scene("a/1")).tobytes()


def test_splits_share_no_picture() -> None:
    digests = [
        hashlib.sha256(render(scene).tobytes()).hexdigest()
        for split in ("train/0", "test/chair")
        for scene in islice(scenes(split), 100)
    ]
    assert len(set(digests)) == len(digests)


def test_the_graph_travels_with_the_picture_and_survives_json() -> None:
    for scene in SOME[:50]:
        assert Scene.from_json(render(scene).info["scene"]) == scene


def test_every_cell_holds_at_most_one_thing_and_empty_ones_are_background() -> None:
    for scene in SOME:
        taken = [thing.cell for thing in scene.things] + ([scene.sign.cell] if scene.sign else [])
        assert len(set(taken)) == len(taken)
        pixels = np.asarray(render(scene)).astype(int)
        for cell in set(range(9)) - set(taken):
            top, left = (cell // 3) * CELL, (cell % 3) * CELL
            corner = pixels[top + 4 : top + 16, left + 4 : left + 16]
            assert corner.max() < 140, f"{scene.id}: cell {cell} should be dark background"


def test_a_missing_companion_is_really_missing_half_the_time() -> None:
    anchored = [scene for scene in SOME if scene.anchor]
    missing = [scene for scene in anchored if scene.missing_companion]
    assert 0.4 < len(missing) / len(anchored) < 0.6
    for scene in missing:
        assert scene.anchor is not None
        assert COMPANIONS[scene.anchor] not in scene.kinds


def test_images_of_one_id_are_one_object() -> None:
    assert image_of("test-world/3") is image_of("test-world/3")


@pytest.mark.parametrize("companion_rate", (0.0, 1.0))
def test_the_companion_rate_rules(companion_rate: float) -> None:
    drawn = [make_scene(f"rate/{i}", companion_rate) for i in range(200)]
    assert all((scene.missing_companion is None) == (companion_rate == 1.0) for scene in drawn if scene.anchor)
