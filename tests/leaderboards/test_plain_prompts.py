"""Prompts on the page are without what a chat template puts around them."""

import pytest

from leaderboards.views.plain_prompts import without_template

QWEN = (
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?"
)


@pytest.mark.parametrize(
    ("prompt", "words"),
    (
        ("<s><image><user>is there a dog?<assistant>", "is there a dog?"),
        (f"{QWEN}<|im_end|>\n<|im_start|>assistant\n", "You are helpful.\nWhat?"),
        ("A chat. USER: <image>\nIs there a dog? ASSISTANT:", "A chat.\nIs there a dog?"),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>What?<|eot_id|>", "What?"),
        ("<bos><start_of_turn>user\n<start_of_image>What?<end_of_turn>\n<start_of_turn>model\n", "What?"),
        ("[INST] [IMG][IMG][IMG_END]\nHow many?[/INST]", "How many?"),
        ("Is <b>this</b> the user: or the model: 'x'?", "Is <b>this</b> the user: or the model: 'x'?"),
        ("Model: T-34. Which one?", "Model: T-34. Which one?"),
        ("<image>", "<image>"),
        ("", ""),
    ),
)
def test_only_the_words_of_the_turns_are_left(prompt: str, words: str) -> None:
    assert without_template(prompt) == words
