"""The pool's members as LMs: each loaded or reached when its turn comes, the one before dropped first.

    pool = PoolModels()
    decode(instructions, data, seed, folder, load=pool)                  # pool(member) is an LM
    print(plan_pool(data, seed, 80_258).to_markdown())                   # before anything is loaded

A member without a URL runs here, through our own engine, unless its name stands for a served model. All others are
servers of chat completions: a member's settings go to its server with each question, and an answer is in the ledger
before it is anywhere else.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.chat_template import check_switch
from harness.engine.config import SAMPLED_AT_ONCE, EngineConfig
from harness.evaluation.protocol import OFFICIAL, as_asked, conversation_of
from harness.models.chat_settings import OTHER_NAMES, served_settings
from harness.models.chat_templates import chat_template_of
from harness.models.fetch import cached, fetch
from harness.models.served_identity import identified
from harness.models.spec import OPENAI_PREFIX, ModelSpec, find
from harness.models.weight_files import read_header, weight_files
from support.errors import ModelError
from tasks.judges.addresses import without_credentials
from trainers.config.data import Data, PoolModel
from trainers.vlfeedback.decode_plan import DecodePlan, ModelFacts, plan

if TYPE_CHECKING:
    from trainers.vlfeedback.answers import AnswersLM
    from trainers.vlfeedback.instructions import Instruction

log = logging.getLogger(__name__)


class PoolModels:
    """Makes an LM of a member; one is in memory at a time, and members of one model share it.

    `served` names, by member, servers that were started for this run; `ledger` keeps what servers said (None: the usual
    one); `run` names what is built, for servers that tell no models apart; `remote_code`: code of a checkpoint may run.
    """

    def __init__(
        self,
        *,
        ledger: Path | None = None,
        served: Mapping[str, ModelSpec] | None = None,
        run: str = "",
        remote_code: bool = False,
    ) -> None:
        from harness.models.adapter_host import AdapterHost

        self.ledger, self.served, self.run, self.remote_code = ledger, served or {}, run, remote_code
        self._host = AdapterHost()
        self._made_of: tuple[ModelSpec, EngineConfig] | None = None
        self._lm: Any = None

    def __call__(self, member: PoolModel) -> "AnswersLM":
        """The member's LM; the one that was given before can't be used any more. MissingWeights, ModelError."""
        spec = self.served.get(member.name) or spec_of(member, remote_code=self.remote_code)
        engine = engine_of(member)
        if (spec, engine) != self._made_of:
            self._lm = self._made_of = None
            if spec.backend == "openai":
                self.drop()
            log.info("%s: %s", member.name, where(spec))
            self._lm = load_spec(spec, engine, ledger=self.ledger, load=self._host.load, run=self.run)
            self._made_of = spec, engine
        return self._lm  # type: ignore[no-any-return]

    def drop(self) -> None:
        """Let go of the model."""
        self._lm = self._made_of = None
        self._host.drop()


def spec_of(member: PoolModel, *, remote_code: bool = False) -> ModelSpec:
    """What a member stands for: with a URL its server, which is asked for `model` as it is written; else what `harness
    models` knows, asked as its authors do."""
    if member.url is None:
        return as_asked(find(member.model, remote_code=remote_code), OFFICIAL)
    known = find(member.model) if member.model.startswith(OPENAI_PREFIX) else None
    asked = known.pretrained if known is not None else member.model
    return ModelSpec(
        name=member.model, pretrained=asked, backend="openai", url=member.url, description="behind a server"
    )


def engine_of(member: PoolModel) -> EngineConfig:
    """How a member is asked, beside its sampling."""
    return EngineConfig(thinking=member.thinking, thinking_tokens=member.thinking_tokens)


def check_thinking(members: Sequence[PoolModel], *, remote_code: bool = False) -> None:
    """SettingError where a member whose files are here has no switch for `thinking`; of others loading tells."""
    for member in members:
        spec = spec_of(member, remote_code=remote_code)
        if member.thinking is not None and spec.backend == "transformers" and cached(spec):
            check_switch(chat_template_of(fetch(spec)), member.thinking, member.name)


def where(spec: ModelSpec) -> str:
    """Where a model's answers come from, as text."""
    if spec.backend == "openai":
        url = spec.url or os.environ.get("OPENAI_BASE_URL")
        if not url:
            return "asked at OpenAI: neither url nor OPENAI_BASE_URL is set"
        return f"asked at {without_credentials(url)}"
    if cached(spec):
        return "loaded here"
    if spec.needs:
        return f"needs {spec.needs}"
    return f"downloaded ({spec.gigabytes:g} GB), then loaded here" if spec.gigabytes else "downloaded, then loaded here"


def load_served(
    served: Mapping[str, ModelSpec],
    member: PoolModel,
    *,
    ledger: Path | None = None,
    run: str = "",
    remote_code: bool = False,
) -> "AnswersLM":
    """One member's LM, for a process that needs no other: picklable by name, so that an actor elsewhere can make it.

    `served` are the servers that were started for this run, by member's name; a member that is not among them is what
    it always is.
    """
    spec = served.get(member.name) or spec_of(member, remote_code=remote_code)
    return load_spec(spec, engine_of(member), ledger=ledger, run=run)


def load_spec(
    spec: ModelSpec,
    engine: EngineConfig | None = None,
    *,
    ledger: Path | None = None,
    load: Callable[..., Any] | None = None,
    run: str = "",
) -> "AnswersLM":
    """The LM of a spec, asked as its authors do; a server's with a seed of its own for each question. `load` is what
    loads weights, `run` names what is done."""
    engine = engine or EngineConfig()
    if spec.backend == "openai":
        from harness.models.chat_model import OpenAIVisionLM

        spec, given = identified(spec, ledger, run=run), engine.given()
        more: dict[str, Any] = {"settings": served_settings(spec.name, given), "seed_by_question": True}
        names = [OTHER_NAMES.get(name, name) for name in given]
        served = OpenAIVisionLM.of(spec, ledger=ledger, given=names, **more)
        asked = conversation_of(OFFICIAL, spec)
        served.system, served.pads = asked.system, asked.picture == "pad"
        return served
    from harness.models.load import load as load_alone

    lm: AnswersLM = (load or load_alone)(spec, engine)
    return lm


# What is known of a model before it is loaded.


def plan_pool(
    data: Data,
    seed: int,
    instructions: "Sequence[Instruction] | int",
    folder: Path | None = None,
    served: Mapping[str, ModelSpec] | None = None,
) -> DecodePlan:
    """What decoding takes of each member, in rows, GPU memory, time and money; nothing is loaded or downloaded."""
    facts = {member.name: facts_of((served or {}).get(member.name) or spec_of(member)) for member in data.pool}
    return plan(instructions, data, seed, facts, folder)


def facts_of(spec: ModelSpec) -> ModelFacts:
    """Size and shape of a model: from its files where they are here, else from the table of `harness models`."""
    place = where(spec)
    if spec.backend == "openai":
        return ModelFacts(model=spec.pretrained, where=place, served=True)
    parameters = round(spec.gigabytes * 1e9 / spec.stored_bytes) if spec.gigabytes else None
    known = ModelFacts(
        model=spec.name,
        where=place,
        rows_at_once=spec.batch_size or SAMPLED_AT_ONCE,
        image_positions=spec.image_positions,
        weights=None if parameters is None else parameters * _bytes_computed(spec),
        parameters=parameters,
        source="sizes in `harness models`" if spec.gigabytes else "",
    )
    folder = _find_weights(spec)
    return _read_sizes(known, folder, spec) if folder is not None else known


def _find_weights(spec: ModelSpec) -> Path | None:
    """Where the weights are on this machine."""
    if Path(spec.pretrained).is_dir():
        return Path(spec.pretrained)
    if not cached(spec):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.pretrained, "config.json", revision=spec.revision)
    return Path(found).parent if isinstance(found, str) else None


def _read_sizes(known: ModelFacts, folder: Path, spec: ModelSpec) -> ModelFacts:
    """The facts with the sizes that its files tell: headers of the safetensors, config.json."""
    parameters = stored = 0
    with suppress(ModelError):  # told when it is loaded
        headers = [read_header(path)[0] for path in weight_files(folder) if path.suffix == ".safetensors"]
        for name, tensor in chain(*(header.items() for header in headers)):
            if name != "__metadata__":
                parameters += prod(tensor["shape"])
                stored += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config.get("llm_config") or config
    shape = [text.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")]
    kept = None
    if all(isinstance(number, int) for number in shape):
        layers, heads, width = shape
        head = text.get("head_dim") or width // heads
        kept = 2 * layers * (text.get("num_key_value_heads") or heads) * head * _bytes_computed(spec)
    if not parameters:
        return replace(known, kept_per_position=kept)
    weights = 4 * parameters if spec.dtype == "float32" else min(stored, _bytes_computed(spec) * parameters)
    return replace(known, weights=weights, parameters=parameters, kept_per_position=kept, source="its files")


def _bytes_computed(spec: ModelSpec) -> int:
    """Of one weight on a GPU: half precision, whatever is stored, unless the spec says otherwise."""
    return 4 if spec.dtype == "float32" else 2
