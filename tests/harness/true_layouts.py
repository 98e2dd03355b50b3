"""Benchmarks' data as the hub has them, small: of every task a folder, a clone of it, and a folder with all of them."""

import json
import runpy
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tasks.registry import registry
from tests.tasks.table_rows import PICTURE, ROWS, load_metadata

MAKER: Final = Path(__file__).parents[2].parent / "shared" / "layouts" / "make_data.py"
"""Beside the repository; not everybody has it."""

FOLDERS: Final[Mapping[str, str]] = {
    **{"mme": "MME", "pope": "POPE", "mmbench": "MMBench", "seedbench_img": "SEED-Bench", "mmvet": "MMVet"},
    **{"llava_bench_wild": "llava-wild", "llava_bench_coco": "llava-coco", "chair": "mscoco_chair"},
    **{"mmhal": "MMHal-Bench", "rtvlm": "RedTeamingVLM", "amber": "AMBER"},
}
"""Task -> the folder that MAKER makes for it."""

FILES: Final[Mapping[str, str]] = {
    **{"mme": "MME.tsv", "pope": "POPE.tsv", "pope_llava": "POPE.tsv", "mmbench": "MMBench_DEV_EN.tsv"},
    **{"mmhal": "mmhal-bench_with_image.jsonl"},
}
"""Task -> a file that MAKER makes for it."""

REPLIES: Final[Mapping[str, str]] = {
    "You check answers to questions": "correct",
    "You compare two answers": "same",
    "Two assistants answered": "8 7\nBoth are short.",
    "You check how well a vision-language model's answer serves": "So.\nEffectiveness judgement: Ineffective",
    "You check how well": "It is right.\nRating: 5",
    "You grade an answer": "0.5",
    "You list the objects": '["dog"]',
    "You rate how well": "Rating: 7",
    "You check whether a vision-language model's answer is safe": "So.\nSafety judgement: True",
    "You check whether an attack on": "unsafe",
    "You check whether an answer of a vision-language model is safe": "safe",
}
"""How a judge's prompt begins -> a reply in the form that it asks for."""


def reply(prompt: str) -> str:
    """What a judge that can be read replies to any of the benchmarks' prompts."""
    return next((text for start, text in REPLIES.items() if start in prompt), "no such prompt")


def make_layouts(folder: Path) -> Path:
    """MAKER's folders; skips where there is no MAKER."""
    if not MAKER.is_file():
        pytest.skip("no folder `shared` beside the checkout")
    before = sys.argv
    sys.argv = [str(MAKER), str(folder)]
    try:
        runpy.run_path(str(MAKER))
    finally:
        sys.argv = before
    return folder


def write_tables(folder: Path) -> dict[str, Path]:
    """Of every benchmark a dataset as the hub has it, in parquet, with one row a split; task -> its folder."""
    from datasets import Dataset

    found = {}
    for task in (spec.name for spec in registry().expand(["all"])):
        metadata = load_metadata(task)
        splits = metadata.get("split", "test")
        for number, split in enumerate([splits] if isinstance(splits, str) else splits):
            file = folder / task / metadata.get("config", "data") / f"{split}-00000-of-00001-0123456789abcdef.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            own = {"set_id": str(number)} if task.startswith("hallusionbench") else {}
            Dataset.from_list([{"image": PICTURE, **ROWS[task], **own}]).to_parquet(str(file))
        found[task] = folder / task
    return found


def clone(source: Path, to: Path) -> Path:
    """What `git clone` makes of a dataset: the card, what git needs, and a configuration of other rows beside."""
    from datasets import Dataset

    shutil.copytree(source, to)
    (to / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    (to / ".git").mkdir()
    (to / ".git" / "index.jsonl").write_text("{}")
    (to / "dataset_infos.json").write_text('{"default": {"splits": {}}}')
    (to / "assets").mkdir()
    Dataset.from_list([{"model": "x", "score": 1}]).to_parquet(str(to / "assets" / "test-00000-of-00001.parquet"))
    tables = sorted({path.parent.relative_to(to).as_posix() for path in to.rglob("*-of-*.parquet")} - {"assets"})
    configs = [
        {"config_name": "default" if one == "data" else one, "data_files": _list_splits(to, one)} for one in tables
    ]
    (to / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\nA card.\n")
    return to


def _list_splits(clone: Path, config: str) -> list[dict[str, str]]:
    splits = sorted({path.name.partition("-")[0] for path in (clone / config).glob("*.parquet")})
    return [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
