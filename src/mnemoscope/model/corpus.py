"""Corpora: texts of a file, a data set or the package, cut into windows of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from mnemoscope._rows import ENDINGS, PREFIX, SourceItem, file_items, hub_rows, opened
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.model.encoding import encode_text, front_tokens
from mnemoscope.model.language_model import LanguageModel

# Name of the corpus that comes with the package.
BUILTIN = "builtin"
# Columns and keys that hold the text of a row, the first that is there.
TEXT_KEYS = ("text", "content")
TEXT_ENDING = ".txt"

Source = str | Path | Iterable[str] | None


@dataclass(frozen=True)
class Corpus:
    """Texts that can be read any number of times, always in one order.

    Attributes:
        name: path, name of a data set, `"builtin"` or `"texts"`.
        read: returns an iterator of the texts; a blank one, which no window is cut of, keeps its number.
        digest: SHA-256 of the texts.
        n_documents: number of texts, blank ones included.
    """

    name: str
    read: Callable[[], Iterator[str]]
    digest: str
    n_documents: int


def open_corpus(source: Source) -> Corpus:
    """Read a corpus once, to check and to digest it.

    Args:
        source: None or `"builtin"` for the package's own; a text file (a text for each paragraph, or for each
            line where no line is blank); a JSON, CSV or Parquet file or a data set of the hub
            (`hub:owner/name:config:split`) whose rows have `text` or `content`; or texts.

    Raises:
        FactsError: the corpus cannot be read, a row has no text, or there is none.
        OptionError: the source is none of these.
    """
    name, read = _reader(source)
    digest, n_documents, n_characters = hashlib.sha256(), 0, 0
    for text in read():
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
        n_documents += 1
        n_characters += len(text.strip())
    if not n_characters:
        raise FactsError(f"the corpus {name} has no text; give one with at least one line")
    return Corpus(name, read, digest.hexdigest(), n_documents)


def _reader(source: Source) -> tuple[str, Callable[[], Iterator[str]]]:
    if source is None or source == BUILTIN:
        return BUILTIN, partial(_text_file, Path(str(files("mnemoscope") / "data" / "corpus.txt")))
    if isinstance(source, str) and source.startswith(PREFIX):
        return source, lambda: _texts(source, hub_rows(source, frozenset(TEXT_KEYS)))
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix.lower() == TEXT_ENDING:
            return str(source), partial(_text_file, path)
        if path.suffix.lower() not in ENDINGS:
            raise FactsError(
                f"cannot read {source} as a corpus: name a file that ends in {TEXT_ENDING}, "
                f"{', '.join(ENDINGS)}, a data set as {PREFIX}OWNER/NAME, or {BUILTIN!r}"
            )
        return str(source), lambda: _texts(str(source), file_items(path, frozenset(TEXT_KEYS)))
    if not isinstance(source, Iterable):
        raise OptionError(f"the corpus is {source!r}; give a list of texts or the path of a file")
    items = [SourceItem(number, text, unit="text") for number, text in enumerate(source, 1)]
    return "texts", lambda: _texts("the list", items)


def _text_file(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a text file, or its lines if no blank line separates any."""
    with opened(path) as stream:
        filled = parted = by_paragraph = False
        for line in stream:
            blank = not line.strip()
            by_paragraph = by_paragraph or (parted and not blank)
            parted = parted or (filled and blank)
            filled = filled or not blank
        stream.seek(0)
        paragraph: list[str] = []
        for number, content in enumerate(stream, 1):
            try:
                line = content.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
            except UnicodeDecodeError as error:
                raise FactsError(
                    f"cannot read {path}: line {number} is not UTF-8; convert it, with iconv for instance"
                ) from error
            if line:
                paragraph.append(line)
            if paragraph and not (line and by_paragraph):
                yield "\n".join(paragraph)
                paragraph = []
        if paragraph:
            yield "\n".join(paragraph)


def _texts(name: str, items: Iterable[SourceItem]) -> Iterator[str]:
    for item in items:
        if item.problem:
            raise FactsError(f"cannot read {name}: {item.place}: {item.problem}")
        text: Any = item.value
        if isinstance(text, dict):
            text = next((text[key] for key in TEXT_KEYS if text.get(key) is not None), None)
        if not isinstance(text, str):
            raise FactsError(
                f"cannot read {name} as a corpus: {item.place} has no text under "
                f"{' or '.join(TEXT_KEYS)}; name the column so"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FactsError(
                f"cannot read {name}: {item.place} holds half of a surrogate pair; give valid Unicode text"
            ) from error
        yield text


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one text, run by themselves.

    Attributes:
        ids: token ids, special tokens in front included.
        n_front: number of special tokens in front.
        document: number of the text, from 0.
        start: first of its tokens that the window holds, from 0.
    """

    ids: tuple[int, ...]
    n_front: int
    document: int
    start: int


def check_window(language_model: LanguageModel, length: int) -> None:
    """Refuse windows that hold no token of a text, or more tokens than the model reads.

    Raises:
        OptionError: the length is too small or too large.
    """
    least, most = len(front_tokens(language_model.tokenizer)) + 1, language_model.context
    if length < least or (most is not None and length > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise OptionError(f"the window is {length} tokens; give {allowed}")


def cut_windows(language_model: LanguageModel, corpus: Corpus, length: int) -> Iterator[Window]:
    """Yield the windows of a corpus in order: each text cut into pieces that do not overlap.

    Args:
        language_model: the model.
        corpus: the texts.
        length: number of tokens of a window, special tokens in front included; the last of a text is shorter.
    """
    front = tuple(front_tokens(language_model.tokenizer))
    room = length - len(front)
    for document, text in enumerate(corpus.read()):
        if not text.strip():
            continue
        ids = tuple(encode_text(language_model.tokenizer, text, add_special_tokens=False))
        if front and ids[: len(front)] == front:
            ids = ids[len(front) :]
        for start in range(0, len(ids), room):
            yield Window((*front, *ids[start : start + room]), len(front), document, start)
