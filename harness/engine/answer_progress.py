"""How far a model's text is: which of its tokens are thoughts, and which count for the limit of its answer.

    marks = MarkTokens(lambda tokens: rules.text_of(tokens, ()), special=rules.thought_marks, own=rules.own_marks)
    progress = Progress(prompt, limit=16, room=4096, marks=marks)
    progress.note(tokens)       # all tokens written so far, after each new one
    progress.in_thought, progress.is_spent, progress.start

A limit is of the answer alone: a thought has `room` tokens of its own. The prompt may have opened it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from tasks.thoughts import MARKS, PHRASES, Pairs, split_thoughts

_LAST_PIECES: Final = (">", "]", ":", "▷", ".", "\n", "ought", "final", "\ufffd")
"""What the last token of a mark has, or the last byte of one."""
_OTHER_ENDS: Final = ("assistantfinal",)


class MarkTokens:
    """Tells at which tokens a mark of thoughts may be complete. `decode` gives the text of tokens, marks that are
    special tokens (`special`) included; `own`: marks that the model's template names."""

    def __init__(self, decode: Callable[[Sequence[int]], str], special: Collection[int], own: Pairs = ()) -> None:
        self.decode, self._special, self.own = decode, special, own
        self._pairs = (*MARKS, *own)
        self._marks = [mark.lower() for pair in (*self._pairs, *PHRASES) for mark in pair]
        self._longest = 4 * max(map(len, self._marks))
        """Tokens that a mark has at most: a character may take four."""
        self._known: dict[int, bool] = {}

    def may_end(self, token: int) -> bool:
        """Whether this token may be the last one of a mark."""
        if token not in self._known:
            text = self.decode([token]).lower()
            self._known[token] = token in self._special or any(piece in text for piece in _LAST_PIECES)
        return self._known[token]

    def has_mark(self, tokens: Sequence[int]) -> bool:
        """Whether one of the last tokens ends a mark."""
        text = self.decode(tokens[-self._longest :]).lower()
        return any(mark in text for mark in (*self._marks, *_OTHER_ENDS))

    def begins_mark(self, tokens: Sequence[int]) -> bool:
        """Whether all of these tokens are the beginning of a mark that opens a thought."""
        text = self.decode(tokens).strip().lower() if len(tokens) <= self._longest else ""
        return bool(text) and any(opening.lower().startswith(text) for opening, _ in self._pairs)


class Progress:
    """See the module's docstring. One row's; `limit` and `room` are numbers of tokens; without room, thoughts count for
    the limit."""

    def __init__(self, prompt: str, *, limit: int, room: int, marks: MarkTokens) -> None:
        self.prompt, self.limit, self.room, self.marks = prompt, limit, room, marks
        self.written = 0
        """Tokens so far."""
        self.start = 0
        """The place of the answer's first token; of a thought's, while one is open."""
        self.in_thought = split_thoughts("", prompt, own=marks.own).answer is None
        self.thoughts = 0
        """Thoughts that have ended."""
        self._begins_mark = False

    def note(self, tokens: Sequence[int]) -> None:
        """What the newest of these tokens changes."""
        self.written = len(tokens)
        self._begins_mark = self.thoughts == 0 and self.written >= self.limit and self.marks.begins_mark(tokens)
        if not self.marks.may_end(tokens[-1]) or not self.marks.has_mark(tokens):
            return
        parts = split_thoughts(self.marks.decode(tokens), self.prompt, own=self.marks.own)
        is_open = parts.answer is None
        ended = len(parts.thoughts) - is_open
        if is_open != self.in_thought or ended > self.thoughts:
            self.start = self.written
        self.in_thought, self.thoughts = is_open, ended

    @property
    def is_spent(self) -> bool:
        """Whether the thought or the answer has all the tokens that it may have."""
        if not self.room:
            return self.written >= self.limit
        if self.in_thought:
            return self.written - self.start >= self.room
        return self.written - self.start >= self.limit and not self._begins_mark

    @property
    def met_thoughts(self) -> bool:
        """Whether there were any."""
        return self.in_thought or self.thoughts > 0
