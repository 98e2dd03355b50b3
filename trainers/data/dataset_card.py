"""A dataset on the hub: its card, and the upload.

text = dataset_card(statistics, name="VLFeedback of scenes", rows=5000, pairs=21000, files={"rows": "rows.parquet"})
push(folder, "somebody/vlfeedback-scenes", private=True)
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.errors import RunError, first_line, one_line
from support.markdown import cell, table
from trainers.config.data import ASPECTS

PUBLIC_LICENCE = "cc-by-nc-4.0"
"""Of MMInstruction/VLFeedback and of what is made from it: research only."""


def dataset_card(
    statistics_markdown: str,
    *,
    name: str,
    rows: int,
    pairs: int = 0,
    files: Mapping[str, str | Sequence[str]],
    judge: str = "",
    licence: str = PUBLIC_LICENCE,
    sources: Mapping[str, str] | None = None,
) -> str:
    """The README.md of a dataset repository.

    `files` maps a configuration ("rows", "pairs") to its files; `sources` maps where instructions and images are from
    to their licences; `statistics_markdown` goes in as it is.
    """
    import yaml

    head: dict[str, Any] = {
        "license": licence,
        "pretty_name": one_line(name),
        "task_categories": ["visual-question-answering", "image-text-to-text"],
        "language": ["en"],
        "size_categories": [_size(max(rows, pairs))],
        "tags": ["preference", "dpo", "rlaif", "vision-language", "vlfeedback"],
        "configs": [
            {"config_name": config, "data_files": pattern if isinstance(pattern, str) else list(pattern)}
            for config, pattern in files.items()
        ],
    }
    made = f"{rows:,} instructions about images, each answered by several models" + (
        f"; {pairs:,} preference pairs" if pairs else ""
    )
    rated = f"Answers are rated by {one_line(judge)}" if judge else "Answers are rated"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {one_line(name)}",
        f"{made}. {rated} on {', '.join(ASPECTS[:-1])} and {ASPECTS[-1]}, from 1 to 5, "
        "in the schema of MMInstruction/VLFeedback.",
        "## Load\n\n" + "\n".join(_load(config) for config in files),
        _SCHEMA + (_PAIRS if "pairs" in files else ""),
        _licence(licence, sources or {}),
        f"## Statistics\n\n{statistics_markdown.strip()}" if statistics_markdown.strip() else "",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _size(count: int) -> str:
    bounds = [(1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M")]
    for (low, below), (high, above) in zip([(0, ""), *bounds], bounds, strict=False):
        if count < high:
            return f"{below}<n<{above}" if low else f"n<{above}"
    return "10M<n<100M"


def _load(config: str) -> str:
    return f'```python\ndatasets.load_dataset("OWNER/NAME", "{config}", split="train")\n```'


_SCHEMA = """
## Rows

| column | what it is |
|---|---|
| `id` | text; not unique where the instructions are from several sources: a row's key is its place |
| `prompt` | the instruction, without an image token |
| `models` | who answered |
| `completions` | per answer `model`, `response`, `annotations`: per aspect a `Rating` (text or "N/A"), a `Rationale` |
| `img_path` | the picture's name |
| `image`, `images` | the picture, where it is embedded; `images` where rows have several, named by `image_names` |
"""

_PAIRS = """
## Pairs

| column | what it is |
|---|---|
| `images`, `prompt`, `chosen`, `rejected` | as TRL's DPOTrainer takes them |
| `row`, `row_id` | place and id of the row: pairs of one row share prompt and pictures; split by row |
| `chosen_model`, `rejected_model`, `chosen_ratings`, `rejected_ratings` | where the two answers are from |
| `image_names`, `image_there` | what the data call the pictures, and which of them are in `images` |
| `margin` | score of `chosen` minus that of `rejected`, in rating points |
"""


def _licence(licence: str, sources: Mapping[str, str]) -> str:
    said = [f"## Licence\n\n`{licence}`."]
    if licence == PUBLIC_LICENCE:
        said.append("VLFeedback is licensed CC BY-NC 4.0, for research only; so is what is made from it.")
    if sources:
        said.append("Instructions and images remain under the licences of their sources:\n")
        rows = [[cell(source), cell(terms)] for source, terms in sources.items()]
        return " ".join(said) + "\n" + table(["source", "licence"], rows)
    return " ".join([*said, "Instructions and images remain under the licences of their sources."])


def push(folder: Path, repo: str, *, private: bool, token: str | None = None) -> str:
    """Upload the folder to the dataset repository `repo`, created if it does not exist; returns its address.

    HF_ENDPOINT and HF_TOKEN are respected. Private data are never uploaded into a public repository.
    """
    from huggingface_hub import HfApi

    if not (folder / "README.md").is_file():
        raise RunError(f"{folder}: no README.md in it: a dataset is not pushed without its card")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = HfApi(endpoint=endpoint, token=token or os.environ.get("HF_TOKEN") or None)
    try:
        address = str(api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True))
        if private and not api.repo_info(repo, repo_type="dataset").private:
            raise RunError(f"{repo} is public, and this was to be private: nothing was uploaded")
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            commit_message=f"Upload {folder.name}",
            ignore_patterns=[".*", "**/.*", "*.tmp"],
        )
    except RunError:
        raise
    except Exception as error:
        # The client raises httpx's, its own and the system's errors; each says what went wrong in its first line.
        said = first_line(error)
        raise RunError(f"{repo}: not pushed to {api.endpoint}: {said}") from error
    return address
