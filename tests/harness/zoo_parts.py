"""What the checkpoints of zoo.py are made of: tokenizers trained on a few sentences, settings, files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "Is there a red circle in the image? Please answer yes or no. "
    "Yes, there is a red circle. No, there is not. yes no Yes No",
    "What is the color of the car? The car is blue. red green yellow white black. What is on the left of the table?",
    "Please describe this image in detail. The image shows a man riding a horse on the beach, and a dog behind them.",
    "USER: ASSISTANT: User: Assistant: user assistant model system You are a helpful assistant. [INST] [/INST]",
    "How many people are in the picture? one two three 0 1 2 3 4 5 6 7 8 9 . , ? ! : ; row col img global",
)
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]
CLIP, SIGLIP = (CLIP_MEAN, CLIP_STD), (HALF, HALF)
"""Mean and deviation of colours."""
SIDE, PATCH = 28, 7
"""Of one tile, in pixels: 16 patches."""


def settings(**values: Any) -> dict[str, Any]:
    """The fields of a JSON file."""
    return values


def sentencepiece_like(
    specials: Sequence[str], named: dict[str, str], words: Sequence[str] = (), bos: bool = True, prefix: bool = True
) -> Any:
    """As Llama's and Gemma's: byte fallback, "▁" for a space (and, with `prefix`, before the text), `bos` before what
    is encoded.

    `words` are tokens without being special: "▁" stands before the first of them too.
    """
    unk = "<unk>"
    first = [*dict.fromkeys([*named.values(), unk])]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=[], show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    learned = json.loads(trained.to_str())["model"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*first, *bytes_, *words, *pieces]))}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True, ignore_merges=bool(words))
    )
    if words:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, words))), "isolated")
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    tail = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    return _finish(tokenizer, first, specials, named | {"unk_token": unk}, bos)


def byte_level(specials: Sequence[str], named: dict[str, str], bos: bool = False) -> Any:
    """As GPT-2's, Qwen's and Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    )
    return _finish(tokenizer, list(dict.fromkeys(named.values())), specials, named, bos)


def wordpieces() -> Any:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=[*named.values()], show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="[DEC]", model_max_length=512, **named)


def _finish(
    tokenizer: Tokenizer, first: Sequence[str], specials: Sequence[str], named: dict[str, str], bos: bool
) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*first, *specials)])
    if bos:
        start = named["bos_token"]
        known = [(start, tokenizer.token_to_id(start))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", f"{start} $A {start} $B", known)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **named,
    )


def with_tokens(tokenizer: Any, named: dict[str, str]) -> Any:
    """The tokenizer with these as attributes, as its processor wants them."""
    kept = {
        key: getattr(tokenizer, key)
        for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        if getattr(tokenizer, key)
    }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens=named,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **kept,
    )


def write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    images: dict[str, Any],
    processor: dict[str, Any],
    template: str | None = None,
    generation: dict[str, Any] | None = None,
    legacy: bool = False,
) -> None:
    """All files of a checkpoint; `legacy`: the template in JSON, as repositories of 2024 have it."""
    folder.mkdir(parents=True, exist_ok=True)
    _widen(model)
    model.generation_config = hf.GenerationConfig(
        **{
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **(generation or {}),
        }
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name = processor["processor_class"]
    write_json(folder / "preprocessor_config.json", {"processor_class": name, **images})
    write_json(folder / "processor_config.json", processor)
    if template and legacy:
        write_json(folder / "chat_template.json", {"chat_template": template})
    elif template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _widen(model: Any, seed: int = 0) -> None:
    """Matrices that neither shrink nor drown what passes through them, so that inputs show in outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" in name:  # IDEFICS's gates are shut before training
                parameter.fill_(1.5)
            elif parameter.ndim >= 2:
                # A Gemma writes with the matrix it reads with, and would repeat its last word for ever if that were as
                # wide.
                width = 0.4 if "embed_tokens" in name and "gemma" in model.config.model_type else 1.5
                parameter.normal_(0, width / parameter[0].numel() ** 0.5, generator=generator)
    model.eval()


def text_config(tokenizer: Any, size: int | None = None, **changes: Any) -> dict[str, Any]:
    """A language model's settings."""
    return {
        "vocab_size": size or len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }


def vision_config(**changes: Any) -> dict[str, Any]:
    """An image encoder's settings."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **changes,
    }


def square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


def images(kind: str, done: str = "", colours: tuple[Any, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An image processor's settings; `done` names its steps."""
    normal = {} if colours is None else {"image_mean": colours[0], "image_std": colours[1]}
    return {"image_processor_type": kind, **normal, **more, **steps(*done.split())}


def steps(*names: str) -> dict[str, bool]:
    return {f"do_{name}": True for name in names}


LLAMA: dict[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML: dict[str, str] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

IMAGES_FIRST = "{% for part in message['content'] if part['type'] == 'image' %}"
TEXTS = "{% for part in message['content'] if part['type'] == 'text' %}"
