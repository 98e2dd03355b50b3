"""How much of its attention a model gives to the image while it writes: POVID's analysis (arXiv 2402.11411, section 4)
made a number.

    base = attention_share(load(find("llava-1.5-7b")), registry().task("scenes_chair"), 100)
    tuned = attention_share(load(find("runs/povid/checkpoint-200")), registry().task("scenes_chair"), 100)
    print(write(Path("runs/attention"), base, tuned))           # the table; beside it attention.md, .png, .svg and .jsonl

For each token of an answer: the mean over layers and heads of the attention that the position which predicts it gives
to positions that hold the image. `relative` is the same divided by the image's part of what could be seen (image
positions / positions): 1 is what even attention would give, whatever the lengths. In captions, words that name an
object are told apart, by CHAIR's rule, into those that are there and those that are not. A word's share is the mean
over its tokens. Words that are not there tend to stand late in a caption, where there is more text to look at: compare
`relative` too.

The prompt is read as the engine reads it, its keys kept; only the answer, all of it in one pass, is read with attention
weights, and of those only sums over image positions outlive their layer: memory is that of one layer's heads x answer x
context.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.generate import load_tasks
from leaderboards.statistics.verdict import Pair, PairedTest, interval, panel
from support.errors import InputError
from support.files import atomic_write_text
from support.markdown import MISSING, cell, table
from tasks.answer import FailedAnswer
from tasks.benchmarks import chair, english
from tasks.metric import Metric
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
    """What one answer's tokens looked at."""

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
    """Whether the task tells objects that are there from those that are not."""
    failures: tuple[str, ...] = field(default=())
    """Why answers failed, each reason once."""


# -- words
# -------------------------------------------------------------------------------------------------------------------------------


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
# --------------------------------------------------------------------------------------------------------------------------


def shares_of(lm: Any, request: Any, answer: str) -> Shares:
    """What a SharedImageLM's model looks at while it writes `answer` to a request of one or more images.
    InputError.

    The answer is tokenised by itself, as after the end of a prompt; an answer without a token has no shares.
    """
    import torch

    read = lm.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = [int(token) for token in read["input_ids"]]
    spans = tuple((int(start), int(end)) for start, end in read["offset_mapping"])
    if not ids:
        return Shares(shares=np.zeros((0, 0)), even=np.zeros(0), spans=())
    with torch.inference_mode():
        prompt, per_layer = _after_prefix(lm, request, ids) if _keeps_prefix(lm) else _in_one_pass(lm, request, ids)
    on_image = sum(token in lm.layout.image_ids for token in prompt)
    seen = len(prompt) + np.arange(len(ids), dtype=np.float64)
    return Shares(shares=per_layer, even=on_image / seen, spans=spans)


def _keeps_prefix(lm: Any) -> bool:
    return lm.sharing.shares_images and lm.runner.why_no_prefix() is None


def _after_prefix(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
    """The prompt up to its last token as the engine reads it, then the answer with weights."""
    job = lm.jobs_of([request])[0]
    ready, bad = lm.scheduler.encode([job])
    if bad:
        raise InputError(f"{_named(request)}: {bad[0][1].error}")
    # The end of an image must be read together with its beginning.
    split = len(job.ids) - 1
    if job.ids[split] in lm.layout.image_ids:
        return _in_one_pass(lm, request, ids)
    prefix = lm.scheduler.prefill(ready, [split])
    with _watched(lm, job.ids, len(ids), request, windows=True) as layers:
        lm.runner.fork(prefix, [0], [[job.ids[-1], *ids[:-1]]], 0)
    return list(job.ids), _stacked(layers, lm)


def _in_one_pass(lm: Any, request: Any, ids: list[int]) -> tuple[list[int], Array]:
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
    with _watched(lm, prompt, len(ids), request) as layers:
        lm.hf(**inputs, use_cache=False)
    return prompt, _stacked(layers, lm)


def _stacked(layers: "Mapping[str, torch.Tensor]", lm: Any) -> Array:
    if not layers:
        raise InputError(
            f"{lm.hf.config.model_type}: gives no attention weights; its attention to images can't be read"
        )
    import torch

    return torch.stack(list(layers.values())).double().cpu().numpy()


@contextmanager
def _watched(
    lm: Any, prompt: Sequence[int], answer: int, request: Any, windows: bool = False
) -> "Iterator[dict[str, torch.Tensor]]":
    """Inside, attention is computed with its weights, and what each layer gives to the image [tokens] is put into the
    dict.

    With `windows` there may be layers whose cache holds the last positions only.
    """
    import torch

    from harness.engine.families import INTERLEAVED

    fill = lm.layout.image_ids
    image = [at for at, token in enumerate(prompt) if token in fill]
    if not image or lm.hf.config.model_type in INTERLEAVED:  # these look at images by cross-attention
        raise InputError(
            f"{_named(request)}: {lm.hf.config.model_type} holds no image among its positions; there is no share of it"
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
        with _eager(lm.hf):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager(model: Any) -> Iterator[None]:
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


def _named(request: Any) -> str:
    return f"{request.task_name or 'request'} {request.doc.get('id', request.doc_id)}"


# -- a task
# ------------------------------------------------------------------------------------------------------------------------------


def attention_share(
    lm: Any,
    task: TaskSpec,
    limit: int,
    *,
    name: str = "",
    data: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
    progress: Any = None,
) -> Attention:
    """Have a SharedImageLM answer the first `limit` documents, and read what it looks at while it does. InputError,
    DataError.

    `name` is what tables call the model; `answers` gives texts by document id to be read instead of the model's own
    (another model's, so that both are read on the same words); `progress` hears (answers read, answers).
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
        if progress is not None:
            progress(number, len(requests))
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
    """A task's requests as `harness eval` asks them."""
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
    """What answers hang together by."""
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


# -- numbers
# -----------------------------------------------------------------------------------------------------------------------------


def _mean(kind: Kind, what: str, scale: float) -> Metric:
    return Metric(
        counts=lambda records: (sum(r[f"{kind} {what}"] for r in records), sum(r[kind] for r in records)),
        value=lambda sums: scale * sums[..., 0] / sums[..., 1],
    )


def _gap(what: str, scale: float) -> Metric:
    return Metric(
        counts=lambda records: tuple(
            sum(r[name] for r in records)
            for name in (f"grounded {what}", "grounded", f"hallucinated {what}", "hallucinated")
        ),
        value=lambda sums: scale * (sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]),
    )


METRICS: Final[Mapping[str, Metric]] = {
    "answer tokens": _mean("tokens", "share", 100),
    "words of objects there": _mean("grounded", "share", 100),
    "words of objects not there": _mean("hallucinated", "share", 100),
    "there less not there": _gap("share", 100),
    "answer tokens, relative": _mean("tokens", "relative", 1),
    "words of objects there, relative": _mean("grounded", "relative", 1),
    "words of objects not there, relative": _mean("hallucinated", "relative", 1),
    "there less not there, relative": _gap("relative", 1),
}
"""Shares in %, relative ones in times what even attention would give."""


def metrics_of(found: Attention) -> dict[str, Metric]:
    """Those of `METRICS` that the task has something to say about."""
    return {name: metric for name, metric in METRICS.items() if found.words or name.startswith("answer")}


def compared(base: Attention, tuned: Attention) -> dict[str, PairedTest]:
    """`tuned` against `base` over the images both have, judged together (Holm); a higher share is not by itself better.
    InputError."""
    if base.task != tuned.task:
        raise InputError(f"{base.model} was read on {base.task}, {tuned.model} on {tuned.task}: nothing to compare")
    ours, theirs = ({one["id"] for one in found.records} for found in (base, tuned))
    if not (both := ours & theirs):
        raise InputError(f"{base.task}: no document was read of both {base.model} and {tuned.model}")
    before, after = ([one for one in found.records if one["id"] in both] for found in (base, tuned))
    return panel(
        {name: Pair(before, after, metric, higher_is_better=True) for name, metric in metrics_of(base).items()}
    )


def by_layer(found: Attention, kind: Kind) -> Array | None:
    """Mean share of a kind in each layer [layers], 0 to 1; None where there is none of that kind."""
    count = sum(one[kind] for one in found.records)
    return np.sum([one[f"{kind} by layer"] for one in found.records], axis=0) / count if count else None


# -- for people
# --------------------------------------------------------------------------------------------------------------------------


def render(base: Attention, tuned: Attention | None = None) -> str:
    """Markdown: each metric with its 95% interval, and the difference where there are two models."""
    verdicts = compared(base, tuned) if tuned is not None else {}
    header = ["attention on the image", "unit", cell(base.model)]
    header += [cell(tuned.model), "difference", "p", ""] if tuned is not None else []
    rows = []
    for name, metric in metrics_of(base).items():
        unit = "x even" if name.endswith("relative") else "%"
        row = [name, unit, _with_interval(base, metric)]
        if tuned is not None:
            row += [_with_interval(tuned, metric), *_difference(verdicts[name])]
        rows.append(row)
    notes = [_counted(found) for found in (base, tuned) if found is not None]
    return f"{table(header, rows)}\n\n" + "\n".join(notes)


def _with_interval(found: Attention, metric: Metric) -> str:
    value = metric(found.records)
    if not np.isfinite(value):
        return MISSING
    low, high = interval(found.records, metric)
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _difference(verdict: PairedTest) -> list[str]:
    if verdict.difference is None:
        return [MISSING, "", ""]
    ends = "" if verdict.low is None or verdict.high is None else f" [{verdict.low:+.2f}, {verdict.high:+.2f}]"
    outcome = {"better": "more", "worse": "less"}.get(verdict.outcome, verdict.outcome)
    return [f"{verdict.difference:+.2f}{ends}", f"{verdict.p:.3f}", outcome]


def _counted(found: Attention) -> str:
    counts = {kind: sum(one[kind] for one in found.records) for kind in KINDS}
    words = (
        f", {counts['grounded']} words of objects there, {counts['hallucinated']} of objects not there"
        if found.words
        else ""
    )
    why = f" ({cell('; '.join(found.failures[:3]))})" if found.failures else ""
    lost = f"; {found.failed} answers failed{why}, {found.empty} were empty" if found.failed + found.empty else ""
    return f"{cell(found.model)}: {len(found.records)} answers, {counts['tokens']} tokens{words}, {found.layers} layers{lost}."


COLOURS: Final[Mapping[Kind, str]] = {"tokens": "#4a4a4a", "grounded": "#1b7f5c", "hallucinated": "#c0392b"}
LABELS: Final[Mapping[Kind, str]] = {
    "tokens": "answer tokens",
    "grounded": "objects there",
    "hallucinated": "objects not there",
}


def _short(model: str) -> str:
    """A name for a plot: of a path its end."""
    return "/".join(Path(model).parts[-2:])


def plot(base: Attention, tuned: Attention | None, path: Path) -> None:
    """A PNG or SVG, by the path's suffix: share by layer, and the means with their 95% intervals. InputError for
    another suffix."""
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"{path}: the plot is written as .png or .svg")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = [found for found in (base, tuned) if found is not None]
    figure, (curves, means) = plt.subplots(1, 2, figsize=(9.6, 3.8), width_ratios=(3, 2), layout="constrained")
    kinds = [kind for kind in KINDS if kind == "tokens" or base.words]
    for index, found in enumerate(models):
        filled = index == len(models) - 1
        for kind in kinds:
            line = by_layer(found, kind)
            if line is None:
                continue
            style = "-" if filled else "--"
            curves.plot(
                range(1, len(line) + 1),
                100 * line,
                style,
                color=COLOURS[kind],
                marker="o",
                markersize=3,
                label=f"{LABELS[kind]}, {_short(found.model)}",
            )
            metric = _mean(kind, "share", 100)
            value, (low, high) = metric(found.records), interval(found.records, metric)
            at = kinds.index(kind) + 0.3 * (index - (len(models) - 1) / 2)
            ends = None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
            face = COLOURS[kind] if filled else "white"
            means.errorbar(at, value, yerr=ends, fmt="o", color=COLOURS[kind], markerfacecolor=face, capsize=4)
    curves.set_xlabel("layer")
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.set_ylabel("attention on the image, %")
    curves.set_ylim(bottom=0)
    curves.legend(fontsize=7, handlelength=4)
    means.set_xticks(range(len(kinds)), [LABELS[kind] for kind in kinds], fontsize=8)
    means.set_xlim(-0.6, len(kinds) - 0.4)
    means.set_ylim(bottom=0)
    means.set_title(
        "mean over layers, 95% interval"
        + (f"\nhollow {_short(base.model)}, filled {_short(models[-1].model)}" if tuned else ""),
        fontsize=8,
    )
    for axis in (curves, means):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(
        temporary,
        format=path.suffix[1:],
        dpi=130,
        metadata={"Software": None} if path.suffix == ".png" else {"Date": None},
    )
    plt.close(figure)
    temporary.replace(path)


def write(out: Path, base: Attention, tuned: Attention | None = None) -> str:
    """The table, written with its plot and with every answer it was computed from (attention.md, .png, .svg,
    .jsonl)."""
    text = render(base, tuned)
    models = [found for found in (base, tuned) if found is not None]
    lines = [
        json.dumps({"model": found.model, "task": found.task, **one}, ensure_ascii=False)
        for found in models
        for one in found.records
    ]
    atomic_write_text(out / "attention.jsonl", "".join(f"{line}\n" for line in lines))
    for suffix in ("png", "svg"):
        plot(base, tuned, out / f"attention.{suffix}")
    atomic_write_text(
        out / "attention.md", f"# Attention on images: {cell(base.task)}\n\n{text}\n\n![by layer](attention.png)\n"
    )
    return text
