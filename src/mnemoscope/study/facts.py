"""Facts to study: read from a file, turned into tokens, and filtered to those that the model knows."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnemoscope.errors import FactsError, OptionError, PromptError, TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.proof import TOLERANCES
from mnemoscope.model.tokens import Prompt, encode_prompt, encode_target, token_text

EXAMPLE = '{"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}'
TOKENS_PER_PASS = 256  # a trace keeps the values of every position, half a megabyte each in a 7B model
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Beginnings of the Unicode names of letters whose languages put no space before a word.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


@dataclass(frozen=True)
class Fact:
    """One line of a facts file.

    Attributes:
        line: its number in the file, from 1.
        prompt: the text before the target.
        target: the answer, as written in the file.
        relation: the type of knowledge; answers of one relation compete with each other.
    """

    line: int
    prompt: str
    target: str
    relation: str


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be used.

    Attributes:
        line: its number in the file, from 1.
        reason: what is wrong with it and what to do.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class FactFile:
    """What a facts file holds, both in the order of its lines.

    Attributes:
        facts: of the good lines, at least one.
        bad_lines: the others; empty lines are neither.
    """

    facts: tuple[Fact, ...]
    bad_lines: tuple[BadLine, ...]


@dataclass(frozen=True)
class ResolvedFact:
    """A fact as the model reads it.

    Attributes:
        fact: as written in the file.
        prompt: its prompt in tokens.
        target: id of the one token that its target is after the prompt.
    """

    fact: Fact
    prompt: Prompt
    target: int


@dataclass(frozen=True)
class Dropped:
    """A fact that the filter takes out.

    Attributes:
        fact: as written in the file.
        reason: what the model predicts instead.
    """

    fact: Fact
    reason: str


def read_facts(path: Path) -> FactFile:
    """Read facts from a JSON Lines file.

    Each line is an object with the texts `prompt`, `target` and `relation` (or `type`); other keys
    are ignored. One bad line must not cost a study of thousands, so it is set aside and told.

    Raises:
        FactsError: the file cannot be read, or no line of it is good.
    """
    path = path.expanduser()
    facts: list[Fact] = []
    bad_lines: list[BadLine] = []
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if not content.strip():
                    continue
                try:
                    facts.append(_parse(number, content))
                except ValueError as error:
                    bad_lines.append(BadLine(number, str(error)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FactsError(f"cannot read {path}: {reason}; name a file of lines like {EXAMPLE}") from error
    if not facts:
        raise FactsError(_no_fact(path, bad_lines))
    return FactFile(tuple(facts), tuple(bad_lines))


def resolve(language_model: LanguageModel, facts: Iterable[Fact]) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Turn prompts and targets into tokens.

    Files of facts write the bare answer ("Paris"), so a target that begins with a letter or digit
    gets the space that the next word needs; not after white space, nor in scripts without spaces.

    Returns:
        The facts whose target is one token after their prompt, and the lines of the others.
    """
    resolved, bad_lines = [], []
    for fact in facts:
        try:
            prompt = encode_prompt(language_model, fact.prompt)
            target = encode_target(language_model, prompt, _spaced(fact))
        except (PromptError, TargetError) as error:
            bad_lines.append(BadLine(fact.line, str(error)))
        else:
            resolved.append(ResolvedFact(fact, prompt, target))
    return resolved, bad_lines


def known_facts(
    language_model: LanguageModel, resolved: Sequence[ResolvedFact], rank: int = 10
) -> tuple[list[ResolvedFact], list[Dropped]]:
    """The paper's filter (METHOD section 8): keep the facts that the model knows.

    A fact is kept if its target is among the model's `rank` likeliest next tokens and likelier than
    the target of every other fact of its relation. Those others come from `resolved` alone, so part
    of a file is filtered less strictly than the whole. Prompts run in batches; a verdict that the
    rounding of a batch could turn is taken from the prompt alone, so that each fact is judged as a
    single prompt would be (the rank told in a reason may still differ by such a rounding).

    Returns:
        The facts kept and the facts dropped, each in the order given.

    Raises:
        OptionError: `rank` is below 1.
    """
    if rank < 1:
        raise OptionError(f"rank is {rank}; give 1 or more, such as the paper's 10")
    judge = _Judge(language_model, _answers(resolved), rank)
    kept, dropped = [], []
    for fact, reason in zip(resolved, judge.reasons(resolved), strict=True):
        if reason is None:
            kept.append(fact)
        else:
            dropped.append(Dropped(fact.fact, reason))
    return kept, dropped


def spread(resolved: Sequence[ResolvedFact], n: int) -> list[ResolvedFact]:
    """At most n facts, as many of each relation as can be, taken at even distances, in their order.

    The first lines of a file tend to be one subject in several wordings.

    Raises:
        OptionError: `n` is below 1.
    """
    if n < 1:
        raise OptionError(f"the limit is {n}; give 1 fact or more")
    places: dict[str, list[int]] = {}
    for place, fact in enumerate(resolved):
        places.setdefault(fact.fact.relation, []).append(place)
    shares = dict.fromkeys(places, 0)
    while sum(shares.values()) < min(n, len(resolved)):
        left = [relation for relation in shares if shares[relation] < len(places[relation])]
        shares[min(left, key=shares.__getitem__)] += 1
    chosen = [
        of_relation[i * len(of_relation) // share]
        for of_relation, share in zip(places.values(), shares.values(), strict=True)
        for i in range(share)
    ]
    return [resolved[place] for place in sorted(chosen)]


def _parse(number: int, line: bytes) -> Fact:
    """The fact that a line holds.

    Raises:
        ValueError: it holds none; the message is the reason of a `BadLine`.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("it is not valid UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too long or too deep"
        raise ValueError(
            f"it is not valid JSON ({reason}); write one object a line like {EXAMPLE}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"it is not an object; write one like {EXAMPLE}")
    relation = "relation" if row.get("relation") is not None or "type" not in row else "type"
    return Fact(number, *(_text(row, key) for key in ("prompt", "target", relation)))


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        wanted = '"relation" or "type"' if key == "relation" else f'"{key}"'
        raise ValueError(f"it has no {wanted}; write an object like {EXAMPLE}")
    value = row[key]
    if not isinstance(value, str):
        raise ValueError(f'its "{key}" is not a text; put it in double quotes')
    if not value.strip():
        raise ValueError(f'its "{key}" is empty; fill it in or delete the line')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'its "{key}" holds half of a surrogate pair; give valid Unicode text') from error
    return value


def _no_fact(path: Path, bad_lines: list[BadLine]) -> str:
    if not bad_lines:
        return f"no fact in {path}: it is empty; write lines like {EXAMPLE}"
    first = bad_lines[0]
    return f"no fact in {path}: none of its {len(bad_lines)} lines is good; line {first.line}: {first.reason}"


def _spaced(fact: Fact) -> str:
    first = fact.target[0]
    is_word = first.isalnum() and not unicodedata.name(first, "").startswith(_UNSPACED)
    return f" {fact.target}" if is_word and not fact.prompt[-1].isspace() else fact.target


def _answers(resolved: Sequence[ResolvedFact]) -> dict[str, list[int]]:
    """The targets of each relation, ascending."""
    targets: dict[str, set[int]] = {}
    for fact in resolved:
        targets.setdefault(fact.fact.relation, set()).add(fact.target)
    return {relation: sorted(ids) for relation, ids in targets.items()}


def _batches(resolved: Sequence[ResolvedFact]) -> Iterator[list[int]]:
    """Indices of facts whose prompts are of one length, as many as fit in one pass."""
    groups: dict[int, list[int]] = {}
    for index, fact in enumerate(resolved):
        groups.setdefault(len(fact.prompt.ids), []).append(index)
    for length, indices in groups.items():
        size = max(1, TOKENS_PER_PASS // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _log_probabilities(language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Of the next token after prompts of one length, `[n_prompts, n_vocabulary]`, in one pass."""
    states = torch.stack([trace.final_state for trace in language_model.capture(prompts)])
    # An axis of one makes the norm's scale [n_prompts, 1]: each state is read out with its own.
    return language_model.anatomy.readout.freeze(states[:, None]).log_probabilities(states)


@dataclass(frozen=True)
class _Judge:
    """Decides which facts a model knows.

    Attributes:
        language_model: the model.
        answers: token ids that compete with each other, by relation.
        rank: how many of the likeliest tokens the target must be among.
    """

    language_model: LanguageModel
    answers: dict[str, list[int]]
    rank: int

    def reasons(self, resolved: Sequence[ResolvedFact]) -> list[str | None]:
        """Why each fact is dropped; None for those kept."""
        reasons: list[str | None] = [None] * len(resolved)
        for batch in _batches(resolved):
            prompts = [resolved[index].prompt.ids for index in batch]
            for index, row in zip(batch, _log_probabilities(self.language_model, prompts), strict=True):
                certain = len(batch) == 1 or self._is_certain(resolved[index], row)
                reasons[index] = self._reason(
                    resolved[index], row if certain else self._alone(resolved[index])
                )
        return reasons

    def _alone(self, fact: ResolvedFact) -> Tensor:
        return _log_probabilities(self.language_model, [fact.prompt.ids])[0]

    def _is_certain(self, fact: ResolvedFact, log_p: Tensor) -> bool:
        """Whether the verdict stays when the target moves by as much as rounding can move it."""
        # What equal computations may differ by is what the proof at load time allows them.
        relative = TOLERANCES.get(self.language_model.model.dtype, TOLERANCES[torch.bfloat16])
        slack = relative * log_p.abs().max()
        value, others = log_p[fact.target], self._others(fact, log_p)
        return self._passes(fact, value - slack, others) == self._passes(fact, value + slack, others)

    def _others(self, fact: ResolvedFact, log_p: Tensor) -> Tensor:
        others = log_p.clone()
        others[fact.target] = -torch.inf
        return others

    def _passes(self, fact: ResolvedFact, value: Tensor, others: Tensor) -> bool:
        rivals = others[self.answers[fact.fact.relation]]
        return bool((others > value).sum() < self.rank and (rivals < value).all())

    def _reason(self, fact: ResolvedFact, log_p: Tensor) -> str | None:
        if not log_p.isfinite().all():
            return (
                "the model predicts NaN or infinite values after the prompt; check the weights, "
                "or load half-precision weights as float32"
            )
        value, others = log_p[fact.target], self._others(fact, log_p)
        if self._passes(fact, value, others):
            return None
        tokenizer = self.language_model.tokenizer
        target = repr(token_text(tokenizer, fact.target))
        found = int((others > value).sum()) + 1
        if found > self.rank:
            return f"{target} is number {found} of the model's next tokens, not among the first {self.rank}"
        answers = self.answers[fact.fact.relation]
        rival = token_text(tokenizer, answers[int(others[answers].argmax())])
        return f"{rival!r}, another answer of the relation, is as likely as {target} or more"
