"""In which order and in which batches questions are answered, so that each image and each beginning of a prompt is
computed once.

    scheduler = Scheduler(encoder, layout, decoder, sharing, batch_size="auto")
    for job, answer in scheduler.answers(jobs): ...

Images of like size come together, so that batches have rows of like length, and all questions about an image are
answered in one batch of work. Within it, prompts that are the same up to the end of their images share the keys and
values of that beginning.
"""

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

import torch

from harness.engine.config import AUTO_BATCH_SIZE
from harness.engine.feature_files import Encoded
from harness.engine.greedy_decoding import GreedyDecoder
from harness.engine.image_encoder import BadImage, ImageEncoder
from harness.engine.jobs import Job, image_areas, size_problem
from harness.engine.prefix_cache import State, join
from harness.engine.prompt_layout import BadPrompt, PromptLayout
from harness.engine.question_groups import MOST_IN_A_ROW, Groups
from harness.engine.sharing import Sharing
from tasks.answer import FailedAnswer

MIN_SHARED_PREFIX = 16
"""Tokens a beginning must have to be computed by itself."""

LONG_PROMPT = 2048
"""Tokens of a prompt and its answer for which a CPU's memory must have room; there nothing tells that it runs out."""

TOKENS_AT_ONCE = {"cpu": 3072}
"""Tokens of beginnings that are read in one pass: what a CPU computes in between stays in its caches."""
MOST_TOKENS_AT_ONCE = 32768
"""The same on other devices, whose memory it would fill."""


class Scheduler:
    """See the module's docstring. `counts` gets "prefix shared" (questions) and "out of memory" (times)."""

    def __init__(
        self,
        encoder: ImageEncoder,
        layout: PromptLayout,
        decoder: GreedyDecoder,
        sharing: Sharing,
        *,
        batch_size: int | None,
    ) -> None:
        self.encoder, self.layout, self.decoder, self.sharing = encoder, layout, decoder, sharing
        self.runner, self.rules, self.clock, self.counts = decoder.runner, decoder.rules, decoder.clock, decoder.counts
        self.batch_size = batch_size or self._first_batch_size()
        self.may_shrink = batch_size is None

    def _first_batch_size(self) -> int:
        """Of "auto", before memory has run out: on a CPU as many as a quarter of the machine's has room for."""
        if self.runner.device.type != "cpu":
            return AUTO_BATCH_SIZE
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(1, min(AUTO_BATCH_SIZE, memory // 4 // (LONG_PROMPT * self.runner.bytes_per_position())))

    def answers(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Greedy answers, as they come; a FailedAnswer where an image or a prompt can't be used."""
        by_image: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for job in jobs:
            by_image[job.digests].append(job)
        bad = {digests: why for digests, group in by_image.items() if (why := size_problem(group[0].images))}
        for digests, why in bad.items():
            yield from ((job, FailedAnswer(why)) for job in by_image.pop(digests))
        groups = sorted(by_image.values(), key=lambda group: image_areas(group[0].images))
        self.encoder.ahead([named for group in groups for named in zip(group[0].digests, group[0].images, strict=True)])
        batch: list[Job] = []
        for group in groups:
            if batch and len(batch) + len(group) > self.batch_size:
                yield from self._run_batch_with_oom_backoff(batch)
                batch = []
            batch += group
        if batch:
            yield from self._run_batch_with_oom_backoff(batch)

    def _run_batch_with_oom_backoff(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        """Jobs whose beginnings are computed together; where memory runs out, half as many at a time from here on."""
        answered: set[int] = set()
        try:
            for job, text in self._run_batch(jobs):
                answered.add(id(job))
                yield job, text
        except torch.OutOfMemoryError:
            if not self.shrink(len(jobs)):
                raise
        else:
            return
        left = [job for job in jobs if id(job) not in answered]
        size = self.batch_size  # it may shrink again meanwhile
        for start in range(0, len(left), size):
            yield from self._run_batch_with_oom_backoff(left[start : start + size])

    def shrink(self, tried: int) -> bool:
        """Half as many questions at a time as were tried, since memory ran out; False if that must not be, or can't."""
        if not self.may_shrink or min(self.batch_size, tried) <= 1:
            return False
        torch.cuda.empty_cache()
        self.batch_size = min(self.batch_size, tried) // 2
        self.counts["out of memory"] += 1
        return True

    def describe_lack(self) -> str:
        """What to do where memory ran out for good."""
        if self.may_shrink or self.batch_size <= 1:
            return (
                "memory does not hold one question at a time: try dtype=bfloat16, load_in_4bit=true or a smaller "
                "max_pixels (--model-set), or a larger GPU"
            )
        return (
            f"memory does not hold {self.batch_size} questions at once: --batch-size auto takes as many as fit, "
            "--batch-size N a number of your own"
        )

    @torch.inference_mode()
    def _run_batch(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        ready, bad = self.encode(jobs)
        yield from bad
        try:
            for state, rows in self.states(ready):
                yield from self.decoder.decode(state, rows)
        finally:
            for job in jobs:
                job.release()

    def encode(self, jobs: list[Job]) -> tuple[list[Job], list[tuple[Job, FailedAnswer]]]:
        """Jobs that got their ids and image features, and answers to those whose images or prompt can't be used."""
        by_image = {job.digests: job.images for job in jobs}
        named = [pair for digests, images in by_image.items() for pair in zip(digests, images, strict=True)]
        features = iter(self.encoder.encode(named))
        found = {digests: [next(features) for _ in digests] for digests in by_image}
        ready: list[Job] = []
        bad: list[tuple[Job, FailedAnswer]] = []
        for job in jobs:
            broken = next((image for image in found[job.digests] if isinstance(image, BadImage)), None)
            if broken is not None:
                bad.append((job, FailedAnswer(str(broken))))
                continue
            job.encoded = [image for image in found[job.digests] if isinstance(image, Encoded)]
            try:
                job.ids = self.layout.ids(job.context, job.encoded, templated=job.templated)
            except BadPrompt as error:
                bad.append((job, FailedAnswer(str(error))))
                continue
            job.types = self.layout.types(job.ids)
            ready.append(job)
        return ready, bad

    def states(self, jobs: list[Job]) -> Iterator[tuple[State | Groups, list[Job]]]:
        """Batches whose prompts have been read, at the point where their answers begin."""
        groups = self._group_by_prefix(jobs) if self.sharing.level == "prefix" else [[job] for job in jobs]
        alone = sorted((group[0] for group in groups if len(group) == 1), key=lambda job: len(job.ids))
        for job in alone:
            if self._outgrows_positions(job):  # its positions depend on its length: no other row beside it
                yield self._read_prompts([job])
        alone = [job for job in alone if not self._outgrows_positions(job)]
        # A batch has images for all of its rows or for none.
        for some in ([job for job in alone if job.images], [job for job in alone if not job.images]):
            for start in range(0, len(some), self.batch_size):
                yield self._read_prompts(some[start : start + self.batch_size])
        shared = [group for group in groups if len(group) > 1]
        for several in ([group for group in shared if group[0].images], [one for one in shared if not one[0].images]):
            if several:
                yield from self._fork_prefixes(several)

    def prefill(self, jobs: list[Job], lengths: list[int], *, last: bool = True) -> State:
        """Read the first tokens of each job, as many as `lengths` says, images among them; without `last` no logits are
        computed, but what they alone need is spared."""
        pairs = list(zip(jobs, lengths, strict=True))
        types = [job.types[:length] for job, length in pairs if job.types is not None] or None
        inputs = self.encoder.inputs([image for job in jobs for image in job.encoded])
        return self.runner.prefill([job.ids[:length] for job, length in pairs], types, inputs, last=last)

    def _read_prompts(self, jobs: list[Job]) -> tuple[State, list[Job]]:
        with self.clock("prefill"):
            state = self.prefill(jobs, [len(job.ids) for job in jobs])
            return self.runner.with_room(state, self.rules.room(jobs)), jobs

    def _fork_prefixes(self, groups: list[list[Job]]) -> Iterator[tuple[State | Groups, list[Job]]]:
        """Read the beginning of each group once, then what follows it in batches."""
        with self.clock("prefill"):
            parts = self._at_once([group[0] for group in groups])
            prefix = join([self.prefill(jobs, [job.shared_length for job in jobs], last=False) for jobs in parts])
        ask = self._ask_in_groups if self.runner.groups else self._ask_apart
        for state, jobs in ask(prefix, groups):
            self.counts["prefix shared"] += len(jobs)
            yield state, jobs

    def _at_once(self, jobs: list[Job]) -> Iterator[list[Job]]:
        """Jobs whose beginnings are read in one pass: at least one."""
        most = TOKENS_AT_ONCE.get(self.runner.device.type, MOST_TOKENS_AT_ONCE)
        part: list[Job] = []
        for job in jobs:
            longest = max(one.shared_length for one in [*part, job])
            if part and longest * (len(part) + 1) > most:
                yield part
                part = []
            part = [*part, job]
        yield part

    def _ask_in_groups(self, prefix: State, groups: list[list[Job]]) -> Iterator[tuple[Groups, list[Job]]]:
        """Questions after each beginning, side by side."""
        most = min(MOST_IN_A_ROW, self.batch_size)
        rows = [
            (which, sorted(group, key=_own_length)[start : start + most])
            for which, group in enumerate(groups)
            for start in range(0, len(group), most)
        ]
        while rows:
            sizes = list(accumulate(len(jobs) for _, jobs in rows))
            count = max(1, bisect_right(sizes, self.batch_size))
            batch, rows = rows[:count], rows[count:]
            jobs = [job for _, group in batch for job in group]
            with self.clock("prefill"):
                questions = [[job.ids[job.shared_length :] for job in group] for _, group in batch]
                state = self.runner.ask(prefix, [which for which, _ in batch], questions, self.rules.room(jobs))
            yield state, jobs

    def _ask_apart(self, prefix: State, groups: list[list[Job]]) -> Iterator[tuple[State, list[Job]]]:
        """Questions in rows of their own, each of which begins with a copy of its beginning."""
        rows = [(which, job) for which, group in enumerate(groups) for job in group]
        rows.sort(key=lambda row: _own_length(row[1]))
        for batch in self._batches(rows):
            jobs = [job for _, job in batch]
            with self.clock("prefill"):
                suffixes = [job.ids[job.shared_length :] for job in jobs]
                state = self.runner.fork(prefix, [which for which, _ in batch], suffixes, self.rules.room(jobs))
            yield state, jobs

    def _batches(self, rows: list[tuple[int, Job]]) -> Iterator[list[tuple[int, Job]]]:
        """Batches of rows that are sorted by how much is left to read; rows of one length only, where layers see so
        many positions back and pads in the middle would count as some."""
        by_length: dict[int, list[tuple[int, Job]]] = defaultdict(list)
        for row in rows:
            by_length[_own_length(row[1]) if self.runner.windowed else 0].append(row)
        for some in by_length.values():
            yield from (some[start : start + self.batch_size] for start in range(0, len(some), self.batch_size))

    def _group_by_prefix(self, jobs: list[Job]) -> list[list[Job]]:
        """Jobs that are alike up to the end of their images; each gets the length of what its group shares."""
        groups: dict[object, list[Job]] = defaultdict(list)
        ends: dict[object, int] = {}
        for job in jobs:
            end = self.layout.end_of_images(job.ids)
            key: object = id(job) if self._outgrows_positions(job) else (job.digests, tuple(job.ids[:end]))
            groups[key].append(job)
            ends[key] = end
        found: list[list[Job]] = []
        for key, group in groups.items():
            length = _shared_length(group)
            for job in group:
                job.shared_length = length
            # Beginnings of a token or two aren't worth a pass of their own, and none may end within an image.
            is_worth_it = length >= max(MIN_SHARED_PREFIX, ends[key])
            found += [group] if is_worth_it else [[job] for job in group]
        return found

    def _outgrows_positions(self, job: Job) -> bool:
        """True if it may get longer than what positions are the same for, whatever the length."""
        longest = self.runner.longest()
        return longest is not None and len(job.ids) + self.rules.most_tokens(job) > longest


def _own_length(job: Job) -> int:
    """Tokens after what is shared."""
    return len(job.ids) - job.shared_length


def _shared_length(group: list[Job]) -> int:
    """Tokens with which all begin; each keeps at least one of its own to read."""
    shortest = min(len(job.ids) for job in group) - 1
    # What the first and the last in lexical order share, all between them do.
    first, last = min(job.ids for job in group), max(job.ids for job in group)
    return next((at for at in range(shortest) if first[at] != last[at]), shortest)
