"""The cases beside the repository (../shared/cases): each one's run.sh is run with this checkout's command, and its
output must say what is right, line after line.

A case is a faulty input or server, with the script that people would run on it; its expected.txt says what is right.
`SAYS` has what that means for the output; only the shape is checked where several outcomes are right.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
WEIGHTS = ROOT / "harness" / "models" / "weights"
SECONDS = 1200
"""Most that a case may take, on a loaded machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason="no folder shared/cases beside the repository"),
]


def value(name: str, number: float) -> str:
    """A row of a table of scores: its name, further words, and then the number."""
    return rf"\| {re.escape(name)}\b[^\n]*?\| +{re.escape(f'{number:g}')}(?:\.0)?[ |]"


def trained(pairs: int) -> str:
    """A training run that ended well, on so many pairs."""
    return rf"\nrc=0 traceback=0\n(?:[^$][^\n]*\n)*score by the reference: {pairs}/{pairs}\n"


def refused(why: str) -> str:
    """A command that ended with one line, which says why."""
    return rf"\nrc=[12] traceback=0\n(?:[^$][^\n]*\n)*harness: [^\n]*{why}"


NO_TRACEBACK = r"traceback=[1-9]"

SAYS: dict[str, tuple[str, ...]] = {
    "eval/01-stale-served-answers": (
        *(r"rc=0", value("mme yes_rate", 100), r"calls: 16\n"),
        *(r"rc=0", value("mme yes_rate", 0), r"second model: 16\n"),
        *(r"rc=0", value("mme yes_rate", 0), r"--fresh: 32\n"),
    ),
    "eval/02-wrong-picture-same-name": (
        *(r"rc=0", value("mme count", 200), value("mme color", 200), value("mme accuracy", 100)),
        *(r"rc=0", value("mme count", 200), value("mme color", 200), value("mme accuracy", 100)),
    ),
    "eval/03-answer-field-guessed": (
        *(2 * (r"20 samples, 0 failed, 0 unscored, 0 unparsed", value("random_accuracy", 100))),
        *(2 * (r"6 samples, 0 failed, 0 unscored", value("chair_s", 100), value("recall", 100), value("length", 10))),
    ),
    "eval/04-thinking-answers": (
        *(r"rc=0", value("pope f1", 0), value("pope yes_rate", 0)),
        *(r"rc=0", value("mme accuracy", 50)),
        rf"rc=(?:1|4\n\| pope f1 [^|]*\| — \(0/18, 18 failed|0\n{value('pope f1', 0)})",  # 1: after eight of 18
        r"rc=(?:2|0\n.*2128)",
    ),
    "eval/05-thinking-judge": (
        *(r"rc=0", r"0 failed, 0 unscored", value("aAcc", 100)),
        *(r"rc=0", r"0 failed, 0 unscored", value("score", 4), value("hallucination_rate", 0)),
        *(r"rc=[01]", r"all 3 tokens before its verdict", r"calls for 6 questions: \d{1,2}\n"),
        *(r"rc=0", value("scenes-base", 75)),
    ),
    "eval/06-gold-labels-unchecked": (
        *(2 * (r"rc=0", value("pope f1", 66.7), value("pope random_accuracy", 50))),
        *(f"mme {name}\nrc=0\n{value('mme accuracy', 50)}" for name in ("plain", "spaced", "bool")),
        r"scienceqa from tsv\nrc=[02]\n(?:time|next|harness: )",
    ),
    "eval/08-reply-content-list": (
        r"rc=0 calls=96 lines of traceback: 0\n",
        r"\| mmhal +\| +j +\| +m +\| +96 +\|",
        r"rc=0\n(?:time|next)",
    ),
    "eval/11-429-without-retry-after": (
        r"rc=124 calls in 40 s: \d{1,2}\n",
        r"limited by the server, waiting",
        r"rc=1 calls in 40 s: \d{1,2}\n",
    ),
    "eval/12-reason-never-shown": (
        r"rc=[14]\ncalls=(?:[89]|1[0-6])\n",
        r"harness: [^\n]*m is not a multimodal model",
        r"sentence: [1-9]",
        r"rc=0\n",  # "auto", which is refused there, is not sent
        r"calls=(?:9[6-9]|10\d|11\d)\n",  # those on their way when the first was refused were asked again
    ),
    "eval/13-judge-refuses-temperature": (
        *(
            rf"{name} rc=0 calls=\d+\nmmhal [^\n]*96 samples, 0 failed, 0 unscored"
            for name in ("-mini", "o3", "openai/o3")
        ),
        *(rf"candidate {name} rc=0\n" for name in ("gpt-5-mini", "openai/gpt-5-mini")),
    ),
    "eval/17-small-base64-is-a-path": (r"rc=0\n" + value("mme accuracy", 50), r"rc=0\n"),
    "eval/20-image-token-in-question": (
        r"rc=0\n" + value("mme accuracy", 50),
        r"\| mme accuracy [^|]*\| +\d",
    ),
    "eval/21-no-chat-template": (
        r"zoo rc=[04]\n'<\|im_start\|>.*<\|vision_start\|>",
        r"tuned rc=1\nharness: [^\n]*no chat template [^\n]*--chat-template FILE",
        r"\nharness: [^\n]*no chat template",  # harness models check
    ),
    "eval/22-server-addresses-and-keys": (
        *(r"secret:\nrc=0 *\nrc=0 *\n", r"full path:\nrc=0 *\n", r"no /v1:\n(?:rc=0 *|rc=1 .*http://.*)\n"),
        *(r"no scheme:\n(?:rc=0 *|rc=2 harness: [^\n]*no http://[^\n]*)\n\d s\n", r"api-version:\nrc=0 *\n"),
        *(2 * (r'"path": "/openai/deployments/mm/chat/completions\?api-version=2024-10-21"',)),
    ),
    "train/01-shards-mix-pictures": (trained(6), trained(3), r"of both files has: 3 of 3\n"),
    "train/02-pictures-in-messages": (trained(6), trained(6), r'"images": \["images/p0.png"\]'),
    "train/03-picture-column-by-another-name": (
        *(5 * (trained(6),)),
        *(refused("'<image>' in their prompt[^\n]*image_tokens = 'drop'"), trained(6)),
        *(rf'"images": \["images/p{index}.png"\]' for index in range(6)),
    ),
    "train/04-one-missing-picture-drops-all": (trained(5), r"rc=0 traceback=0\n", r"left out: 1 pairs .*max_length"),
    "train/05-base-adapter-that-fits-nothing": (
        refused("adapter old-names doesn't fit its base"),
        refused("adapter old-names doesn't fit its base"),
        refused("adapter enlarged doesn't fit its base"),
    ),
    "train/06-equal-answers-end-the-run": (trained(1), r"rc=0 traceback=0\n", r"9 left out of two equal answers"),
    "train/08-warmup-is-the-whole-run": (trained(8), r'"learning_rate": [0-9.]*[1-9]', r"adapter is zero: False"),
    "train/09-where-pictures-stand-in-the-prompt": (
        *(trained(6), trained(6), refused("picture 2 of the prompt"), refused("picture 1 of the prompt")),
        *(r"interleaved.jsonl +2 pictures", r"sharegpt.json +2 pictures", r"DataError: two-places-one-picture.jsonl"),
    ),
    "train/11-hub-dataset-with-splits": (trained(6), trained(6), trained(8)),
    "train/14-own-pairs-and-shipped-recipes": (
        *(r"pairs.parquet: 4 pairs", r"rc=0 traceback=0\n", r"nothing was done", r"other data than those of recipe"),
        *(r"rc=0 traceback=0\na/checkpoint-\d", r"rc=0 traceback=0\nb/checkpoint-\d"),
        r"rc=0 traceback=0\nc/checkpoint-\d",
    ),
    "train/15-one-picture-the-processor-refuses": (
        5 * (refused("2 of 6 pairs have a picture that [^\n]* refuses: '3', '4'[^\n]*missing_images = 'drop'"),)
    ),
    "train/16-base-that-cannot-be-read": (
        *(refused("no chat template"), refused("no chat template"), refused("no chat template")),
        *(refused("no tokenizer"), refused("can't be read: model.safetensors")),
    ),
    "train/17-qwen-vl-image-tags-in-texts": (3 * (refused("<img>"),)),
    "train/20-checkpoint-does-not-find-its-base": (4 * (r"\nrc=[04] traceback=0\n",)),
    "train/21-torn-checkpoints-and-a-full-disk": (
        r"\nrc=0 traceback=0\n",
        *(rf"== half of {name}\n[^\n]*\nrc=[012] traceback=0\n" for name in ("optimizer.pt", "scheduler.pt")),
        *(
            rf"== half of {name}\n[^\n]*\nrc=[012] traceback=0\n"
            for name in ("trainer_state.json", "adapter_model.safetensors")
        ),
        r"== optimizer.pt gone\n[^\n]*\nrc=(?:0 (?:.*\n)*same weights: True|[12] traceback=0\n[^$]*optimizer)",
    ),
    "train/22-povid-inject-as-documented": 2 * (refused("no connection to http"),),  # the pictures are found
    "train/23-llava-answers-without-an-end": tuple(
        rf"{name} end token (\S+) ; trained on \[.*'\1'" for name in ("llava", "llava_next", "qwen2_5_vl")
    ),
    "train/24-embedded-pictures-stay-in-memory": (r"100 pairs.*most memory \d+ MB", r"600 pairs.*most memory \d+ MB"),
    "train/27-a-failed-start-claims-the-folder": (refused("images"), trained(4)),
    "train/30-another-sources-picture-of-the-same-name": (
        rf"(?:{trained(2)}[^$]*coco/1.png -> \S*coco/1.png\n|{refused('picture')})",
    ),
    "adversary/01-nan-weights-pass-gate": (
        *(r"eval base rc=0", r"60 of 60 failed: [^\n]*not finite", r"eval nanmodel rc=4"),
        *(r"Gate failed", r"gate rc=[13]"),
    ),
    "adversary/02-clock-ahead": (value("ck", 2.5), value("ck", 20), r"rc=0"),
    "adversary/03-adapter-config-stale": (3 * (r"40 questions, 40 answered by the model",)),
    "adversary/04-url-credentials-on-board": (r"answers of openai:cand: 3/3", r"page: p.html"),
    "adversary/05-adapter-base-openai": (r"harness: lora: its base 'openai:[^\n]*\nrc=[12]\n",),
    "adversary/06-one-surrogate-reply-paid-forever": (r"(rc=[04][^\n]*)\n96\nrc=[04][^\n]*\n96\nrc=[04][^\n]*\n96\n",),
    "adversary/07-two-processes-pay-twice": tuple(
        rf"{tag} questions 96 paid 96 paid twice or more 0 in ledger 96" for tag in ("zz", "yy")
    ),
    "adversary/08-budget-ignored-without-usage": (r"is spent", r"\| mmhal +\| +gpt-4o-2024-11-20 \| +[1-4]?\d \|"),
    "adversary/09-unread-ratings-rc0": (r"no rating that could be read", r"rc=4\n"),
    "adversary/21-dev-zero-image": (r"warning: [^\n]*'/dev/zero'[^\n]*path outside the folder", r"rc=2\n"),
}
"""Regular expressions for each case, found one behind the other."""

NEVER: dict[str, str] = {
    "eval/20-image-token-in-question": r"samples failed",
    "train/24-embedded-pictures-stay-in-memory": r"most memory (?:[4-9]\d\d|\d{4,}) MB",  # the second table has 319 MB
    "train/30-another-sources-picture-of-the-same-name": r"vg/1\.png -> \S*coco/1\.png",
    "adversary/04-url-credentials-on-board": r"PASSW0RD|QUERYKEY|^r/|^p\.html$",
    "adversary/05-adapter-base-openai": r"answers of",
    "adversary/06-one-surrogate-reply-paid-forever": r"Traceback",
    "adversary/21-dev-zero-image": r"rc=(?:124|137)",
}
"""Besides a traceback of the command."""

OLD_NAMES = {
    "from trainers.recipe import Dataset": "from trainers.config.data import PreferenceFile as Dataset",
    "from trainers.read_preferences": "from trainers.data.read_preferences",
    "from trainers.packed_data import PackedCollator, Pairs": (
        "from trainers.packed.collator import PackedCollator; from trainers.data.torch_dataset import Pairs"
    ),
    "from trainers.rows import Picture, Preference": (
        "from support.images import ImageRef as Picture; from trainers.data.rows import Preference"
    ),
}
"""Modules that the scripts name -> where these are by now."""

COMMAND = """\
import datetime, os, sys
if start := os.environ.get("CLOCK_STARTS"):  # the command believes that it is then
    import harness.engine.response_cache, harness.evaluation.evaluate, leaderboards.board.entry
    real = datetime.datetime
    ahead = real.fromisoformat(start).replace(tzinfo=datetime.UTC) - real.now(datetime.UTC)
    class Ahead(real):
        @classmethod
        def now(cls, tz=None):
            return real.now(tz) + ahead
    for module in (harness.engine.response_cache, harness.evaluation.evaluate, leaderboards.board.entry):
        module.datetime = Ahead
from harness.cli.main import main
sys.argv[0] = "harness"
sys.exit(main())
"""

ADAPTER = """\
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText
from harness.models.load import register
register()
torch.manual_seed(0)
base = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32)
places = r".*language_model.*\\.(q_proj|v_proj)"
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=places, task_type="CAUSAL_LM"))
for name, weights in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weights, std=0.05)
model.save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the scripts use: the command, an interpreter, tiny checkpoints, and all of it in the environment."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: Path) -> str:
        """What a script and its commands say, on stdout and stderr."""
        done = subprocess.Popen(
            ["bash", str(script)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            return done.communicate(timeout=SECONDS)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):  # servers that the script started
                os.killpg(done.pid, signal.SIGKILL)

    def write_script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from tests.harness import qwen_vl_checkpoint, zoo

    folder = tmp_path_factory.mktemp("cases")
    models = folder / "models"
    for name in ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "paligemma"):
        zoo.FAMILIES[name](models / name)
    qwen_vl_checkpoint.write(models / "qwen")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("OPENAI_")}
    environment |= {
        "H": str(folder / "harness"),
        "PY": sys.executable,
        "PROJ": str(ROOT),
        "MODELS": str(models),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    bench = Bench(folder=folder, environment=environment)
    (folder / "command.py").write_text(COMMAND, encoding="utf-8")
    bench.write_script("harness", f'#!/bin/bash\nexec {sys.executable} {folder}/command.py "$@"\n')
    bench.write_script("faketime", '#!/bin/bash\nexport CLOCK_STARTS=$1; shift; exec "$@"\n')
    return bench


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def hostile(bench: Bench) -> Iterator[Path]:
    """The adversary's cases with paths and ports of this machine, and their two servers."""
    made = bench.folder / "adversary"
    shutil.copytree(CASES / "adversary", made)
    adapter = [sys.executable, "-c", ADAPTER, str(WEIGHTS / "scenes-base"), str(made / "adapters" / "checkpoint-47")]
    subprocess.run(adapter, env=bench.environment, check=True, capture_output=True)
    ports = free_port(), free_port()
    changes = {
        "@PROJ@/runs/scenes-demo": str(made / "adapters"),
        "@PROJ@/.venv/bin/harness": bench.environment["H"],
        "@PROJ@/.venv/bin/python": sys.executable,
        **{"@WORK@": str(made), "@PROJ@": str(ROOT), "@SHARED@": str(CASES.parent)},
        **{"18111": str(ports[0]), "18112": str(ports[1])},
    }
    for script in made.rglob("*.sh"):
        rewrite(script, changes)
    for name in ("srv", "w/two", "hf"):
        (made / name).mkdir(parents=True, exist_ok=True)
    servers = [
        subprocess.Popen([sys.executable, made / "srv.py", str(port), log], cwd=made / "srv", start_new_session=True)
        for port, log in zip(ports, ("log.jsonl", "log2.jsonl"), strict=True)
    ]
    try:
        for port in ports:
            await_server(port)
        yield made
    finally:
        for server in servers:
            server.kill()


def await_server(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"no server at port {port}")


def rewrite(script: Path, changes: dict[str, str]) -> None:
    """Replace texts of a script, the first named first."""
    text = script.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    script.chmod(0o755)
    script.write_text(text, encoding="utf-8")


def place(case: str, bench: Bench, folder: Path) -> Path:
    """A copy of a case of eval/ or train/ beside what it shares with others; its script."""
    kind = case.split("/", maxsplit=1)[0]
    shutil.copytree(CASES / case, folder / case)
    if kind == "eval":
        shutil.copytree(CASES / "eval" / "lib", folder / "eval" / "lib")
    else:
        common = folder / "train" / "common.sh"
        shutil.copy(CASES / "train" / "common.sh", common)
        common.chmod(0o755)
        # What trains, where it went and the commands to go on with come last.
        told = "{ grep 'score by the reference' err.txt | tail -1; grep -Ev '^(next: |results: )' err.txt | tail -2; }"
        rewrite(common, {"tail -2 err.txt": told})
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    rewrite(folder / case / "run.sh", OLD_NAMES)
    return folder / case / "run.sh"


def first_unsaid(output: str, patterns: tuple[str, ...]) -> str | None:
    """The first pattern that is not found behind what those before it found."""
    place = 0
    for pattern in patterns:
        found = re.compile(pattern).search(output, place)
        if found is None:
            return pattern
        place = found.end() - output[: found.end()].endswith("\n")
    return None


def check(case: str, output: str) -> None:
    never = "|".join(filter(None, (NO_TRACEBACK, NEVER.get(case))))
    assert re.search(never, output, re.MULTILINE) is None, output
    assert first_unsaid(output, SAYS[case]) is None, output


def of_kind(*kinds: str) -> list[str]:
    return [case for case in SAYS if case.split("/")[0] in kinds]


def test_no_case_is_forgotten() -> None:
    there = {f"{run.parents[1].name}/{run.parent.name}" for run in CASES.glob("*/*/run.sh")}
    assert there - set(SAYS) == set()


@pytest.mark.parametrize("case", of_kind("eval", "train"))
def test_case_gives_what_is_right(case: str, bench: Bench, tmp_path: Path) -> None:
    check(case, bench.run(place(case, bench, tmp_path)))


@pytest.mark.parametrize("case", of_kind("adversary"))
def test_hostile_case_gives_what_is_right(case: str, bench: Bench, hostile: Path) -> None:
    check(case, bench.run(hostile / case.split("/")[1] / "run.sh"))
