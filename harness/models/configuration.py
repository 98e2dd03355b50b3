"""What decides a local model's answers beside its weights: configurations, tokenizer, chat template.

Entries of earlier versions don't record it. They count as long as nothing shows that one of these files was changed
since: a file that is newer than the entry and than the weights beside it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from harness.engine.chat_template import FACT as TEMPLATE
from harness.engine.config import EngineConfig
from harness.engine.own_decoding import FILE, find_acting
from harness.models.base_names import ADAPTER_CONFIG
from harness.models.chat_templates import TEMPLATE_FILES, chat_template_of, own_template
from harness.models.fetch import OF_A_PART, SMALL
from harness.models.file_digests import WEIGHTS, digest_of_folder
from harness.models.provenance import digest_of_model
from harness.models.spec import ModelSpec
from harness.models.weight_files import read_json
from support.errors import ModelError

CONFIGURATION: Final = "configuration"
"""In provenance: the digest of configurations, tokenizer, processor and code."""
_DECIDING: Final = (
    *("*config*.json", "*token*.json", "vocab*.*", "merges*.txt", "*.model", "*.tiktoken", "tekken.json"),
    *("normalizer.json", "*.spm", "*.bpe", "*.vocab", "*.codes"),
)
"""Files that a model is loaded with, its chat template (which has a fact of its own) and weights left out."""
_ON_PLACES: Final = ("base_model_name_or_path", "_name_or_path", "revision", "transformers_version")
"""Keys of configurations that say where files came from, and decide no answer."""
_ONE_COPY: Final = 60.0
"""Files of one copied folder are at most so many seconds apart."""


def identity_of(spec: ModelSpec) -> dict[str, str]:
    """What tells a model from any other, as an entry records it and the answer cache knows it: digests of its weights,
    of its adapter, and of all other files that decide its answers."""
    return digest_of_model(spec) | configuration_of(spec)


def identity_of_folder(folder: Path) -> str:
    """The digests of the files in one folder of weights or of an adapter, whose base it may not know: first those of
    its weights."""
    adapter = folder if (folder / ADAPTER_CONFIG).is_file() else None
    found = {"weights": digest_of_folder(folder)}
    found |= configuration_of(ModelSpec(name="", pretrained=str(folder), adapter=adapter), served=True)
    with suppress(ModelError):  # it is refused when it is loaded
        found |= {TEMPLATE: own.digest} if (own := own_template(folder)) is not None else {}
    return " ".join(found.values())


def identity_behind_server(spec: ModelSpec) -> dict[str, str]:
    """The same of a local model that a server asks by its own files: with its chat template."""
    found = digest_of_model(spec) | configuration_of(spec, served=True)
    with suppress(ModelError):  # of a server that has a template of its own
        template = chat_template_of(spec)
        return found | ({} if template.asks_only else {TEMPLATE: template.digest})
    return found


def configuration_of(spec: ModelSpec, *, served: bool = False) -> dict[str, str]:
    """The digest of a local model's configurations, tokenizer and processor, and of its code where that may run;
    nothing for a served one. `served`: by these files, so that settings of decoding in them may decide."""
    if CONFIGURATION in spec.digests:  # of a server's model, whose files were read before
        return {CONFIGURATION: spec.digests[CONFIGURATION]}
    if spec.backend != "transformers" or not (files := list(_find_deciding_files(spec))):
        return {}
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + hashlib.sha256(_read_content(path, served)).digest())
    return {CONFIGURATION: total.hexdigest()[:16]}


def counts_for(
    recorded: Mapping[str, str], created: str, spec: ModelSpec, engine: EngineConfig, configuration: Mapping[str, str]
) -> bool:
    """True if an entry with this provenance, made at this time, is of these files of a model, and of this chat
    template."""
    if spec.backend != "transformers":
        return True
    if any(recorded.get(fact, value) != value for fact, value in configuration.items()):
        return False
    if CONFIGURATION not in recorded and _has_own_decoding(spec):
        return False  # it was decoded by them
    try:
        template = chat_template_of(spec, engine)
    except ModelError:  # it is refused when it is asked; a server has a template of its own
        return not _was_changed_since(spec, created)
    if TEMPLATE in recorded:
        same = recorded[TEMPLATE] == template.digest
        return same and (CONFIGURATION in recorded or not _was_changed_since(spec, created))
    return template.own and not _was_changed_since(spec, created)


def only_files_of_earlier_digests(spec: ModelSpec) -> bool:
    """True if no file decides its answers that earlier versions didn't look at when they kept them, and none decided
    them then that doesn't now."""
    if _has_own_decoding(spec):
        return False
    places = [place.resolve() for place in (spec.local_folder, spec.adapter) if place is not None]
    return all(path.suffix in SMALL and path.parent.resolve() in places for path in _find_deciding_files(spec))


def _find_deciding_files(spec: ModelSpec) -> Iterator[Path]:
    """Configurations, tokenizer and code of the base, and the adapter's configuration: its other files are not read."""
    folder = spec.folder or Path(spec.pretrained)
    if folder.is_dir():
        folders = [folder, *(path for path in folder.iterdir() if path.is_dir() and _is_part(path))]
        found = {path for each in folders for pattern in _DECIDING for path in each.glob(pattern)}
        found |= set(folder.rglob("*.py")) if spec.remote_code else set()
        yield from sorted(path for path in found if path.is_file() and path.name != ADAPTER_CONFIG)
    if spec.adapter is not None and (config := spec.adapter / ADAPTER_CONFIG).is_file():
        yield config


def _is_part(folder: Path) -> bool:
    """Whether a folder within a model's is one of its parts, and not a checkpoint."""
    return _has_any(folder, OF_A_PART) and not _has_any(folder, WEIGHTS)


def _has_any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _has_own_decoding(spec: ModelSpec) -> bool:
    """Whether its generation_config.json has settings by which earlier versions decoded."""
    path = (spec.folder or Path(spec.pretrained)) / FILE
    with suppress(ModelError):  # it is refused when it is loaded
        return path.is_file() and bool(find_acting(read_json(path)))
    return False


def _read_content(path: Path, served: bool) -> bytes:
    """A file's bytes; of a configuration, what decides answers."""
    data = path.read_bytes()
    if "config" not in path.name:
        return data
    try:
        found = json.loads(data)
        idle = find_acting(found) if path.name == FILE and not served else {}
        kept = {name: value for name, value in found.items() if name not in (*_ON_PLACES, *idle)}
        return json.dumps(kept, sort_keys=True).encode()
    except (ValueError, AttributeError, RecursionError):
        return data


def _was_changed_since(spec: ModelSpec, created: str) -> bool:
    """True if a deciding file in the user's folders was changed alone, after this time."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return False
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    own = [path for path in _find_deciding_files(spec) if path.name == ADAPTER_CONFIG or Path(spec.pretrained).is_dir()]
    folders = {path.parent for path in own}
    own += [path for folder in folders for name in TEMPLATE_FILES if (path := folder / name).is_file()]
    return any(path.stat().st_mtime > max(since, _find_newest_weights(path.parent) + _ONE_COPY) for path in own)


def _find_newest_weights(folder: Path) -> float:
    return max((path.stat().st_mtime for pattern in WEIGHTS for path in folder.glob(pattern)), default=0.0)
