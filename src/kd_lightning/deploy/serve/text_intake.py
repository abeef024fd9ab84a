"""Texts from strangers: measured and looked through, or refused with a reason."""

from __future__ import annotations

import unicodedata
from typing import Any

from kd_lightning.deploy.outputs import task_of
from kd_lightning.deploy.serve.intake import RefusedError, text_under

# Control characters that texts do have.
LAYOUT = "\t\n\r"


class TextIntake:
    """Texts as JSON; the model behind gets ``{"text": ...}``, of pairs ``pair`` too.

    Args:
        preprocessing: Whether texts come in pairs, and the token of a mask where one must be in them.
        max_characters: Longest text.
    """

    kinds = ("application/json",)

    def __init__(self, preprocessing: dict[str, Any], max_characters: int) -> None:
        self.keys = ("text", "pair") if preprocessing.get("pair") else ("text",)
        within = task_of(preprocessing).must_hold
        self.mask = preprocessing[within] if within else None
        self.max_characters = max_characters
        inside = ", ".join(f'"{key}": "..."' for key in self.keys)
        self.how = f"Send application/json: {{{inside}}}."
        # A character takes twelve bytes at most, as two escaped surrogates; names take a little.
        self.max_body = 12 * max_characters * len(self.keys) + 65_536
        self.too_large = f"The request is too large; texts have at most {max_characters:,} characters."

    def from_json(self, content: Any) -> dict[str, str]:
        """The texts of ``{"text": "..."}``."""
        found = {key: self._checked(text_under(content, key, self.how), key) for key in self.keys}
        if self.mask is not None and self.mask not in found["text"]:
            raise RefusedError(422, f"The text has no {self.mask} to be filled in.")
        return found

    def from_file(self, data: bytes) -> dict[str, str]:
        """Files are not taken."""
        raise RefusedError(415, f"Files are not taken. {self.how}")

    def _checked(self, text: str, key: str) -> str:
        if len(text) > self.max_characters:
            raise RefusedError(
                413, f'The text under "{key}" has {len(text):,} characters; at most {self.max_characters:,} are taken.'
            )
        if not text.strip():
            raise RefusedError(400, f'The text under "{key}" is empty.')
        for place, letter in enumerate(text):
            if letter not in LAYOUT and unicodedata.category(letter) in ("Cc", "Cs"):
                kind = "half a surrogate pair" if 0xD800 <= ord(letter) <= 0xDFFF else "a control character"
                raise RefusedError(
                    422, f'The text under "{key}" has {kind} (U+{ord(letter):04X}) at position {place + 1}.'
                )
        return text
