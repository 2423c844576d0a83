"""Rows of data sets on the hub, fetched by the package `datasets`, which runs no code of theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnemoscope.errors import FactsError
from mnemoscope.installing import missing_extra
from mnemoscope.study.reading.items import Item

PREFIX = "hub:"
NOTATION = f"{PREFIX}OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]"
_SOURCE = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^:]*)(:(?P<split>[\w.-]+))?)?"
)


def hub_rows(source: str, keys: frozenset[str]) -> Iterator[Item]:
    """The rows of one split of a data set.

    Args:
        source: as `NOTATION` says; config and split may be left out where there is one only.
        keys: the columns to read.

    Raises:
        FactsError: it is written otherwise, cannot be fetched or has several splits, or the package is
            absent.
    """
    asked = _SOURCE.fullmatch(source.removeprefix(PREFIX))
    if asked is None:
        raise FactsError(f"{source!r} names no data set; write {NOTATION}")
    dataset = _fetched(source, asked["name"], asked["config"] or None, asked["split"], asked["revision"])
    columns = [name for name in dataset.column_names if name in keys]
    for number, row in enumerate(dataset.select_columns(columns), 1):
        yield Item(number, dict(row), unit="row")


def _fetched(source: str, name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FactsError(missing_extra(f"{source}, a data set of the hub,", "study")) from error
    if Path(name).exists():
        raise FactsError(
            f"{source} cannot be told from the folder {name} here, which would be read instead; go elsewhere"
        )
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the package's parts each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FactsError(
            f"cannot read {source}: {reason}; check name, config and split ({NOTATION}), the network and, "
            "for a private one, your access token"
        ) from error
    if not isinstance(found, datasets.DatasetDict):
        return found
    splits = list(map(str, found))
    if len(splits) > 1:
        named = f"{PREFIX}{name}{f'@{revision}' if revision else ''}:{config or ''}:{splits[0]}"
        raise FactsError(f"{source} has the splits {', '.join(splits)}; name one, as in {named}")
    return found[splits[0]]
