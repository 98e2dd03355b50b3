"""The tokenizer of a LLaVA checkpoint in the original layout, as a fast tokenizer of transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from harness.models.weight_files import read_json
from support.errors import ModelError, one_line


def llama_tokenizer(source: Path) -> tuple[Any, int]:
    """The source's tokenizer with `<image>` and `<pad>`, and how many tokens it had without them."""
    slow, fast, added = (source / name for name in ("tokenizer.model", "tokenizer.json", "added_tokens.json"))
    if slow.is_file():  # which is what the original code used, even beside a tokenizer.json
        backend = _read_sentencepiece(slow)
        new = read_json(added) if added.is_file() else {}
        for token, number in sorted(new.items(), key=lambda pair: (len(str(pair[1])), str(pair[1]))):
            backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            if backend.token_to_id(token) != number:
                raise ModelError(f"{added}: {token!r} is {number}, but would be {backend.token_to_id(token)}")
    elif fast.is_file():
        try:
            backend = Tokenizer.from_file(str(fast))
        except Exception as error:  # the bindings raise nothing narrower
            raise ModelError(f"{fast}: {one_line(error)}") from None
    else:
        raise ModelError(f"{source}: neither tokenizer.model nor tokenizer.json")
    if unknown := [token for token in ("<unk>", "<s>", "</s>") if backend.token_to_id(token) is None]:
        raise ModelError(
            f"{slow if slow.is_file() else fast}: no token {', '.join(unknown)}; only Llama's tokenizers are known"
        )
    known = backend.get_vocab_size()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<image>", "<pad>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "padding_side": "left"},
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )
    return tokenizer, known


def _read_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protobuf message's fields, so that sentencepiece need not be installed. ValueError where
    it ends too soon."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message):
                raise ValueError("cut off")
            value, shift, at = value | (message[at] & 127) << shift, shift + 7, at + 1
            if message[at - 1] < 128:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size = varint() if wire == 2 else {1: 8, 5: 4}.get(wire, len(message))
        if at + size > len(message):
            raise ValueError("cut off")
        yield number, message[at : at + size]
        at += size


def _read_sentencepiece(path: Path) -> Any:
    """A sentencepiece BPE with byte fallback, Llama's, as a fast tokenizer that begins with `<s>`."""
    try:
        fields = list(_read_fields(path.read_bytes()))
        pieces = [dict(_read_fields(value)) for number, value in fields if number == 1]
        names = [piece[1].decode("utf-8") for piece in pieces]
        trainer = next((dict(_read_fields(value)) for number, value in fields if number == 2), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no sentencepiece model: {error}") from None
    if names[:3] != ["<unk>", "<s>", "</s>"] or trainer.get(3) != 2 or len(set(names)) < len(names):
        raise ModelError(
            f"{path}: begins with {names[:3]}, type {trainer.get(3)}; known: <unk>, <s>, </s>, type 2 (BPE)"
        )
    vocabulary = {name: number for number, name in enumerate(names)}
    plain = dict.fromkeys(name for name, piece in zip(names, pieces, strict=True) if piece.get(3, 1) == 1)
    splits = [(name[:cut], name[cut:]) for name in plain for cut in range(1, len(name))]
    merges = [(left, right) for left, right in splits if left in plain and right in plain]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # "▁" before every stretch of text, also after <image>: the original tokenized the text on both sides of it apart.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names[:3]])
    return tokenizer
