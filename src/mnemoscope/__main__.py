"""The command `mnemoscope`, and `python -m mnemoscope`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback while it imports its modules too."""
    try:
        from mnemoscope import cli  # noqa: PLC0415 - within the `try`

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
