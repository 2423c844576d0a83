"""The errors a caller can cause or meet, each with a message of what, where and what to do.

Every class derives from `MnemoscopeError`; the command line turns them into one line on
stderr and exit code 2.
"""


class MnemoscopeError(Exception):
    """Base of every error raised on purpose; its message is one line and ends with a remedy."""


class PromptError(MnemoscopeError):
    """The prompt is empty, too long for the model's context, or cannot be tokenised."""


class TargetError(MnemoscopeError):
    """The target is not one token of the model's vocabulary that can follow the prompt."""


class OptionError(MnemoscopeError):
    """An option lies outside what it may be (`top` of 0, a neuron outside the model, an unknown choice)."""


class UnknownModelError(MnemoscopeError):
    """No model of that name or folder can be opened from here."""


class ModelFileError(MnemoscopeError):
    """A model's files are there but cannot be used: damaged, incomplete, unsafe or of two models."""


class UnsupportedModelError(MnemoscopeError):
    """The model failed the proof at load time, or is of a kind that has no such parts."""


class OutputError(MnemoscopeError):
    """A result cannot be written to or read from the named file."""


class WorkerError(MnemoscopeError):
    """Workers of a study were killed again and again; what was done is kept."""


class FactsError(MnemoscopeError):
    """A file of facts cannot be read, or no line of it can be used."""
