"""A board with four models for the tests of its page, and the page opened in a browser."""

import io
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any
from zlib import crc32

from PIL import Image

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.learning_curves import Point
from leaderboards.views.published import Reference
from tests.leaderboards.makers import page

METRICS = [("chair", "chair_s", "%", False, True), ("chair", "length", "words", True, False)]
METRICS += [("pope", "f1", "%", True, True), ("mmhal", "score", "0-6", True, True)]
MODELS = ("base", "runs/dpo/checkpoint-24", "runs/dpo/checkpoint-47", "runs/sft/checkpoint-47")
QUESTIONS = 30


def entry(model: str, metric: tuple[str, str, str, bool, bool], value: float | None, **changes: Any) -> Entry:
    task, name, unit, up, headline = metric
    usual: dict[str, Any] = {"run": f"run-{crc32(model.encode())}", "model": model, "version": "1", "value": value}
    usual |= {"task": task, "metric": name, "unit": unit, "higher_is_better": up}
    usual |= {"headline": headline, "samples": QUESTIONS}
    usual |= {"low": None if value is None else value - 0.2, "high": None if value is None else value + 0.2}
    usual |= {"judge": "gpt", "cost": 1.25} if task == "mmhal" else {"judge": None, "cost": 0.0}
    usual |= {"limit": None, "seconds": 60.0, "created": "2026-01-31T12:00:00+00:00", "provenance": {"weights": "12ab"}}
    return Entry(**usual | changes)


def sample(model: str, number: int, *, correct: bool, **changes: Any) -> Sample:
    image, category = f"scene-{number % 3}", "random" if number % 2 else "popular"
    usual: dict[str, Any] = {"run": f"run-{crc32(model.encode())}", "task": "pope", "id": f"q{number}", "image": image}
    usual |= {"prompt": f"Is there a cat in picture {number}?", "answer": "yes, a cat" if correct else "no, a dog"}
    usual |= {
        "records": {"f1": {"image": image, "category": category, "correct": correct}},
        "reply": f"Judged {model}.",
    }
    return Sample(**usual | changes)


ENTRIES = [
    entry(model, metric, 3.0 + place - len(metric[1]) / 10) for place, model in enumerate(MODELS) for metric in METRICS
]
ENTRIES[6] = entry(MODELS[1], METRICS[2], None)
BASE, TUNED = MODELS[0], MODELS[2]

# Question 0 is fixed, 1 is broken, 2 failed to generate, of the rest each third is wrong on both sides.
SAMPLES = [sample(BASE, id, correct=id != 0 and not (id > 2 and id % 3 == 0)) for id in range(QUESTIONS)]
SAMPLES += [sample(TUNED, id, correct=id != 1 and not (id > 2 and id % 3 == 0)) for id in range(QUESTIONS)]
SAMPLES[QUESTIONS + 2] = sample(TUNED, 2, correct=True, answer=None, records={}, reply=None)


def logs(run: str) -> list[Sample]:
    return [sample for sample in SAMPLES if sample.run == run]


def thumbnail(task: str, image: str) -> bytes | None:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), ("red", "green", "blue")[int(image[-1])]).save(data, "WEBP")
    return data.getvalue()


def verdict(entry: Entry, p: float = 0.001) -> PairedTest:
    test = PairedTest(difference=2.0, low=1.0, high=3.0, p=p, base=1.0, other=3.0, images=30, higher_is_better=True)
    return replace(test, mde=0.7, higher_is_better=entry.higher_is_better)


CURVE = [Point(step=step, entry=ENTRIES[4 * place]) for place, step in enumerate((0, 24, 47))]
POPE_F1: dict[str, Any] = {"task": "pope", "metric": "f1", "source": "A paper, Table 1"}


def html(**changes: Any) -> str:
    headlines = [e for e in ENTRIES if e.model != BASE and e.headline and e.value is not None]
    usual: dict[str, Any] = {"title": "Board", "base": BASE, "samples": logs, "thumbnails": thumbnail}
    usual |= {"verdicts": {e.key: verdict(e) for e in headlines}, "curves": {"chair_s (%)": {"dpo": CURVE}}}
    usual["references"] = [Reference(model="paper", value=85.0, note="other prompts", **POPE_F1)]
    usual["protocol_differences"] = {ENTRIES[4].key: ["revision was 'a', is 'b'"]}
    return page(ENTRIES, **usual | changes)


class Opened:
    """A page in the browser, with its requests, errors and dialogs."""

    def __init__(self, view: Any) -> None:
        self.view = view
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        view.on("request", lambda request: self.requests.append(request.url))
        view.on("pageerror", lambda error: self.errors.append(str(error)))
        view.on("console", lambda message: self.errors.append(message.text))
        view.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.view, name)

    @property
    def outside(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]

    def flips(self) -> None:
        """Come to the flips, and wait for them."""
        self.view.locator("#flips").scroll_into_view_if_needed()
        self.tally("both right")

    def until(self, condition: str) -> None:
        """Wait for an expression to hold; Playwright's own waiting would need the page to allow eval."""
        end = monotonic() + 10
        while not self.view.evaluate(condition):
            assert monotonic() < end, f"never: {condition}"
            self.view.wait_for_timeout(20)

    def tally(self, wanted: str) -> str:
        """The line above the cases, once it holds `wanted`."""
        self.until(f"document.querySelector('#tally').textContent.includes({wanted!r})")
        return str(self.view.locator("#tally").text_content())

    def column(self) -> list[str]:
        """The models of the leaderboard with their whole names, as they stand."""
        names = self.view.locator("#board tbody tr:visible th bdi")
        return list(names.evaluate_all("found => found.map((name) => name.title || name.textContent)"))


Open = Callable[..., Opened]
