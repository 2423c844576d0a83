"""The tree of exceptions that Mnemoscope raises on purpose.

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

Each message is one line: what is wrong, where, what to do. The command line prints it to stderr and exits
with code 2. The class in brackets is a second base, so that `except ValueError` works as usual; code of this
package that catches such a class lets a `MnemoscopeError` pass first.
"""


class MnemoscopeError(Exception):
    """Base class; its message is one line and ends with a remedy."""


class PromptError(MnemoscopeError, ValueError):
    """Prompt that is empty, too long for the model's context, or cannot be tokenised."""


class TargetError(MnemoscopeError, ValueError):
    """Target that is not a token of the model's vocabulary or cannot follow the prompt."""


class OptionError(MnemoscopeError, ValueError):
    """Option with a value that is not allowed: `top` of 0, a neuron outside the model."""


class FactsError(MnemoscopeError, ValueError):
    """File of facts, pairs or texts that cannot be read, or of which no line can be used."""


class UnsupportedModelError(MnemoscopeError, ValueError):
    """Model that failed its validation, or is of a kind without heads and neurons."""


class UnknownModelError(MnemoscopeError, OSError):
    """Name, folder or hub id under which no model can be opened."""


class ModelFileError(MnemoscopeError, OSError):
    """Model file that cannot be used: damaged, incomplete, unsafe or of another model."""


class OutputError(MnemoscopeError, OSError):
    """File that a result cannot be written to or read from."""


class WorkerError(MnemoscopeError, RuntimeError):
    """Workers of a study killed repeatedly; finished tasks are kept."""


UPGRADE = "upgrade it: pull its repository and run `pip install .` there"


def missing_extra(what: str, extra: str) -> str:
    """Return the message for a missing optional dependency.

    Args:
        what: subject of the sentence, such as "serving".
        extra: extra of pyproject.toml that has the packages.
    """
    return (
        f"{what} needs the extra {extra}, which is not installed; "
        f"run `pip install '.[{extra}]'` in a checkout of Mnemoscope"
    )
