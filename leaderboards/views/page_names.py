"""The short names of models on the page.

short_names(["runs/dpo/checkpoint-24", "runs/sft/checkpoint-24", "org/llava"])
# {"runs/dpo/checkpoint-24": "dpo/checkpoint-24", ..., "org/llava": "llava"}
"""

from collections.abc import Iterable


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each name's last parts of its path, as many as tell it from the others; a name without a path is its own."""
    parts = {name: tuple(part for part in name.split("/") if part) or (name,) for name in names}
    found = {}
    for name, own in parts.items():
        others = [other for key, other in parts.items() if key != name]
        depth = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        found[name] = name if depth == len(own) else "/".join(own[-depth:])
    return found
