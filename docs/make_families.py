"""Write the tables of `families.md` from validations run on this machine: `python docs/make_families.py`."""

import sys
from pathlib import Path

import pandas as pd
import transformers

from mnemoscope.model.families.registry import OURS, VALIDATED, validate_families

PAGE = Path(__file__).parent / "families.md"
# The tests refuse a tiny model of each.
sys.path.append(str(PAGE.parents[1] / "tests"))
from unsupported_families import UNSUPPORTED  # noqa: E402


def main() -> None:
    """Write the page's two tables anew."""
    PAGE.write_text(page(validate_families()), encoding="utf-8")


def page(validated: pd.DataFrame) -> str:
    """Return the page with tables of these validations."""
    text = PAGE.read_text(encoding="utf-8")
    text = _between(text, "validated", _validated_rows(validated[validated["package"] == OURS]))
    return _between(text, "refused", _refused_rows())


def _validated_rows(validated: pd.DataFrame) -> list[str]:
    failed = validated[validated["status"] != VALIDATED]
    if len(failed):
        raise SystemExit(f"not validated here: {', '.join(failed['family'])}")
    worst = validated["worst_error"].max()
    return [
        f"{len(validated)} configurations of {validated['family'].nunique()} families, validated with "
        f"transformers {transformers.__version__}; the largest error of any sum is {worst:.0e}.",
        "",
        "| family | type in transformers | variant | attention | final norm | worst error |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.family} | `{row.model_type}` | {row.variant} | {row.attention} | {row.norm} "
            f"| {row.worst_error:.0e} |"
            for row in validated.sort_values(
                ["family", "variant"], key=lambda names: names.str.lower()
            ).itertuples()
        ),
    ]


def _refused_rows() -> list[str]:
    return [
        "| family | type in transformers | why |",
        "|---|---|---|",
        *(f"| {row.name} | `{row.model_type}` | {row.why} |" for row in sorted(UNSUPPORTED)),
    ]


def _between(text: str, name: str, lines: list[str]) -> str:
    """Replace the lines between the two comments of a name."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return before + start + "\n".join(lines) + "\n" + end + after


if __name__ == "__main__":
    main()
