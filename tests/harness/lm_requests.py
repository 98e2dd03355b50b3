"""lm-eval's requests, as its tasks make them."""

from typing import Any

from lm_eval.api.instance import Instance

GREEDY: dict[str, Any] = {"until": [], "max_gen_toks": 10, "do_sample": False}


def instance(
    context: str, images: list[Any], settings: dict[str, Any] = GREEDY, number: int = 0, task: str = "t"
) -> Instance:
    """A task's request, which has this number."""
    return Instance("generate_until", {}, (context, settings, {"visual": images}), number, (task, number, 1))


def ask(lm: Any, *asked: tuple[list[Any], str], task: str = "t", **settings: Any) -> list[Instance]:
    """Requests for (images, question) in the model's chat template, images first."""
    requests = []
    for number, (images, question) in enumerate(asked):
        context = lm.apply_chat_template([{"role": "user", "content": "<image>" * len(images) + question}])
        requests.append(instance(context, images, GREEDY | settings, number, task))
    return requests
