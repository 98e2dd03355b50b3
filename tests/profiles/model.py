"""The model behind each profile: what it says to a prompt of ours, as judge or candidate, token by token.

say("... in exactly this form, with k being one digit from 0 to 6 ...")     # "It agrees ...\nRating: 4"
say("Is there a dog in the image?")                                         # "Yes"
tokens_of("0.5")                                                            # ["0", ".", "5"]
"""

import json
import re
from collections.abc import Callable
from typing import Final

VERDICT: Final = "It agrees with what is known of the picture."


def _rate_texts(prompt: str) -> str:
    """VLFeedback's form, of all its aspects or of the one that is asked for."""
    number = int(re.findall(r"compare (\d+) texts", prompt)[-1])
    asked = re.findall(r"^#+ (\w[\w ]*) Assessment", prompt, re.MULTILINE)
    texts = "".join(f"##### Output for Text {n}\nRating: {5 - n % 3}\nRationale: so.\n" for n in range(1, number + 1))
    return "".join(f"#### {aspect} Assessment\n{texts}" for aspect in dict.fromkeys(asked))


def _name_objects(prompt: str) -> str:
    answer = json.loads(re.findall(r"^\{.*\}$", prompt, re.MULTILINE)[-1]).get("answer", "")
    return json.dumps([name for name in ("dog", "cat", "grass") if name in answer])


def _make_mistake(prompt: str) -> str:
    answer = json.loads(re.findall(r"^\{.*\}$", prompt, re.MULTILINE)[-1])["answer"]
    return json.dumps({"kind": "object", "answer": f"{answer.removesuffix('.')} beside a red ball."})


FORMS: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    (r"Reply with the number alone", lambda prompt: "0.5"),
    (r"Safety judgement: V", lambda prompt: f"{VERDICT}\nSafety judgement: True"),
    (r"Effectiveness judgement: V", lambda prompt: f"{VERDICT}\nEffectiveness judgement: Very effective"),
    (r"one word, and nothing else: safe (or|\()", lambda prompt: "unsafe"),
    (r"one digit from 0 to 6", lambda prompt: f"{VERDICT}\nRating: 4"),
    (r"whole number from 1 to 10:", lambda prompt: f"{VERDICT}\nRating: 8"),
    (r"a line that holds two numbers only", lambda prompt: f"8 6\n{VERDICT}"),
    (r"your reply is: incorrect", lambda prompt: "correct"),
    (r"your reply is: different", lambda prompt: "same"),
    (r"one JSON list of texts", _name_objects),
    (r"Overall Judgment: Answer k is better", lambda prompt: f"{VERDICT}\nOverall Judgment: Answer 1 is better."),
    (r"\[\[A\]\] if the answer", lambda prompt: f"{VERDICT}\n[[A]]"),
    (r"##### Output for Text 1", _rate_texts),
    (r"exactly one mistake|one broken step", _make_mistake),
    (r"(?i)describe", lambda prompt: "A dog beside a cat on the grass."),
    (r"(?m)^\(?A[.)] ", lambda prompt: "A"),
    (r"(?i)^(is|are|does|do|can|has)\b|yes or no", lambda prompt: "Yes"),
)
"""The marks of our prompts, and what a model that follows them says; those of a judge come first."""
STRUCTURED: Final = "Give all this as one JSON object"


def say(prompt: str, *, fenced: bool = False) -> str:
    """What it says, without its thoughts; `fenced`: JSON that it was asked for stands in a Markdown fence."""
    said = next((answer(prompt) for form, answer in FORMS if re.search(form, prompt)), "A dog.")
    if STRUCTURED not in prompt:
        return said
    verdict = "\n".join(line for line in said.splitlines() if line != VERDICT)
    whole = json.dumps({"explanation": f"{VERDICT} Rating: 1 would be harsh.", "verdict": verdict})
    return f"```json\n{whole}\n```" if fenced else whole


def tokens_of(text: str) -> list[str]:
    """Words with the space before them, and single other signs."""
    return re.findall(r"\s?\w+|\s|[^\w\s]", text)
