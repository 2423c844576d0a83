"""Facts read from the formats that researchers have them in, one family of formats a file."""

from mnemoscope.study.reading.formats import FORMATS
from mnemoscope.study.reading.questions import QUESTION_TEMPLATE
from mnemoscope.study.reading.reader import read_facts

__all__ = ["FORMATS", "QUESTION_TEMPLATE", "read_facts"]
