"""A trained model as a judge of pairs: the reward that DPO gives it without saying so.

    rewards = score_pairs(pairs, policy=find("runs/x/checkpoint-40"), reference=find("base"), out=Path("runs/bench"))

The reward of an answer is beta (log pi(answer) - log pi_ref(answer)), with the sums over the answer's tokens that
training takes (`trainers.data.chat`). Which of two answers has the higher one does not depend on beta. Nothing is
generated: a model reads each pair once. Pairs of one image follow each other, and an image is encoded once where
`trainers.packed` knows the family. What was computed is kept under the digest of model, machine and pair.
"""

import gc
import hashlib
import inspect
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel

from harness.engine.config import EngineConfig
from harness.judge_bench.ask import Compared
from harness.models.base_names import named_base
from harness.models.chat_templates import chat_template_of
from harness.models.fetch import fetch
from harness.models.load import for_model, identity_when_asked, quiet, register
from harness.models.spec import MODELS, ModelSpec, find
from support.errors import SettingError, TrainingError, one_line
from support.files import JsonLines
from support.images import ImageRef, encoded, picture
from support.processes import device_of
from support.progress import report
from support.reuse import Reuse
from tasks.answer import FailedAnswer
from tasks.judges.ledger import now
from tasks.pairs.protocol import Pair
from trainers.data.chat import TOKENS_VERSION, stops_of
from trainers.data.collators import PairCollator
from trainers.data.rows import Preference
from trainers.data.torch_dataset import Pairs
from trainers.packed.trainer import FAMILIES
from trainers.packed.vision_cache import KeptFeatures, is_trained
from trainers.training.adapters import filling_every_place
from trainers.training.read_base import CompleteModel, read_processor, reading

log = logging.getLogger(__name__)

BASE: Final = "base"
"""Names the model that the policy was trained from."""
FEATURES_ROOM: Final = 1 << 30
"""Bytes of CPU memory for image features."""
_CHOSEN, _REJECTED = "chosen", "rejected"


def reference_of(policy: ModelSpec, name: str) -> ModelSpec:
    """The model of this name; `BASE`: what the policy's files say that it was trained from. SettingError."""
    if name != BASE:
        return find(name)
    if policy.adapter is not None:
        return replace(policy, name=f"base of {policy.name}", adapter=None, base=None)
    folder = Path(policy.pretrained)
    named = named_base(folder, MODELS) if folder.is_dir() else None
    if named is None or named.outside:
        raise SettingError(f"--reference {BASE}: the files of {policy.name} name no base; name the model itself")
    found = find(named.name)
    return found if named.revision is None else replace(found, revision=named.revision)


def score_pairs(
    pairs: Sequence[Pair], *, policy: ModelSpec, reference: ModelSpec, out: Path, batch_size: int = 4
) -> list[Compared]:
    """The pairs with both models' log-probabilities; a pair that a model can't read has the reason."""
    found = {
        side: log_probs(spec, pairs, out / "log_probs", batch_size)
        for side, spec in (("reference", reference), ("policy", policy))
    }
    compared = []
    for number, pair in enumerate(pairs):
        sides = {side: values[number] for side, values in found.items()}
        lost = next((value.error for value in sides.values() if isinstance(value, FailedAnswer)), "")
        rewards = {
            f"{side}_{answer}": value[answer]
            for side, value in sides.items()
            if not isinstance(value, FailedAnswer)
            for answer in (_CHOSEN, _REJECTED)
        }
        facts: dict[str, Any] = {"id": pair.id, "category": pair.category, "image": pair.image or pair.id}
        compared.append(Compared(**facts, rewards={} if lost else rewards, lost=lost))
    return compared


def log_probs(
    spec: ModelSpec, pairs: Sequence[Pair], folder: Path, batch_size: int = 4
) -> list[Mapping[str, float] | FailedAnswer]:
    """The log-probability of each pair's `chosen` and `rejected` answer, or why there is none."""
    spec = fetch(spec)
    engine = replace(EngineConfig(), device=device_of("cuda" if torch.cuda.is_available() else "cpu"))
    identity = identity_when_asked(spec, engine) | {"tokens": str(TOKENS_VERSION), "batch": str(batch_size)}
    rows = JsonLines(folder / f"{_digest(identity)}.jsonl")
    keys = [_digest([pair.question, pair.chosen, pair.rejected, pair.image]) for pair in pairs]
    missing = {key: number for number, key in enumerate(keys) if key not in rows.by_id}
    reused = Reuse()
    for key in {*keys} - {*missing}:
        reused.add(str(rows.by_id[key]["asked"]))
    if told := reused.take("log-probability", "log-probabilities"):
        log.info("%s: %s", spec.name, told)
    failed: dict[str, FailedAnswer] = {}
    if missing:
        reader = _Reader(spec, engine)
        done = 0
        for numbers in _batches([*missing.values()], pairs, batch_size):
            found = reader.read([pairs[number] for number in numbers])
            new = [(keys[number], values) for number, values in zip(numbers, found, strict=True)]
            failed |= {key: values for key, values in new if isinstance(values, FailedAnswer)}
            rows.append(
                [{"id": key, "asked": now(), **values} for key, values in new if not isinstance(values, FailedAnswer)]
            )
            done += len(numbers)
            report(f"log-probabilities by {spec.name}", done, len(missing))
        reader.close()
    return [failed[key] if key in failed else rows.by_id[key] for key in keys]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _batches(numbers: Sequence[int], pairs: Sequence[Pair], size: int) -> Iterator[list[int]]:
    """Batches in which pairs of one image follow each other."""
    order = sorted(numbers, key=lambda number: pairs[number].image)
    for start in range(0, len(order), size):
        yield order[start : start + size]


class _Reader:
    """A model that reads pairs, and generates nothing."""

    def __init__(self, spec: ModelSpec, engine: EngineConfig) -> None:
        register()
        quiet()
        engine, folder = for_model(engine, spec), str(spec.local_folder)
        given: dict[str, Any] = {"dtype": engine.dtype, "use_safetensors": True}
        template = chat_template_of(replace(spec, as_authors=True)).whole
        processor = read_processor(folder, spec.name, template, remote_code=spec.remote_code)
        with reading(spec.name, folder, "weights", remote_code=spec.remote_code):
            model = CompleteModel.from_pretrained(folder, trust_remote_code=spec.remote_code, **given)
            stops = stops_of(model, processor)
            backbone, kind = model.base_model, model.config.model_type
            if spec.adapter is not None:
                with filling_every_place(spec.adapter):
                    model = PeftModel.from_pretrained(model, str(spec.adapter))
        self.model = model.to(engine.device).eval().requires_grad_(False)
        self.collate = PairCollator(processor, None, stops)
        plain = model.get_base_model() if spec.adapter is not None else model
        self.takes_part = "logits_to_keep" in inspect.signature(plain.forward).parameters
        if kind in FAMILIES and not is_trained(backbone):
            backbone.get_image_features = KeptFeatures(backbone, FEATURES_ROOM)

    def close(self) -> None:
        """Free its memory."""
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def read(self, pairs: Sequence[Pair]) -> list[Mapping[str, float] | FailedAnswer]:
        """The log-probabilities of some pairs; one that can't be read costs itself alone."""
        try:
            return list(self._compute(pairs))
        except (OSError, TrainingError, torch.OutOfMemoryError) as error:
            if len(pairs) == 1:
                return [FailedAnswer(one_line(error))]
        return [found for pair in pairs for found in self.read([pair])]

    @torch.inference_mode()
    def _compute(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        examples = Pairs([_make_preference(row, pair) for row, pair in enumerate(pairs)])
        batch = dict(self.collate([examples[row] for row in range(len(pairs))]))
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
        asked = inputs.pop("completion_mask")[:, 1:].bool()
        targets = inputs["input_ids"][:, 1:]
        part: dict[str, int] = {}
        if self.takes_part:  # the head is large, and a prompt long
            part["logits_to_keep"] = int(targets.shape[1] - asked.long().argmax(-1).min()) + 1
        logits = self.model(**inputs, use_cache=False, **part).logits[:, :-1].float()
        kept = slice(targets.shape[1] - logits.shape[1], None)
        chances = logits.log_softmax(-1).gather(-1, targets[:, kept, None])[..., 0]
        sums = (chances.double() * asked[:, kept]).sum(-1).tolist()
        if not all(map(math.isfinite, sums)):
            raise TrainingError("the model gives an answer no finite probability")
        return [{_CHOSEN: sums[row], _REJECTED: sums[len(pairs) + row]} for row in range(len(pairs))]


def _make_preference(row: int, pair: Pair) -> Preference:
    image = ImageRef(pair.image, reader=lambda: encoded(picture(pair.image)))
    return Preference(
        id=pair.id,
        prompt=pair.question,
        images=(image,) if pair.image else (),
        chosen=pair.chosen,
        rejected=pair.rejected,
        row=row,
    )
