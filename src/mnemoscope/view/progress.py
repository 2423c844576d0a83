"""Progress of long computations, on stderr or in a notebook."""

from __future__ import annotations

from tqdm.auto import tqdm


class ProgressBars:
    """A progress bar for each kind of part, on stderr."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        """So many of so many columns of a kind are done."""
        bar = self.bars.setdefault(name, tqdm(total=total, desc=name))
        bar.update(done - bar.n)
        if done == total:
            bar.close()
