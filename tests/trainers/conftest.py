from collections.abc import Callable
from pathlib import Path

import pytest

from support.images import ImageRef
from tests.trainers.image_makers import png


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family of models -> a tiny checkpoint of it with weights by chance, made once a module."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        import torch

        from tests.harness import qwen_vl_checkpoint
        from tests.harness.zoo import FAMILIES

        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "model"
            torch.manual_seed(0)
            (qwen_vl_checkpoint.write if family == "qwen" else FAMILIES[family])(made[family])
        return made[family]

    return make


@pytest.fixture
def shown(tmp_path: Path) -> ImageRef:
    """An image on disk, in a folder that is named nowhere."""
    path = tmp_path / "pictures" / "7.png"
    path.parent.mkdir()
    path.write_bytes(png(7))
    return ImageRef("7.png", path)
