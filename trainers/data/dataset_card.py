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
        "size_categories": [_name_size(max(rows, pairs))],
        "tags": ["preference", "dpo", "rlaif", "vision-language", "vlfeedback"],
        "configs": [
            {"config_name": config, "data_files": pattern if isinstance(pattern, str) else list(pattern)}
            for config, pattern in files.items()
        ],
    }
    made = f"{rows:,} instructions about images, each answered by several models"
    made += f"; {pairs:,} preference pairs" if pairs else ""
    rated = f"Answers are rated by {one_line(judge)}" if judge else "Answers are rated"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {one_line(name)}",
        f"{made}. {rated} on {', '.join(ASPECTS[:-1])} and {ASPECTS[-1]}, from 1 to 5, "
        "in the schema of MMInstruction/VLFeedback.",
        "## Load\n\n" + "\n".join(_LOAD.format(config) for config in files),
        _SCHEMA + (_PAIRS if "pairs" in files else ""),
        _write_licence(licence, sources or {}),
        f"## Statistics\n\n{statistics_markdown.strip()}" if statistics_markdown.strip() else "",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _name_size(count: int) -> str:
    names = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
    return next((name for bound, name in names.items() if count < bound), "10M<n<100M")


_LOAD = """```python
datasets.load_dataset("OWNER/NAME", "{}", split="train")
```"""

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


def _write_licence(licence: str, sources: Mapping[str, str]) -> str:
    text = f"## Licence\n\n`{licence}`. "
    if licence == PUBLIC_LICENCE:
        text += "VLFeedback is licensed CC BY-NC 4.0, for research only; so is what is made from it. "
    text += "Instructions and images remain under the licences of their sources"
    rows = [[cell(source), cell(terms)] for source, terms in sources.items()]
    return f"{text}:\n\n{table(['source', 'licence'], rows)}" if rows else f"{text}."


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
            raise RunError(f"{repo} is public, and a private one is asked for: nothing was uploaded")
        unfinished = [".*", "**/.*", "*.tmp"]
        message = f"Upload {folder.name}"
        api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=folder, commit_message=message, ignore_patterns=unfinished
        )
    except RunError:
        raise
    except Exception as error:
        # The client raises httpx's, its own and the system's errors; each says what went wrong in its first line.
        raise RunError(f"{repo}: not pushed to {api.endpoint}: {first_line(error)}") from error
    return address
