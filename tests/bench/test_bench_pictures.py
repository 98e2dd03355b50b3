"""What pictures cost before the first step of training, against one plain pass of decoding: photographs of 1 to 4
megapixels, in a folder and in a zip."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 60

WORK = """
import json, sys, time
from pathlib import Path
import imagehash
from PIL import Image
from trainers.config.data import PreferenceFile
from trainers.data.image_hashes import shared_cache
from trainers.data.read_preferences import read_preferences

folder, where, facts = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
imagehash.phash(Image.new("L", (64, 64)))  # its imports are no work on pictures

def seconds(work):
    began = time.process_time()
    work()
    return time.process_time() - began

def decode():
    for path in sorted((folder / "photos").iterdir()):
        Image.open(path).convert("RGB")

def prepare():
    data = PreferenceFile(read=str(folder / "pairs.jsonl"), images=where, test_share=0)
    with shared_cache(facts) as cache:
        read_preferences(data, cache)

decode()
print(json.dumps([seconds(decode), seconds(prepare), seconds(prepare)]))
"""


def write_photographs(folder: Path) -> None:
    """JPEG files of soft shapes with grain, a zip of them, and a pair about each."""
    (folder / "photos").mkdir()
    rows = []
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        width = int((rng.uniform(1, 4) * 1e6 * 4 / 3) ** 0.5)
        height = width * 3 // 4
        shapes = [
            np.asarray(
                Image.fromarray(rng.integers(0, 255, (side, side * 4 // 3, 3), np.uint8)).resize((width, height))
            )
            for side in (12, height // 8)
        ]
        pixels = 0.75 * shapes[0] + 0.2 * shapes[1] + rng.normal(0, 6, (height, width, 1))
        name = f"photos/{number:04}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=int(rng.integers(80, 94)))
        rows.append({"id": name, "prompt": f"What is {number}?", "images": [name], "chosen": "A.", "rejected": "B."})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted((folder / "photos").iterdir()):
            archive.write(path, f"photos/{path.name}")


def measured(folder: Path, where: Path, facts: Path) -> list[float]:
    """CPU seconds of decoding, of preparing pairs and of preparing them again, in a fresh process."""
    command = [sys.executable, "-c", WORK, str(folder), str(where), str(facts)]
    found: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def test_bench_pictures_before_the_first_step(benchmark: Any, figures: dict[str, float], tmp_path: Path) -> None:
    write_photographs(tmp_path)
    for name, where in {"folder": tmp_path, "zip": tmp_path / "photos.zip"}.items():
        runs = [measured(tmp_path, where, tmp_path / f"{name}-{turn}.sqlite") for turn in range(5)]
        for what, place in {"first": 1, "again": 2}.items():
            ratios = sorted(run[place] / run[0] for run in runs)
            for kind, ratio in {"min": ratios[0], "median": ratios[2], "max": ratios[4]}.items():
                figures[f"pictures.{name}.{what}_vs_decode.{kind}"] = ratio
    benchmark.pedantic(measured, args=(tmp_path, tmp_path, tmp_path / "last.sqlite"), rounds=1)
