"""An lm-eval LM for Hugging Face vision-language models that does what several questions about one image share only
once.

    lm = SharedImageLM("llava-hf/llava-1.5-7b-hf", EngineConfig(batch_size="auto"))
    lm.generate_until(requests)
    lm.sharing()         # "image, features, prefix"

All requests of a run, whatever task they come from, are planned by image: the same question about the same image is
answered once, an image is decoded and encoded once, and the keys and values of a prompt up to the end of its images are
computed once and forked over the questions that follow. Families that allow less go the next way down, each further
than the last:

    prefix      features of an image once, beginnings of prompts once
    features    features of an image once
    answers     every question by itself, through lm-eval's own code; the same question once

The first questions of a run are also asked plainly, and where the logits differ by more than rounding, the next way is
taken. `exact=True` shares nothing and asks one question at a time.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER, HFMultimodalLM
from lm_eval.models.utils import handle_stop_sequences, replace_placeholders
from lm_eval.models.utils_hf import stop_sequences_criteria
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, StoppingCriteriaList

from harness.engine import work_sharing
from harness.engine.config import SHARES_NOTHING, EngineConfig, Level
from harness.engine.families import BY_ITSELF, INTERLEAVED, TOGETHER, VERIFIED
from harness.engine.image_encoder import BadImage, Encoded, ImageEncoder, image_digest, problem
from harness.engine.jobs import IMAGE_WEIGHT, Hints, Job, image_areas, is_kept, unreadable_size
from harness.engine.prefix_cache import Runner, State
from harness.engine.stage_timer import StageTimer
from support.errors import ModelError
from support.processes import as_single_process, rank, world_size
from support.progress import report
from tasks.answer import Answer, FailedAnswer

if TYPE_CHECKING:
    from harness.engine.response_cache import ModelCache


TaskHints: TypeAlias = Mapping[str, Hints] | Callable[[Instance], Hints]
"""What tasks let the engine do, by task's name or by request."""

TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How far logits of the shared and the plain way may be apart, in standard deviations of the plain ones."""
COARSE: Final = 0.25
"""The same in half precision."""

AUTO: Final = 64
"""Questions decoded at once to begin with where batch_size is "auto"; halved when memory runs out."""

BATCH_SIZE: Final = 8
"""Questions decoded at once where nothing else is said."""

SUPPORTED_SETTINGS: Final = frozenset(
    {"until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty"}
)
"""Settings our own greedy decoding knows, or that mean nothing to it."""

NO_OP_SETTINGS: Final = {
    "num_beams": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None, {}),
    "guidance_scale": (None, 1, 1.0),
    "prompt_lookup_num_tokens": (None,),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
}
"""Generation settings our own decoding does without, and the values that mean so."""


class BadPrompt(ValueError):
    """A prompt that can't be laid out with its images; the message says why."""


class WholeModel(AutoModelForImageTextToText):
    """Loads no model of which weights are missing: transformers makes them up, and only logs that."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As AutoModelForImageTextToText's; ModelError names the first weight that isn't there."""
        quantization = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith(("load_in_", "bnb_4bit_"))}
        if quantization:
            kwargs["quantization_config"] = BitsAndBytesConfig(**quantization)
        model, found = AutoModelForImageTextToText.from_pretrained(*args, output_loading_info=True, **kwargs)
        for what in ("missing_keys", "mismatched_keys"):
            if names := sorted(map(str, found.get(what) or ())):
                raise ModelError(
                    f"{args[0]}: {what.replace('_keys', '')} weights: {names[0]}"
                    + f" and {len(names) - 1} more" * (len(names) > 1)
                )
        return model


class SharedImageLM(HFMultimodalLM):
    """See the module's docstring.

    `hints` says by task, or by request, what may be left out; `cache` keeps answers over runs; `identity` says what the
    weights are, for features kept on disk; `stage` is what progress is reported as. All other arguments are those of
    lm-eval's HFMultimodalLM, and of transformers' loading.
    """

    AUTO_MODEL_CLASS = WholeModel

    def __init__(
        self,
        pretrained: str,
        engine: EngineConfig | None = None,
        *,
        hints: TaskHints | None = None,
        cache: "ModelCache | None" = None,
        identity: str | None = None,
        stage: str = "answers",
        **lm_eval: Any,
    ) -> None:
        engine = engine or EngineConfig()
        self.auto = engine.batch_size == "auto"
        config = AutoConfig.from_pretrained(pretrained, revision=lm_eval.get("revision") or "main")
        engine.check_overrides(pretrained, config)
        lm_eval |= engine.loading_arguments()
        if config.model_type in INTERLEAVED:
            lm_eval.setdefault("image_string", DEFAULT_IMAGE_PLACEHOLDER)  # it has no token that stands for an image
        with as_single_process():  # lm-eval would share out questions, not images
            batch_size = AUTO if engine.batch_size == "auto" else int(engine.batch_size or BATCH_SIZE)
            super().__init__(pretrained, batch_size=batch_size, **lm_eval)
        self.model.eval()
        self.hf: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        """The model itself, adapters inside it."""
        if engine.compile:
            self.hf.forward = torch.compile(self.hf.forward, dynamic=True)
        self.stage, self.exact, self.suffix = stage, engine.exact, engine.suffix or ""
        self.max_new_tokens = engine.max_new_tokens
        self.hints: TaskHints = hints or {}
        self.store = cache
        """Where answers are kept over runs; None: nowhere."""
        self.clock = StageTimer()
        self.counts: defaultdict[str, int] = defaultdict(int)
        """asked, answered, from the store, cut."""
        workers = engine.workers
        if workers is None:
            workers = min(8, max(0, torch.get_num_threads() - 1)) if self.device.type == "cuda" else 0
        self.encoder = ImageEncoder(
            self.hf,
            self.processor,
            self.device,
            clock=self.clock,
            workers=workers,
            max_bytes=engine.kept_bytes,
            folder=engine.features,
            name=identity or str(pretrained),
        )
        self.runner = Runner(self.hf, pad=self.tokenizer.pad_token_id or 0, device=self.device)
        self.level: Level = engine.share
        self.why: list[str] = []
        """Why less is shared than could be."""
        if (reason := self.encoder.why_not()) is not None:
            self._less("answers", reason)
        elif (reason := self.runner.why_no_prefix()) is not None:
            self._less("features", reason)
        self.checked = engine.exact
        self._choice_tokens: dict[str, list[int]] = {}
        self._fillings: dict[str, list[int]] = {}

    # -- what people ask of it
    # -------------------------------------------------------------------------------------------------------------

    @property
    def images_encoded(self) -> int:
        """Images that went through the model's vision encoder."""
        return self.encoder.encoded

    @property
    def shares_images(self) -> bool:
        """Whether an image's features are computed once."""
        return not self.exact and self.level != "answers"

    def sharing(self) -> str:
        """What questions share, and why no more."""
        if self.exact:
            return SHARES_NOTHING
        shared = {
            "prefix": "answers, image features, prefix",
            "features": "answers, image features",
            "answers": "answers",
        }[self.level]
        return f"{shared} ({'; '.join(self.why)})" if self.why else shared

    def provenance(self) -> dict[str, str]:
        """For entries: what was shared, how answers were computed."""
        kind = (
            type(self.processor.image_processor).__name__
            if hasattr(self.processor, "image_processor")
            else type(self.processor).__name__
        )
        found = {"shared": self.sharing(), "image processor": kind, "dtype": str(self.hf.dtype).removeprefix("torch.")}
        return found | ({"prompt suffix": self.suffix} if self.suffix else {})

    def forget(self) -> None:
        """Drop what is held of images."""
        self.encoder.forget()

    def tokens(self, context: str, images: Sequence[Image]) -> list[int]:
        """A prompt's ids, image positions and all."""
        if self.shares_images:
            encoded = self.encoder.encode([(image_digest(image), image) for image in images])
            return self._ids(context, [image for image in encoded if isinstance(image, Encoded)])
        return [int(token) for token in self._processed(context, images)["input_ids"][0]]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The checkpoint's own template, images first; the plain text where it has none."""
        if self.suffix and chat_history and chat_history[-1]["role"] == "user":
            last = chat_history[-1]
            chat_history = [*chat_history[:-1], last | {"content": last["content"] + self.suffix}]
        if (
            getattr(self.processor, "chat_template", None) is None
            and getattr(self.tokenizer, "chat_template", None) is None
        ):
            return "\n".join(turn["content"] for turn in chat_history)
        applied: str = super().apply_chat_template(copy.deepcopy(chat_history), add_generation_prompt)
        return applied

    # -- planning
    # --------------------------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where an image could not be read."""
        blind = [index for index, request in enumerate(requests) if len(request.args) < 3]
        if blind:  # tasks of text alone, which lm-eval hands over together with the others
            answers = dict(
                zip(blind, super().generate_until([requests[index] for index in blind], disable_tqdm), strict=True)
            )
            seeing = [index for index in range(len(requests)) if index not in answers]
            answers |= zip(
                seeing,
                self.generate_until([requests[index] for index in seeing], disable_tqdm) if seeing else [],
                strict=True,
            )
            return [answers[index] for index in range(len(requests))]
        results: list[str | None] = [None] * len(requests)
        self.counts["asked"] += len(requests)
        jobs = self._jobs(requests)
        if world_size() > 1:
            for index, text in self._with_others(jobs):
                for place in jobs[index].requests:
                    results[place] = text
            return [result if result is not None else FailedAnswer("not answered") for result in results]

        done = 0
        for job, text in self._all_answers(jobs):
            for index in job.requests:
                results[index] = text
            done += len(job.requests)
            if not disable_tqdm:
                report(self.stage, done, len(requests))
        return [result if result is not None else FailedAnswer("not answered") for result in results]

    def _all_answers(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Answers that are kept from earlier runs, then the model's, which are kept as they come."""
        left = []
        for job in jobs:
            stored = self.store.get(self._key(job)) if self.store is not None and is_kept(job) else None
            if stored is None:
                left.append(job)
            else:
                self.counts["from the store"] += len(job.requests)
                yield job, stored
        for job, text in self._answers(left):
            self.counts["answered"] += 1
            if self.store is not None and is_kept(job) and not isinstance(text, FailedAnswer):
                self.store.put(self._key(job), text, task=job.task)
            yield job, text

    def _with_others(self, jobs: Sequence[Job]) -> Iterator[tuple[int, str]]:
        """This process's share answered, and everyone's answers by the job's number; Relieved in all processes but the
        first."""
        weights: defaultdict[Hashable, int] = defaultdict(lambda: IMAGE_WEIGHT)
        for job in jobs:
            weights[job.digests] += 1
        whose = work_sharing.shares(weights, world_size())
        numbers = {id(job): number for number, job in enumerate(jobs)}
        mine = [job for job in jobs if whose[job.digests] == rank()]
        answered = []
        for done, (job, text) in enumerate(self._all_answers(mine), 1):
            answered.append((numbers[id(job)], text))
            if rank() == 0:
                report(self.stage, done, len(mine))
        own = dict(self.counts)
        for others, counts in work_sharing.gathered([(answered, own)]):
            yield from others
            if counts is not own:
                for name, count in counts.items():
                    self.counts[name] += count if name != "asked" else 0

    def _jobs(self, requests: Sequence[Instance]) -> list[Job]:
        """The distinct questions."""
        jobs: dict[object, Job] = {}
        known: dict[int, str] = {}  # of this very object, which many requests may hold

        def digest_of(image: Image) -> str:
            if id(image) not in known:
                known[id(image)] = image_digest(image)
            return known[id(image)]

        for index, request in enumerate(requests):
            context, settings, visual = request.args[0], request.args[1], request.args[2]["visual"]
            images = list(visual)[: self.max_images]
            hints = self.hints(request) if callable(self.hints) else self.hints.get(request.task_name or "", Hints())
            try:
                digests = tuple(digest_of(image) for image in images)
            except (OSError, SyntaxError, ValueError):  # broken beyond a digest: no other question is about it
                digests = tuple(f"unreadable {index}.{at}" for at in range(len(images)))
            sampled = index if settings.get("do_sample") else None
            key = index if self.exact else (context, digests, repr(sorted(settings.items())), hints, sampled)
            job = jobs.setdefault(key, Job(context, images, digests, settings, hints, request.task_name or "", []))
            job.requests.append(index)
        return list(jobs.values())

    def _key(self, job: Job) -> dict[str, Any]:
        """What an answer depends on beside the model."""
        settings = dict(sorted(job.settings.items()))
        key = {
            "prompt": job.context,
            "images": list(job.digests),
            "settings": settings,
            "new tokens": self._new_tokens(job),
        }
        return key | {
            "rule": job.hints.rule if job.hints.decided is not None else "",
            "choices": list(job.hints.choices),
        }

    def _answers(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Answers, as they come."""
        together = [job for job in jobs if not self._apart(job)]
        jobs = [job for job in jobs if self._apart(job)]
        sampled = [job for job in jobs if not self._decodes(job)]
        ours = [job for job in jobs if self._decodes(job)]
        yield from self._plain_answers(together)
        if not self.checked and ours and not self.exact:
            self._check(ours)
        if not self.shares_images:
            yield from self._plain_answers(jobs)
            return
        yield from self._planned(ours)
        groups: dict[str, list[Job]] = defaultdict(list)
        for job in sampled:
            groups[repr((bool(job.images), sorted(job.settings.items())))].append(job)
        for group in groups.values():
            group.sort(key=lambda job: (len(job.context), job.digests))
            for start in range(0, len(group), self.batch_size):
                yield from self._with_hf(group[start : start + self.batch_size])

    def _apart(self, job: Job) -> bool:
        """Whether its images may be processed one by one: some families cut several images into tiles otherwise than
        one."""
        return len(job.images) < 2 or self.hf.config.model_type not in TOGETHER

    def _decodes(self, job: Job) -> bool:
        """Whether our own greedy decoding does all that is asked for."""
        if job.settings.get("do_sample"):
            return False
        asked = {name: value for name, value in job.settings.items() if name not in SUPPORTED_SETTINGS}
        config = self.hf.generation_config
        given = {name: asked.get(name, getattr(config, name, None)) for name in NO_OP_SETTINGS}
        return not (asked.keys() - NO_OP_SETTINGS.keys()) and all(
            given[name] in neutral for name, neutral in NO_OP_SETTINGS.items()
        )

    def _planned(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """By image: images of like size together, so that batches have like lengths, each image's questions
        together."""
        by_image: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for job in jobs:
            by_image[job.digests].append(job)
        bad = {digests: why for digests, group in by_image.items() if (why := unreadable_size(group[0].images))}
        for digests, why in bad.items():
            yield from ((job, FailedAnswer(why)) for job in by_image.pop(digests))
        groups = sorted(by_image.values(), key=lambda group: image_areas(group[0].images))
        self.encoder.ahead([named for group in groups for named in zip(group[0].digests, group[0].images, strict=True)])
        wave: list[Job] = []
        for group in groups:
            if wave and len(wave) + len(group) > self.batch_size:
                yield from self._wave(wave)
                wave = []
            wave += group
        if wave:
            yield from self._wave(wave)

    def _wave(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Jobs whose beginnings are computed together; where memory runs out, half as many at a time from here on."""
        answered: set[int] = set()
        try:
            for job, text in self._together(jobs):
                answered.add(id(job))
                yield job, text
        except torch.OutOfMemoryError:
            if not self.auto or self.batch_size <= 1:
                raise
        else:
            return
        torch.cuda.empty_cache()
        self.batch_size_per_gpu = max(1, self.batch_size // 2)
        self.counts["out of memory"] += 1
        left, size = (
            [job for job in jobs if id(job) not in answered],
            self.batch_size,
        )  # which may shrink again meanwhile
        for start in range(0, len(left), size):
            yield from self._wave(left[start : start + size])

    @torch.inference_mode()
    def _together(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        ready, bad = self._encoded(jobs)
        yield from bad
        try:
            for state, rows in self._states(ready):
                yield from self._decode(state, rows)
        finally:
            for job in jobs:  # jobs live as long as the run: their features must not
                job.encoded, job.ids, job.types = [], [], None

    def _encoded(self, jobs: list[Job]) -> tuple[list[Job], list[tuple[Job, str]]]:
        """Jobs with their ids and images, and answers to those whose images can't be shown."""
        by_image = {job.digests: job.images for job in jobs}
        named = [pair for digests, images in by_image.items() for pair in zip(digests, images, strict=True)]
        features = iter(self.encoder.encode(named))
        found = {digests: [next(features) for _ in digests] for digests in by_image}
        ready: list[Job] = []
        bad: list[tuple[Job, str]] = []
        for job in jobs:
            broken = next((image for image in found[job.digests] if isinstance(image, BadImage)), None)
            if broken is not None:
                bad.append((job, FailedAnswer(str(broken))))
                continue
            job.encoded = [image for image in found[job.digests] if isinstance(image, Encoded)]
            try:
                job.ids = self._ids(job.context, job.encoded)
            except BadPrompt as error:
                bad.append((job, FailedAnswer(str(error))))
                continue
            job.types = (
                self.processor.create_mm_token_type_ids([job.ids])[0]
                if self.processor.return_mm_token_type_ids
                else None
            )
            ready.append(job)
        return ready, bad

    def _states(self, jobs: list[Job]) -> Iterator[tuple[State, list[Job]]]:
        """Batches at the point where their answers begin."""
        beginnings = self._beginnings(jobs) if self.level == "prefix" else [[job] for job in jobs]
        alone = sorted((group[0] for group in beginnings if len(group) == 1), key=lambda job: len(job.ids))
        stretched = [job for job in alone if self._stretches(job)]
        for job in stretched:  # its positions depend on its length: no other row beside it
            with self.clock("prefill"):
                state = self.runner.alone(self._prefill([job], [len(job.ids)]), self._room([job]))
            yield state, [job]
        alone = [job for job in alone if not self._stretches(job)]
        shared = [group for group in beginnings if len(group) > 1]
        # A batch has images for all of its rows or for none.
        for some in ([job for job in alone if job.images], [job for job in alone if not job.images]):
            for start in range(0, len(some), self.batch_size):
                batch = some[start : start + self.batch_size]
                with self.clock("prefill"):
                    state = self.runner.alone(self._prefill(batch, [len(job.ids) for job in batch]), self._room(batch))
                yield state, batch
        for groups in (
            [group for group in shared if group[0].images],
            [group for group in shared if not group[0].images],
        ):
            if not groups:
                continue
            with self.clock("prefill"):
                prefix = self._prefill([group[0] for group in groups], [group[0].beginning for group in groups])
            rows = [(which, job) for which, group in enumerate(groups) for job in group]
            rows.sort(key=lambda row: len(row[1].ids) - row[1].beginning)
            for chunk in self._chunks(rows):
                batch = [job for _, job in chunk]
                with self.clock("prefill"):
                    suffixes = [job.ids[job.beginning :] for job in batch]
                    state = self.runner.fork(prefix, [which for which, _ in chunk], suffixes, self._room(batch))
                self.counts["prefix shared"] += len(batch)
                yield state, batch

    def _chunks(self, rows: list[tuple[int, Job]]) -> Iterator[list[tuple[int, Job]]]:
        """Batches of rows that are sorted by how much is left to read; of one length where pads in the middle would
        count."""
        together: dict[int, list[tuple[int, Job]]] = defaultdict(list)
        for row in rows:
            together[len(row[1].ids) - row[1].beginning if self.runner.windowed else 0].append(row)
        for some in together.values():
            yield from (some[start : start + self.batch_size] for start in range(0, len(some), self.batch_size))

    def _beginnings(self, jobs: list[Job]) -> list[list[Job]]:
        """Jobs that are alike up to the end of their images, and how far they are alike."""
        fill = set(self._image_ids())
        groups: dict[object, list[Job]] = defaultdict(list)
        ends: dict[object, int] = {}
        for job in jobs:
            end = next((at + 1 for at in reversed(range(len(job.ids))) if job.ids[at] in fill), 0)
            alike_to_here: object = (job.digests, tuple(job.ids[:end])) if not self._stretches(job) else id(job)
            groups[alike_to_here].append(job)
            ends[alike_to_here] = end
        for group in groups.values():
            shortest = min(len(job.ids) for job in group) - 1  # each has at least one token of its own to read
            least, most = (
                min(job.ids for job in group),
                max(job.ids for job in group),
            )  # what these two share, all between them do
            alike = next((at for at in range(shortest) if least[at] != most[at]), shortest)
            for job in group:
                job.beginning = alike
        # Beginnings of a token or two aren't worth a pass of their own, and none may end within an image.
        worth = {key: group[0].beginning >= max(MIN_SHARED_PREFIX, ends[key]) for key, group in groups.items()}
        return [part for key, group in groups.items() for part in ([group] if worth[key] else [[job] for job in group])]

    def _stretches(self, job: Job) -> bool:
        """Whether it gets longer than positions are the same for every length."""
        return self.longest is not None and len(job.ids) + self._new_tokens(job) > self.longest

    def _prefill(self, jobs: list[Job], lengths: list[int]) -> State:
        rows = [job.ids[:length] for job, length in zip(jobs, lengths, strict=True)]
        types = [job.types[:length] for job, length in zip(jobs, lengths, strict=True) if job.types is not None] or None
        return self.runner.prefill(rows, types, self.encoder.inputs([image for job in jobs for image in job.encoded]))

    def _decode(self, state: State, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Greedy answers; rows that are done leave the batch when half of it is."""
        ends = self._ends()
        choices = self._choices(state.logits, jobs)
        written: list[list[int]] = [[] for _ in jobs]
        seen = self._penalised(state.logits, jobs)
        active = list(range(len(jobs)))  # jobs of the state's rows, those that are done included until they leave
        done: set[int] = set()
        while len(done) < len(jobs):
            with self.clock("decode"):
                logits = (
                    state.logits
                    if seen is None
                    else self._penalise(state.logits, seen, [jobs[index] for index in active])
                )
                tokens = logits.argmax(-1)
                if seen is not None:
                    seen[torch.arange(len(active), device=self.device), tokens] = True
                listed = tokens.tolist()
            for row, index in enumerate(active):
                if index in done:
                    continue
                written[index].append(listed[row])
                text, over, cut = self._over(jobs[index], written[index], ends)
                if over:
                    done.add(index)
                    self.counts["cut"] += cut
                    yield jobs[index], Answer(text, cut=cut, choices=choices[index])
            if len(done) == len(jobs):
                return
            with self.clock("decode"):
                rows = [row for row, index in enumerate(active) if index not in done]
                if 2 * len(rows) <= len(active):
                    at = torch.tensor(rows, device=self.device)
                    state, tokens = self.runner.keep(state, at, self._room(jobs)), tokens[at]
                    seen = None if seen is None else seen[at]
                    active = [active[row] for row in rows]
                state = self.runner.step(state, tokens)

    def _over(self, job: Job, tokens: list[int], ends: set[int]) -> tuple[str, bool, bool]:
        """A row's text so far, whether it is at its end, and whether that is for nothing more being needed."""
        ended = tokens[-1] in ends or len(tokens) >= self._new_tokens(job)
        until = [end for end in self._until(job) if end]
        # A token at a time, a stop sequence can only come to stand in the last of them: no more than four a character,
        # bytes at worst. To decode everything at every step would take ever longer.
        latest = self.tok_decode(tokens[-1 - 4 * max(map(len, until)) :]) if until else ""
        stopped = any(end in latest for end in until)
        if not ended and not stopped and job.hints.decided is None:
            return "", False, False
        text: str = self.tok_decode(tokens)
        for end in until:
            text = text.split(end)[0]
        if ended or stopped:
            return text, True, False
        # A character that isn't whole yet is shown as a mark, and may still become another.
        decided = job.hints.decided is not None and not text.endswith("\ufffd") and job.hints.decided(text)
        return text, decided, decided

    def _choices(self, logits: Tensor, jobs: list[Job]) -> list[dict[str, float]]:
        """The first token's log-probability of each choice a task asks for."""
        if not any(job.hints.choices for job in jobs):
            return [{} for _ in jobs]
        likely = logits.log_softmax(-1)
        return [
            {
                name: float(likely[row, ids].logsumexp(-1))
                for name in job.hints.choices
                if (ids := self._first_tokens(name))
            }
            for row, job in enumerate(jobs)
        ]

    def _first_tokens(self, choice: str) -> list[int]:
        """Tokens with which an answer that is this choice may begin: in any case, with and without a space before
        it."""
        if choice not in self._choice_tokens:
            # " a" is a word, not the letter of a choice: letters are written as they are.
            words = (choice,) if len(choice) == 1 else (choice, choice.lower(), choice.upper(), choice.capitalize())
            firsts = set()
            for form in sorted({lead + word for lead in ("", " ") for word in words}):
                ids = self.tokenizer(form, add_special_tokens=False)["input_ids"]
                read = self.tok_decode(ids[:1]).strip() if ids else ""
                if read == choice or (len(choice) > 1 and read.lower() == choice.lower()):
                    firsts.add(ids[0])
            self._choice_tokens[choice] = sorted(firsts)
        return self._choice_tokens[choice]

    def _penalised(self, logits: Tensor, jobs: list[Job]) -> Tensor | None:
        """Which tokens each row has seen [rows, vocabulary], where a penalty on repeating them is asked for."""
        if all(self._penalty(job) == 1 for job in jobs):
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, job in enumerate(jobs):
            seen[row, torch.tensor([token for token in job.ids if token < logits.shape[-1]], device=self.device)] = True
        return seen

    def _penalise(self, logits: Tensor, seen: Tensor, jobs: list[Job]) -> Tensor:
        """As Keskar et al. (arXiv 1909.05858) and transformers: logits of what was seen are divided, or multiplied
        where negative."""
        penalty = torch.tensor([self._penalty(job) for job in jobs], device=self.device)[:, None]
        return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)

    # -- settings
    # --------------------------------------------------------------------------------------------------------------------------

    def _penalty(self, job: Job) -> float:
        return float(job.settings.get("repetition_penalty") or self.hf.generation_config.repetition_penalty or 1)

    def _new_tokens(self, job: Job) -> int:
        asked = job.settings.get("max_gen_toks", job.settings.get("max_new_tokens", self.max_gen_toks))
        return int(self.max_new_tokens or asked)

    def _room(self, jobs: list[Job]) -> int:
        return min(64, max(self._new_tokens(job) for job in jobs))

    def _until(self, job: Job) -> list[str]:
        asked = job.settings.get("until")
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops: list[str] = handle_stop_sequences(
            list(asked) if isinstance(asked, list) else asked, end
        )  # it appends to what it is given
        return stops

    def _ends(self) -> set[int]:
        """Tokens that end an answer."""
        named = self.hf.generation_config.eos_token_id
        return {
            token
            for token in (*(named if isinstance(named, list) else [named]), self.eot_token_id)
            if token is not None
        }

    def _image_ids(self) -> list[int]:
        known = [token for token in getattr(self.processor, "image_token_ids", ()) if token is not None]
        return [*known, *([token] if (token := getattr(self, "image_token_id", None)) is not None else [])]

    def _add_special(self, text: str) -> bool:
        """Whether the tokenizer is to add its own tokens: not where a template wrote the first of them."""
        bos = self.tokenizer.bos_token
        return not (self.chat_applied and bos is not None and text.startswith(bos))

    def _ids(self, context: str, images: list[Encoded]) -> list[int]:
        replacements = [part for image in images for part in image.replacements]
        given = self._text(context)
        # Some lay the text out, too, but only beside images: what these show doesn't matter here.
        stand_ins = {"images": [[new_image("RGB", (8, 8))] * len(images)]} if images else {}
        (text,) = self.processor.prepare_inputs_layout(text=[given], **stand_ins)[1]
        place = getattr(self.processor, "image_token", None)
        if place is not None and replacements and text.count(place) != len(replacements):
            raise BadPrompt(
                f"the prompt has {text.count(place)} places for {len(replacements)} images: its text holds {place!r}"
            )
        expanded, _ = self.processor.get_text_with_replacements([text], replacements)
        bos = self.tokenizer.bos_token
        add_special = self._add_special(text) and not (bos is not None and bos in text and bos not in given)
        ids = [int(token) for token in self.tokenizer(expanded[0], add_special_tokens=add_special)["input_ids"]]
        fill = set(self._image_ids())
        wanted = sum(token in fill for part in replacements for token in self._filling(part))
        if (there := sum(token in fill for token in ids)) != wanted:
            raise BadPrompt(
                f"the prompt has {there} image positions for {wanted} of its images: its text holds an image's tokens"
            )
        return ids

    def _filling(self, replacement: str) -> list[int]:
        """The ids of what an image's placeholder becomes."""
        if replacement not in self._fillings:
            self._fillings[replacement] = self.tokenizer(replacement, add_special_tokens=False)["input_ids"]
        return self._fillings[replacement]

    def _text(self, context: str) -> str:
        """With the model's own placeholder for images where no template wrote it."""
        if self.chat_applied:
            return context
        text: str = replace_placeholders(context, DEFAULT_IMAGE_PLACEHOLDER, self.image_token, self.max_images)
        return text

    # -- the plain ways
    # --------------------------------------------------------------------------------------------------------------------

    def _processed(self, context: str, images: Sequence[Image]) -> dict[str, Tensor]:
        """A prompt as the processor itself makes it."""
        pictures = [image.convert("RGB") for image in images]
        if self.hf.config.model_type in BY_ITSELF:  # its processor puts the images in
            text = context.replace(DEFAULT_IMAGE_PLACEHOLDER, "")
            inputs = self.processor(text=[text], return_tensors="pt", **({"images": [pictures]} if images else {}))
        elif self.hf.config.model_type in INTERLEAVED:
            parts = context.split(DEFAULT_IMAGE_PLACEHOLDER)
            mixed = [part for pair in zip_longest(parts, pictures) for part in pair if part not in (None, "")]
            inputs = self.processor(text=[mixed], return_tensors="pt")
        else:
            text = self._text(context)
            shown = {"images": [pictures]} if images else {}
            inputs = self.processor(
                text=[text], return_tensors="pt", add_special_tokens=self._add_special(text), **shown
            )
        return {
            name: part.to(self.device, self.hf.dtype if part.is_floating_point() else None)
            if isinstance(part, Tensor)
            else part
            for name, part in inputs.items()
        }

    def _plain_answers(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Each question by itself, through the processor and transformers' own generation."""
        for job in jobs:
            why = next((wrong for image in job.images if (wrong := problem(image))), None)
            yield job, FailedAnswer(why) if why else self._plain(job)

    @torch.inference_mode()
    def _plain(self, job: Job) -> str:
        try:
            with self.clock("images"):
                inputs = self._processed(job.context, job.images)
        except (ValueError, StopIteration) as error:
            return FailedAnswer(f"the prompt can't be laid out: {error}")
        return self._generated(inputs, [job])[0]

    def _with_hf(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Decoding that ours doesn't do (sampling, beams): transformers', over features that are shared."""
        with torch.inference_mode():
            ready, bad = self._encoded(jobs)
            yield from bad
            if not ready:
                return
            length = max(len(job.ids) for job in ready)
            pad = self.runner.pad
            inputs = {
                "input_ids": torch.tensor(
                    [[pad] * (length - len(job.ids)) + job.ids for job in ready], device=self.device
                ),
                "attention_mask": torch.tensor(
                    [[0] * (length - len(job.ids)) + [1] * len(job.ids) for job in ready], device=self.device
                ),
                **self.encoder.inputs([image for job in ready for image in job.encoded]),
            }
            if self.runner.types_name is not None and ready[0].types is not None:
                types = [[0] * (length - len(job.ids)) + list(job.types or []) for job in ready]
                inputs[self.runner.types_name] = torch.tensor(types, device=self.device)
            yield from zip(ready, self._generated(inputs, ready), strict=True)
            for job in ready:
                job.encoded = []

    def _generated(self, inputs: Mapping[str, Any], jobs: list[Job]) -> list[str]:
        """Answers by transformers' own generation, to jobs of the same settings."""
        settings = {
            name: value
            for name, value in jobs[0].settings.items()
            if name not in ("until", "max_gen_toks", "max_new_tokens")
        }
        if not settings.get("do_sample"):
            settings = {
                name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")
            }
            settings["do_sample"] = False
        until, length = self._until(jobs[0]), inputs["input_ids"].shape[1]
        with self.clock("decode"):
            written = self.hf.generate(
                **inputs,
                max_new_tokens=self._new_tokens(jobs[0]),
                pad_token_id=self.runner.pad,
                use_cache=True,
                stopping_criteria=StoppingCriteriaList(
                    stop_sequences_criteria(self.tokenizer, until, length, len(jobs))
                ),
                **settings,
            )
        answers = []
        for row in written[:, length:].tolist():
            text: str = self.tok_decode(row)
            for end in until:
                if end:
                    text = text.split(end)[0]
            answers.append(text)
        return answers

    # -- checking
    # --------------------------------------------------------------------------------------------------------------------------

    @property
    def longest(self) -> int | None:
        """Positions up to which beginnings may be shared."""
        return self.runner.longest()

    @torch.inference_mode()
    def _check(self, jobs: list[Job]) -> None:
        """Ask a question the plain way, too, in families that our tests don't cover; share less where the logits are
        not the same."""
        self.checked = True
        if self.hf.config.model_type in VERIFIED:
            return
        by_image: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for job in jobs:
            if not any(problem(image) for image in job.images):
                by_image[job.digests].append(job)
                if len(by_image[job.digests]) > 1:
                    break
        sample = max(by_image.values(), key=len, default=[])[:2]
        while self.level != "answers" and sample:
            distance = self._distance(sample)
            if distance <= TOLERANCE.get(self.hf.dtype, COARSE):
                return
            below: Level = "features" if self.level == "prefix" else "answers"
            self._less(below, f"logits were {distance:.2g} standard deviations off with {self.level} shared")

    def _distance(self, jobs: list[Job]) -> float:
        """How far the logits of our way are from those of the plain one, in standard deviations; infinite where ours
        fails."""
        try:
            ready, bad = self._encoded(jobs)
            if bad:
                return 0.0
            ours = [(job, state.logits[row]) for state, rows in self._states(ready) for row, job in enumerate(rows)]
        except (
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
        ):  # a family built otherwise than the seams assume
            return math.inf
        worst = 0.0
        for job, logits in ours:
            plain = self.hf(**self._processed(job.context, job.images)).logits[0, -1].float()
            worst = max(worst, float((logits - plain).abs().max() / plain.std()))
        return worst

    def _less(self, level: Level, why: str) -> None:
        self.level = level
        self.why.append(why)


MIN_SHARED_PREFIX: Final = 16
"""Tokens a beginning must have to be computed by itself."""
