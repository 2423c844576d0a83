"""The formats by name."""

from __future__ import annotations

from mnemoscope.study.reading.items import Format
from mnemoscope.study.reading.questions import FREEBASEQA, QUESTIONS, TRIVIAQA
from mnemoscope.study.reading.relations import LRE, PARAREL
from mnemoscope.study.reading.rows import COUNTERFACT, FACTS, KNOWN

FORMATS: dict[str, Format] = {
    form.name: form for form in (FACTS, KNOWN, COUNTERFACT, LRE, PARAREL, QUESTIONS, TRIVIAQA, FREEBASEQA)
}
