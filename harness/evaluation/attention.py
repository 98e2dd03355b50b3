"""How much of its attention a model gives to the image while it generates, as in POVID (arXiv 2402.11411, section 4).

    base = attention_share(load(find("llava-1.5-7b")), registry().task("scenes_chair"), 100)
    tuned = attention_share(load(find("runs/povid/checkpoint-200")), registry().task("scenes_chair"), 100)
    print(write(Path("runs/attention"), base, tuned))           # of attention_report

The share of a token is the attention that the position which predicts it gives to image positions, mean over layers
and heads. `relative` is the share divided by (image positions / positions seen): 1 is what uniform attention would
give, at any length. Object words of a caption are, by CHAIR's rule, grounded (the object is in the image) or
hallucinated; a word's share is the mean over its tokens. Hallucinated words tend to come late in a caption, where
there is more text to attend to, so compare `relative`.

Only the answer is computed with attention weights, in one pass, and only sums over image positions are kept of each
layer: the memory needed is that of one layer's heads x answer x context.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.generate import load_tasks, requests_of
from support.errors import InputError
from support.progress import report
from tasks.answer import FailedAnswer
from tasks.benchmarks import chair
from tasks.registry import TaskSpec

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Kind = Literal["tokens", "grounded", "hallucinated"]

KINDS: Final[tuple[Kind, ...]] = ("tokens", "grounded", "hallucinated")
"""All tokens of an answer; words for objects that are in the image; words for objects that are not."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A mention of an object in an answer."""

    name: str
    start: int
    """Its first character in the answer."""
    end: int
    grounded: bool
    """True if the object is in the image."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much attention one answer's tokens gave to the image."""

    shares: Array
    """Attention on image positions, mean over heads [layers, tokens], 0 to 1."""
    even: Array
    """The share that uniform attention would give: image positions / positions seen [tokens]."""
    spans: tuple[tuple[int, int], ...]
    """First character of each token in the answer, and the one after its last."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One model's attention to the images of one task."""

    model: str
    task: str
    records: tuple[dict[str, Any], ...]
    """One for each answer, JSON values: see `record`."""
    failed: int
    """Answers that the model failed to give."""
    empty: int
    """Answers without a token."""
    layers: int
    words: bool
    """True if the task knows which objects are in the image."""
    failures: tuple[str, ...] = ()
    """Why answers failed, each reason once."""


# -- words


def object_words(answer: str, truth: Collection[str], vocabulary: chair.Vocabulary) -> list[Word]:
    """The mentions that CHAIR counts in `answer`; those of objects in `truth` are grounded."""
    tokens = chair.tokens_of(answer, vocabulary)
    found = {token.base for token in tokens}
    return [
        Word(name=name, start=token.start, end=token.end, grounded=name in truth)
        for token in tokens
        if token.start >= 0 and vocabulary.gives_way.get(token.base) not in found
        if (name := vocabulary.synonyms.get(token.base)) is not None
    ]


def _find_words(task: str, doc: Mapping[str, Any], answer: str) -> list[Word] | None:
    """The object words of an answer; None for a task that does not know which objects are in the image."""
    if task == "scenes_chair":
        from tasks.scenes.scenes_chair import VOCABULARY

        return object_words(answer, doc["objects"], VOCABULARY)
    if task == "chair":
        synonyms = doc.get("synonyms") or chair.coco_synonyms()
        return object_words(answer, doc["official"], chair.coco_vocabulary(synonyms, chair.VARIANTS["official"]))
    return None


# -- one answer


def shares_of(lm: Any, request: Any, answer: str) -> Shares:
    """The attention that a SharedImageLM gives to the images of a request while it generates `answer`; InputError.

    The answer is tokenized without the prompt; an answer without a token has no shares.
    """
    import torch

    encoded = lm.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = [int(token) for token in encoded["input_ids"]]
    spans = tuple((int(start), int(end)) for start, end in encoded["offset_mapping"])
    if not ids:
        return Shares(shares=np.zeros((0, 0)), even=np.zeros(0), spans=())
    has_prefix_cache = lm.sharing.shares_images and lm.runner.why_no_prefix() is None
    with torch.inference_mode():
        compute = _compute_after_prefix if has_prefix_cache else _compute_in_one_pass
        prompt, shares = compute(lm, request, ids)
    image_positions = sum(token in lm.layout.image_ids for token in prompt)
    seen = len(prompt) + np.arange(len(ids), dtype=np.float64)
    return Shares(shares=shares, even=image_positions / seen, spans=spans)


def _compute_after_prefix(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
    """The engine computes the prompt up to its last token; the rest is computed with attention weights."""
    job = lm.jobs_of([request])[0]
    ready, bad = lm.scheduler.encode([job])
    if bad:
        raise InputError(f"{_name_of(request)}: {bad[0][1].error}")
    split = len(job.ids) - 1
    if job.ids[split] in lm.layout.image_ids:  # an image can't be split
        return _compute_in_one_pass(lm, request, ids)
    prefix = lm.scheduler.prefill(ready, [split])
    with _recorded_attention(lm, job.ids, len(ids), request, windows=True) as layers:
        lm.runner.fork(prefix, [0], [[job.ids[-1], *ids[:-1]]], 0)
    return list(job.ids), _stack(layers, lm)


def _compute_in_one_pass(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
    """Prompt and answer together, for families without a prefix cache."""
    import torch

    context, _, shown = request.args
    inputs = dict(lm.processor_inputs(context, shown["visual"]))
    prompt = [int(token) for token in inputs["input_ids"][0]]
    answer = torch.tensor([ids[:-1]], device=inputs["input_ids"].device, dtype=inputs["input_ids"].dtype)
    ones = torch.ones_like(answer)
    of_answer = {"input_ids": answer, "attention_mask": ones, "image_patches_indices": -ones}
    if lm.runner.both_ways:  # attention is bidirectional in the prompt only
        of_answer["token_type_ids"] = ones
    for name, part in inputs.items():
        if isinstance(part, torch.Tensor) and part.shape == (1, len(prompt)):  # one value for each position
            inputs[name] = torch.cat([part, of_answer.get(name, torch.zeros_like(answer)).to(part)], 1)
    with _recorded_attention(lm, prompt, len(ids), request) as layers:
        lm.hf(**inputs, use_cache=False)
    return prompt, _stack(layers, lm)


def _stack(layers: "Mapping[str, torch.Tensor]", lm: Any) -> Array:
    if not layers:
        raise InputError(f"{lm.hf.config.model_type}: returns no attention weights")
    import torch

    return torch.stack(list(layers.values())).double().cpu().numpy()


@contextmanager
def _recorded_attention(
    lm: Any, prompt: Sequence[int], answer: int, request: Any, windows: bool = False
) -> "Iterator[dict[str, torch.Tensor]]":
    """Inside, attention is computed with its weights; the dict gets each layer's attention to the image [tokens].

    `answer`: its number of tokens. `windows`: some layers may have a cache of the last positions only.
    """
    import torch

    from harness.engine.families import INTERLEAVED

    image = [at for at, token in enumerate(prompt) if token in lm.layout.image_ids]
    if not image or lm.hf.config.model_type in INTERLEAVED:  # these attend to images by cross-attention
        raise InputError(f"{_name_of(request)}: {lm.hf.config.model_type} has no image positions in its context")
    total = len(prompt) + answer - 1
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, output: Any) -> None:
        rest = output[1:] if isinstance(output, tuple) else ()
        weights = next((part for part in rest if isinstance(part, torch.Tensor) and part.ndim == 4), None)
        if weights is None or weights.shape[0] != 1 or weights.shape[-2] < answer:
            return
        dropped = total - weights.shape[-1]
        # Vision towers and Q-Formers attend over another number of positions, and are left out.
        if dropped == 0 or (windows and dropped > 0):
            kept = [position - dropped for position in image if position >= dropped]
            columns = torch.tensor(kept, dtype=torch.long, device=weights.device)
            found[name] = weights[0, :, -answer:].index_select(-1, columns).float().sum(-1).mean(0)

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, module in lm.hf.named_modules()
        if type(module).__name__.endswith("Attention")
    ]
    try:
        with _eager_attention(lm.hf):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """Inside, attention returns its weights, which fused kernels do not."""
    from transformers import PreTrainedModel

    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    # The outermost comes first: setting it sets those inside it too.
    before = [(config, config._attn_implementation) for config in configs.values()]
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def _name_of(request: Any) -> str:
    return f"{request.task_name or 'request'} {request.doc.get('id', request.doc_id)}"


# -- a task


def attention_share(
    lm: Any,
    task: TaskSpec,
    limit: int,
    *,
    name: str = "",
    data: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
) -> Attention:
    """Attention of a SharedImageLM to the images of `limit` documents. InputError, DataError.

    `name` is what tables call the model. `answers`: texts by document id, measured in place of the model's own, such as
    another model's, to measure both on the same words.
    """
    loaded = load_tasks([task], data=data, partial_data=True)[task.name]
    requests = requests_of(loaded, lm, limit)
    if blind := next((one for one in requests if len(one.args) < 3 or not one.args[2]["visual"]), None):
        raise InputError(f"{task.name}: document {_id(blind)!r} has no image")
    if answers is None:
        texts: list[str] = lm.generate_until(requests, disable_tqdm=True)
    elif missing := [id for id in map(_id, requests) if id not in answers]:
        raise InputError(f"{task.name}: no answer to document {missing[0]!r} among the {len(answers)} given")
    else:
        texts = [answers[_id(request)] for request in requests]
    records: list[dict[str, Any]] = []
    layers, empty, failed, has_words = 0, 0, [], False
    for number, (request, text) in enumerate(zip(requests, texts, strict=True), 1):
        if isinstance(text, FailedAnswer):
            failed.append(text.error)
        elif not (shares := shares_of(lm, request, text)).spans:
            empty += 1
        else:
            words = _find_words(task.name, request.doc, text)
            has_words, layers = words is not None, len(shares.shares)
            records.append(record(_id(request), _image_id(request), text, shares, words or []))
        report(f"read {name}", number, len(requests))
    if not records:
        why = f": {failed[0]}" if failed else ""
        raise InputError(f"{name or 'model'} on {task.name}: none of {len(requests)} answers can be read{why}")
    return Attention(
        model=name,
        task=task.name,
        records=tuple(records),
        failed=len(failed),
        empty=empty,
        layers=layers,
        words=has_words,
        failures=tuple(dict.fromkeys(failed)),
    )


def _id(request: Any) -> str:
    return str(request.doc.get("id", request.doc_id))


def _image_id(request: Any) -> str:
    found = (request.doc.get(name) for name in ("scene", "image"))
    return next((value for value in found if isinstance(value, str)), _id(request))


def record(id: str, image: str, answer: str, shares: Shares, words: Sequence[Word]) -> dict[str, Any]:
    """One answer's numbers. For each kind: the count, and sums over it of the share, the relative share and the share
    in each layer."""
    tokens = shares.shares.mean(axis=0)
    relative = tokens / shares.even
    members: dict[Kind, list[list[int]]] = {"tokens": [[at] for at in range(len(tokens))]}
    members |= {"grounded": [], "hallucinated": []}
    named = []
    for word in words:
        own = [at for at, (start, end) in enumerate(shares.spans) if min(end, word.end) > max(start, word.start)]
        if own:
            members["grounded" if word.grounded else "hallucinated"].append(own)
            share = float(tokens[own].mean())
            named.append({"name": word.name, "grounded": word.grounded, "tokens": own, "share": share})
    rounded = [round(float(part), 6) for part in tokens]
    found: dict[str, Any] = {"id": id, "image": image, "answer": answer, "shares": rounded, "words": named}
    for kind, items in members.items():
        by_layer = sum((shares.shares[:, own].mean(1) for own in items), np.zeros(len(shares.shares)))
        found[kind] = len(items)
        found[f"{kind} share"] = float(sum(tokens[own].mean() for own in items))
        found[f"{kind} relative"] = float(sum(relative[own].mean() for own in items))
        found[f"{kind} by layer"] = [float(part) for part in by_layer]
    return found
