"""Sentences about installing extras from a checkout: Mnemoscope is on no package index."""

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
