"""Processes forked from one that has imported what they all need, so that their own start takes no time.

A process has one fork server, which imports what was named last before its first fork: so all is named here.
"""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "mnemoscope.api", "gguf_openings", "store_writer", "studies"]
)
