"""The comparison of docs/methods.md: every method on facts of relations that nothing was tuned on.

    grep -v -e country_capital_city -e adj_antonym known_to_demo.jsonl > held_out.jsonl
    python benchmarks/methods.py held_out.jsonl comparison

As `mnemoscope methods --facts`, but for short prompts. The weight on plain text was chosen on prompts of
the two relations left out. The folder keeps every finished fact; the same command goes on after a kill.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

import mnemoscope as ms
from mnemoscope.report.export import save_summary
from mnemoscope.report.terminal.methods import render_comparison
from mnemoscope.study.comparison import compare_methods
from mnemoscope.study.facts import resolve, spread
from mnemoscope.study.filter import known_facts
from mnemoscope.study.formats import read_facts

# Short prompts keep the run within an hour on two cores.
MOST_TOKENS = 10
N_FACTS = 52


def main() -> None:
    """Compare and report."""
    facts_file, folder = map(Path, sys.argv[1:3])
    model = ms.load("demo")
    resolved, _ = resolve(model.language_model, read_facts(facts_file).facts)
    kept, dropped = known_facts(model.language_model, resolved)
    short = [fact for fact in kept if len(fact.prompt.ids) <= MOST_TOKENS]
    sys.stdout.write(f"{len(kept)} facts known, {len(dropped)} not; {len(short)} with short prompts\n")

    def report(done: int, total: int) -> None:
        sys.stdout.write(f"{done} of {total}\n")
        sys.stdout.flush()

    comparison = compare_methods(model, spread(short, N_FACTS), out=folder, report=report)
    save_summary(comparison, folder)
    render_comparison(comparison, Console(width=160))


if __name__ == "__main__":
    main()
