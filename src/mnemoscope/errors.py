"""Exceptions that Mnemoscope raises on purpose.

    MnemoscopeError
    ├── PromptError            (ValueError)
    ├── TargetError            (ValueError)
    ├── OptionError            (ValueError)
    ├── FactsError             (ValueError)
    ├── UnsupportedModelError  (ValueError)
    ├── UnknownModelError      (OSError)
    ├── ModelFileError         (OSError)
    ├── OutputError            (OSError)
    └── WorkerError            (RuntimeError)

Each message is one line that says what was wrong, where, and what to do. The command line prints it to stderr
and exits with 2. The class in brackets is a second base, so that `except ValueError` works as people expect;
code of this package that catches such a class lets a `MnemoscopeError` pass first.
"""


class MnemoscopeError(Exception):
    """Base class of every error raised on purpose; its message is one line and ends with a remedy."""


class PromptError(MnemoscopeError, ValueError):
    """The prompt is empty, too long for the model's context, or cannot be tokenised."""


class TargetError(MnemoscopeError, ValueError):
    """The target is not one token of the model's vocabulary that can follow the prompt."""


class OptionError(MnemoscopeError, ValueError):
    """An option has a value that is not allowed: `top` of 0, a neuron outside the model."""


class FactsError(MnemoscopeError, ValueError):
    """A file of facts cannot be read, or no line of it can be used."""


class UnsupportedModelError(MnemoscopeError, ValueError):
    """The model failed its validation, or is of a kind that has no such parts."""


class UnknownModelError(MnemoscopeError, OSError):
    """No model of that name or folder can be opened from here."""


class ModelFileError(MnemoscopeError, OSError):
    """A model's files are there but cannot be used: damaged, incomplete, unsafe or of two models."""


class OutputError(MnemoscopeError, OSError):
    """A result cannot be written to or read from the named file."""


class WorkerError(MnemoscopeError, RuntimeError):
    """Workers of a study were killed again and again; what was done is kept."""


UPGRADE = "upgrade it: pull its repository and run `pip install .` there"


def missing_extra(what: str, extra: str) -> str:
    """Say in one sentence that something needs an optional dependency, and how to install it.

    Args:
        what: what was wanted, as the subject of the sentence, such as "serving".
        extra: the extra of pyproject.toml that has the packages.
    """
    return (
        f"{what} needs the extra {extra}, which is not installed; "
        f"run `pip install '.[{extra}]'` in a checkout of Mnemoscope"
    )
