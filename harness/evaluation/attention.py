"""How much of its attention a model gives to the image while it writes: POVID's analysis (arXiv 2402.11411, section 4)
made a number.

    base = attention_share(load(find("llava-1.5-7b")), registry().task("scenes_chair"), 100)
    tuned = attention_share(load(find("runs/povid/checkpoint-200")), registry().task("scenes_chair"), 100)
    print(write(Path("runs/attention"), base, tuned))           # of attention_report

For each token of an answer: the mean over layers and heads of the attention that the position which predicts it gives
to positions that hold the image. `relative` is the same divided by the image's part of the context (image positions /
positions): 1 is what even attention would give, whatever the lengths. Words of a caption that name an object are split,
by CHAIR's rule, into objects that are in the image and objects that are not. A word's share is the mean over its
tokens. Hallucinated words tend to come late in a caption, where there is more text to attend to, so compare `relative`.

The prompt is read as the engine reads it, its keys kept. Only the answer is read with attention weights, in one pass,
and only sums over image positions are kept of each layer: memory is that of one layer's heads x answer x context.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.generate import load_tasks
from support.errors import InputError
from support.progress import report
from tasks.answer import FailedAnswer
from tasks.benchmarks import chair, english
from tasks.registry import TaskSpec

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Kind = Literal["tokens", "grounded", "hallucinated"]

KINDS: Final[tuple[Kind, ...]] = ("tokens", "grounded", "hallucinated")
"""All tokens of an answer; words that name an object of the image; words that name one it doesn't have."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A mention of an object in an answer."""

    name: str
    start: int
    """Of its characters in the answer."""
    end: int
    grounded: bool
    """Whether the object is in the image."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much attention one answer's tokens gave to the image."""

    shares: Array
    """Attention on image positions, mean over heads [layers, tokens], 0 to 1."""
    even: Array
    """Image positions / positions seen, what even attention would give [tokens]."""
    spans: tuple[tuple[int, int], ...]
    """Where each token's characters are in the answer."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One model's attention to the images of one task."""

    model: str
    task: str
    records: tuple[dict[str, Any], ...]
    """One an answer, JSON values: id, image, answer, and by kind the numbers `METRICS` reads."""
    failed: int
    """Answers that failed, so that there is nothing to read."""
    empty: int
    """Answers without a word."""
    layers: int
    words: bool
    """True if the task tells objects that are in the image from those that are not."""
    failures: tuple[str, ...] = field(default=())
    """Why answers failed, each reason once."""


# -- words


def object_words(answer: str, truth: Collection[str], vocabulary: chair.Vocabulary) -> list[Word]:
    """The mentions that CHAIR counts in `answer`, with their places; an object of `truth` is grounded.

    A word that CHAIR's tokenizer rewrites (a quotation mark) has no place of its own, and is no object either.
    """
    lower = answer.lower()
    places: list[tuple[int, int] | None] = []
    at = 0
    tokens = english.tokens(lower)
    for token in tokens:
        found = lower.find(token, at)
        places.append(None if found < 0 else (found, found + len(token)))
        at = at if found < 0 else found + len(token)
    merged: list[tuple[str, int, int]] = []
    taken = False
    base = [*vocabulary.base_forms(tokens), ""]
    for index, (first, second) in enumerate(pairwise(base)):
        if taken:
            taken = False
            continue
        pair = vocabulary.double_words.get(f"{first} {second}")
        taken = pair is not None
        own, last = places[index], places[index + 1 if taken else index]
        if own is not None and last is not None:
            merged.append((first if pair is None else pair, own[0], last[1]))
    there, present = frozenset(word for word, *_ in merged), frozenset(truth)
    return [
        Word(name=name, start=start, end=end, grounded=name in present)
        for word, start, end in merged
        if vocabulary.gives_way.get(word) not in there and (name := vocabulary.synonyms.get(word)) is not None
    ]


def words_of_task(task: str, doc: Mapping[str, Any], answer: str) -> list[Word] | None:
    """The object words of an answer to a captioning task whose objects are known; None for any other task."""
    if task == "scenes_chair":
        from tasks.scenes.scenes_chair import VOCABULARY

        return object_words(answer, doc["objects"], VOCABULARY)
    if task == "chair":
        synonyms = doc.get("synonyms") or chair.coco_synonyms()
        return object_words(answer, doc["official"], chair.coco_vocabulary(synonyms, chair.VARIANTS["official"]))
    return None


# -- one answer


def shares_of(lm: Any, request: Any, answer: str) -> Shares:
    """The attention that a SharedImageLM's model gives to the images of a request while it writes `answer`; InputError.

    The answer is tokenised by itself, as after the end of a prompt; an answer without a token has no shares.
    """
    import torch

    read = lm.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = [int(token) for token in read["input_ids"]]
    spans = tuple((int(start), int(end)) for start, end in read["offset_mapping"])
    if not ids:
        return Shares(shares=np.zeros((0, 0)), even=np.zeros(0), spans=())
    prefix_cache = lm.sharing.shares_images and lm.runner.why_no_prefix() is None
    with torch.inference_mode():
        read_answer = _read_after_prefix if prefix_cache else _read_in_one_pass
        prompt, per_layer = read_answer(lm, request, ids)
    on_image = sum(token in lm.layout.image_ids for token in prompt)
    seen = len(prompt) + np.arange(len(ids), dtype=np.float64)
    return Shares(shares=per_layer, even=on_image / seen, spans=spans)


def _read_after_prefix(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
    """The prompt up to its last token as the engine reads it, then the answer with weights."""
    job = lm.jobs_of([request])[0]
    ready, bad = lm.scheduler.encode([job])
    if bad:
        raise InputError(f"{_name_of(request)}: {bad[0][1].error}")
    # The end of an image must be read together with its beginning.
    split = len(job.ids) - 1
    if job.ids[split] in lm.layout.image_ids:
        return _read_in_one_pass(lm, request, ids)
    prefix = lm.scheduler.prefill(ready, [split])
    with _recorded_attention(lm, job.ids, len(ids), request, windows=True) as layers:
        lm.runner.fork(prefix, [0], [[job.ids[-1], *ids[:-1]]], 0)
    return list(job.ids), _stack(layers, lm)


def _read_in_one_pass(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
    """Prompt and answer together, for families whose prompt can't be read by itself."""
    import torch

    context, _, shown = request.args
    inputs = dict(lm.processor_inputs(context, shown["visual"]))
    prompt = [int(token) for token in inputs["input_ids"][0]]
    length = len(prompt)
    more = torch.tensor([ids[:-1]], device=inputs["input_ids"].device, dtype=inputs["input_ids"].dtype)
    for name, part in inputs.items():
        if isinstance(part, torch.Tensor) and part.shape == (1, length):  # what is said of each position
            fill = {
                "input_ids": more,
                "attention_mask": torch.ones_like(more),
                "image_patches_indices": torch.full_like(more, -1),
            }
            if lm.runner.both_ways:  # only its prompt is read in both directions
                fill["token_type_ids"] = torch.ones_like(more)
            inputs[name] = torch.cat([part, fill.get(name, torch.zeros_like(more)).to(part)], 1)
    with _recorded_attention(lm, prompt, len(ids), request) as layers:
        lm.hf(**inputs, use_cache=False)
    return prompt, _stack(layers, lm)


def _stack(layers: "Mapping[str, torch.Tensor]", lm: Any) -> Array:
    if not layers:
        raise InputError(
            f"{lm.hf.config.model_type}: gives no attention weights; its attention to images can't be read"
        )
    import torch

    return torch.stack(list(layers.values())).double().cpu().numpy()


@contextmanager
def _recorded_attention(
    lm: Any, prompt: Sequence[int], answer: int, request: Any, windows: bool = False
) -> "Iterator[dict[str, torch.Tensor]]":
    """Inside, attention is computed with its weights; the dict gets each layer's attention to the image [tokens].

    `windows`: there may be layers whose cache holds the last positions only.
    """
    import torch

    from harness.engine.families import INTERLEAVED

    fill = lm.layout.image_ids
    image = [at for at, token in enumerate(prompt) if token in fill]
    if not image or lm.hf.config.model_type in INTERLEAVED:  # these attend to images by cross-attention
        raise InputError(
            f"{_name_of(request)}: {lm.hf.config.model_type} holds no image among its positions; "
            "there is no share of it"
        )
    total = len(prompt) + answer - 1
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, output: Any) -> None:
        weights = next((part for part in output[1:] if isinstance(part, torch.Tensor) and part.ndim == 4), None)
        if weights is None or weights.shape[0] != 1 or weights.shape[-2] < answer:
            return
        gone = total - weights.shape[-1]
        # Vision towers and Q-Formers attend over something else, and are left out by its length.
        if gone == 0 or (windows and gone > 0):
            at = torch.tensor(
                [place - gone for place in image if place >= gone], dtype=torch.long, device=weights.device
            )
            found[name] = weights[0, :, -answer:].index_select(-1, at).float().sum(-1).mean(0)

    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: keep(name, output) if isinstance(output, tuple) else None
        )
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
    """Inside, attention gives its weights: fused kernels never have them."""
    from transformers import PreTrainedModel

    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    # The outermost comes first: to set it sets those inside it too.
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
    """Let a SharedImageLM answer the first `limit` documents, and measure its attention to the images meanwhile.
    InputError, DataError.

    `name` is what tables call the model; `answers` gives texts by document id to be read instead of the model's own
    (another model's, so that both are measured on the same words).
    """
    requests = _requests(task, lm, limit, data)
    if answers is None:
        texts: list[str] = lm.generate_until(requests, disable_tqdm=True)
    else:
        missing = [id for id in map(_id, requests) if id not in answers]
        if missing:
            raise InputError(f"{task.name}: no answer to document {missing[0]!r} among the {len(answers)} given")
        texts = [answers[_id(request)] for request in requests]
    records: list[dict[str, Any]] = []
    layers, empty, failed, words = 0, 0, [], False
    for number, (request, text) in enumerate(zip(requests, texts, strict=True), 1):
        if isinstance(text, FailedAnswer):
            failed.append(text.error)
        elif not (shares := shares_of(lm, request, text)).spans:
            empty += 1
        else:
            mentioned = words_of_task(task.name, request.doc, text)
            words, layers = mentioned is not None, len(shares.shares)
            records.append(record(_id(request), _image(request), text, shares, mentioned or []))
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
        words=words,
        failures=tuple(dict.fromkeys(failed)),
    )


def _requests(task: TaskSpec, lm: Any, limit: int, data: Mapping[str, str] | None) -> list[Any]:
    """A task's requests as `harness eval` makes them."""
    loaded = load_tasks([task], data=data, partial_data=True)[task.name]
    if loaded.get_config("num_fewshot") is None:
        loaded.set_config(key="num_fewshot", value=0)
    loaded.set_fewshot_seed(seed=0)
    loaded.build_all_requests(
        limit=limit, apply_chat_template=True, chat_template=lm.apply_chat_template, tokenizer_name=lm.tokenizer_name
    )
    found: list[Any] = loaded.instances
    if blind := next((request for request in found if len(request.args) < 3 or not request.args[2]["visual"]), None):
        raise InputError(f"{task.name}: document {_id(blind)!r} has no image")
    return found


def _id(request: Any) -> str:
    return str(request.doc.get("id", request.doc_id))


def _image(request: Any) -> str:
    """Answers about the same image depend on each other."""
    doc = request.doc
    return next((value for name in ("scene", "image") if isinstance(value := doc.get(name), str)), _id(request))


def record(id: str, image: str, answer: str, shares: Shares, words: Sequence[Word]) -> dict[str, Any]:
    """One answer's numbers: by kind how many there are, sums of share and relative share over them, and sums by
    layer."""
    tokens, relative = shares.shares.mean(axis=0), shares.shares.mean(axis=0) / shares.even
    columns: dict[Kind, list[list[int]]] = {
        "tokens": [[at] for at in range(len(tokens))],
        "grounded": [],
        "hallucinated": [],
    }
    named = []
    for word in words:
        own = [at for at, (start, end) in enumerate(shares.spans) if min(end, word.end) > max(start, word.start)]
        if own:
            columns["grounded" if word.grounded else "hallucinated"].append(own)
            named.append(
                {"name": word.name, "grounded": word.grounded, "tokens": own, "share": float(tokens[own].mean())}
            )
    found: dict[str, Any] = {
        "id": id,
        "image": image,
        "answer": answer,
        "shares": [round(float(part), 6) for part in tokens],
        "words": named,
    }
    for kind, members in columns.items():
        found[kind] = len(members)
        found[f"{kind} share"] = float(sum(tokens[own].mean() for own in members))
        found[f"{kind} relative"] = float(sum(relative[own].mean() for own in members))
        found[f"{kind} by layer"] = [
            float(part)
            for part in sum((shares.shares[:, own].mean(1) for own in members), np.zeros(len(shares.shares)))
        ]
    return found
