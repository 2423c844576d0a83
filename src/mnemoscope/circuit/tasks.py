"""Tasks of circuits: pairs of clean and counterfactual prompts of equal length (docs/method.md#circuits)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemoscope.errors import FactsError, MnemoscopeError, OptionError, PromptError, TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, encode_prompt, encode_target, token_text
from mnemoscope.results.circuit import Pair

FIELDS = ("clean", "counterfactual", "answer", "counterfactual_answer")
# Names of the same fields in the subject-verb agreement files of Marks et al. (2025).
_MARKS_FIELDS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
# The counterfactual of an IOI row of MIB (Mueller et al. 2025): subject and indirect object change places.
_IOI_COUNTERFACTUAL = "s2_io_flip_counterfactual"
# An interval over pairs, and a split into halves, need so many on each side.
LEAST_PAIRS = 2
_LEAVE_OUT = ", or set a limit, which leaves out pairs that cannot be used"

# A file of pairs; or pairs themselves, as `Pair` or as rows with the fields of a file.
Task = str | Path | Iterable[Pair | Mapping[str, Any]]


@dataclass(frozen=True)
class EncodedPair:
    """Pair of prompts in tokens, with the ids of their answers."""

    pair: Pair
    clean: Prompt
    counterfactual: Prompt
    answer: int
    counterfactual_answer: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens of each of the two prompts."""
        return len(self.clean.ids)


def read_pairs(task: Task) -> tuple[Pair, ...]:
    """Read the pairs of a task.

    A file holds one JSON object a line, with the fields `clean`, `counterfactual`, `answer` and
    `counterfactual_answer`, those of Marks et al. (`clean_prefix`, `patch_prefix`, `clean_answer`,
    `patch_answer`), or those of MIB's IOI rows. Empty lines are skipped.

    Raises:
        FactsError: the file cannot be read, or a line or row is no pair.
        OptionError: the task is no list of pairs.
    """
    if isinstance(task, str | Path):
        return _read_file(Path(task).expanduser())
    if isinstance(task, Pair | Mapping) or not isinstance(task, Iterable):
        raise OptionError(f"the task is {task!r}; give a list of pairs or the path of a file")
    return tuple(
        row if isinstance(row, Pair) else _pair(row, f"pair {number}") for number, row in enumerate(task, 1)
    )


def _read_file(path: Path) -> tuple[Pair, ...]:
    try:
        # Not `splitlines`, which also splits at characters that a prompt may hold, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise FactsError(f"cannot read {path}: {error.strerror or error}; check the name") from error
    except UnicodeDecodeError as error:
        raise FactsError(
            f"cannot read {path}: it is not UTF-8; convert it, with iconv for instance"
        ) from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FactsError(f"{where} is no JSON object; write one pair a line") from error
        pairs.append(_pair(row, where))
    return tuple(pairs)


def _pair(row: Any, where: str) -> Pair:
    if not isinstance(row, Mapping):
        raise FactsError(f"{where} is no JSON object; write one with the fields {', '.join(FIELDS)}")
    if _IOI_COUNTERFACTUAL in row:
        names, other = row.get("metadata"), row[_IOI_COUNTERFACTUAL]
        if not isinstance(names, Mapping) or not isinstance(other, Mapping):
            raise FactsError(f"{where} has no metadata or no counterfactual; take the rows of mib-bench/ioi")
        found = (row.get("prompt"), other.get("prompt"), *map(names.get, ("indirect_object", "subject")))
        fields: Sequence[str] = ("prompt", f"{_IOI_COUNTERFACTUAL}.prompt", "indirect_object", "subject")
        values = [f" {value}" if i > 1 and isinstance(value, str) else value for i, value in enumerate(found)]
    else:
        fields = _MARKS_FIELDS if _MARKS_FIELDS[0] in row else FIELDS
        values = [row.get(field) for field in fields]
    for field, value in zip(fields, values, strict=True):
        if not isinstance(value, str) or not value:
            raise FactsError(f"{where} has no text in the field {field!r}; write one")
    return Pair(*values)  # pyright: ignore[reportArgumentType]


def encode_pairs(
    language_model: LanguageModel,
    pairs: Sequence[Pair],
    *,
    n_tokens: int | None = None,
    same_length: bool = False,
    limit: int | None = None,
    name: str = "pair",
) -> list[EncodedPair]:
    """Tokenise and check pairs.

    Args:
        language_model: the model.
        pairs: the pairs.
        n_tokens: number of tokens that all prompts must have; None for any.
        same_length: whether all prompts must have as many tokens as those of the first pair.
        limit: number of pairs to take: the first ones that can be used, while others are left out; None
            takes all, and refuses them if one cannot be used.
        name: of a pair, for messages.

    Raises:
        OptionError: there are fewer than two pairs, or `limit` is below 2.
        PromptError: a prompt is empty or too long, the prompts of a pair differ in length, or have another
            length than `n_tokens`.
        TargetError: an answer is not one token after its prompt, or the answers of a pair are the same.
    """
    if limit is not None and limit < LEAST_PAIRS:
        raise OptionError(f"the limit is {limit}; give {LEAST_PAIRS} pairs or more")
    if len(pairs) < LEAST_PAIRS:
        raise OptionError(
            f"there {'is' if len(pairs) == 1 else 'are'} {len(pairs)} {name}"
            f"{'' if len(pairs) == 1 else 's'}, and a circuit needs {LEAST_PAIRS} or more to find it "
            "and as many to test it; give more"
        )
    found: list[EncodedPair] = []
    errors: list[MnemoscopeError] = []
    for number, pair in enumerate(pairs, 1):
        if len(found) == limit:
            break
        try:
            found.append(_encode(language_model, pair, n_tokens))
        except (PromptError, TargetError) as error:
            errors.append(type(error)(f"{name} {number}: {error}"))
            if limit is None:
                raise errors[0] from error
            continue
        if same_length:
            n_tokens = found[0].n_tokens
    if len(found) < LEAST_PAIRS:
        raise errors[0]
    return found


def _encode(language_model: LanguageModel, pair: Pair, n_tokens: int | None) -> EncodedPair:
    clean, counterfactual = (
        encode_prompt(language_model, text) for text in (pair.clean, pair.counterfactual)
    )
    if len(clean.ids) != len(counterfactual.ids):
        raise PromptError(
            f"the clean prompt has {len(clean.ids)} tokens and the counterfactual one "
            f"{len(counterfactual.ids)}; give prompts of equal length{_LEAVE_OUT}"
        )
    if n_tokens is not None and len(clean.ids) != n_tokens:
        raise PromptError(
            f"its prompts have {len(clean.ids)} tokens, and those of pair 1 have {n_tokens}; find a circuit "
            f"without positions{_LEAVE_OUT}"
        )
    answer = encode_target(language_model, clean, pair.answer)
    other = encode_target(language_model, clean, pair.counterfactual_answer)
    if answer == other:
        shown = token_text(language_model.tokenizer, answer)
        raise TargetError(f"both answers are {shown!r}; give a counterfactual answer that differs")
    return EncodedPair(pair, clean, counterfactual, answer, other)


def split_pairs(train: Sequence[Pair], test: Sequence[Pair] | None) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return training and test pairs; without test pairs every second pair is held out.

    Raises:
        OptionError: there are too few pairs to hold some out.
    """
    if test is not None:
        return train, test
    if len(train) < 2 * LEAST_PAIRS:
        raise OptionError(
            f"there {'is' if len(train) == 1 else 'are'} {len(train)} of the {2 * LEAST_PAIRS} pairs that "
            "are needed to find a circuit on half of them and test it on the others; give more, or test pairs"
        )
    return train[::2], train[1::2]
