"""Text that arrives in pieces, such as the tokens of a language model: a leading style, then sentences as they close."""

import re
from collections.abc import Iterable, Iterator

from solfa.core.errors import UserError
from solfa.tokenizers.text.sentences import SentenceSplitter
from solfa.tts.style.style_encoder import MAX_CHARACTERS

TAG = re.compile(r"^\s*<style>(.*?)</style>", re.DOTALL | re.IGNORECASE)
OPENING = "<style>"


def split_style(text: str) -> tuple[str | None, str]:
    """-> (the instruction in a leading `<style>...</style>`, or None; the text to read)."""
    tag = TAG.match(text)
    return (tag[1], text[tag.end() :]) if tag else (None, text)


def style_and_sentences(pieces: Iterator[str]) -> tuple[str | None, Iterator[str]]:
    """Reads pieces until it is sure whether the text begins with a style.

    -> (the instruction or None; the text's sentences, each as soon as the pieces close it).
    """
    start = ""
    for piece in pieces:
        start += piece
        if not _may_begin_with_style(start):
            break
    style, start = split_style(start)
    return style, _sentences(start, pieces)


def checked(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces, checked to be strings as they come.  Raises: UserError, at once where there is nothing to iterate over."""
    if not isinstance(pieces, Iterable):
        raise UserError(f"the text should be a string or an iterator of strings, not {type(pieces).__name__}")
    return map(_string, pieces)


def _string(piece: object) -> str:
    if not isinstance(piece, str):
        raise UserError(f"the text should come in strings, not {type(piece).__name__}")
    return piece


def _may_begin_with_style(start: str) -> bool:
    """Whether text that begins so may still turn out to begin with `<style>...</style>`."""
    text = start.lstrip().lower()
    if len(text) < len(OPENING):
        return OPENING.startswith(text)
    return text.startswith(OPENING) and "</style>" not in text and len(text) < MAX_CHARACTERS + 2 * len(OPENING)


def _sentences(start: str, pieces: Iterator[str]) -> Iterator[str]:
    splitter = SentenceSplitter()
    yield from splitter.push(start)
    for piece in pieces:
        yield from splitter.push(piece)
    yield from splitter.finish()
