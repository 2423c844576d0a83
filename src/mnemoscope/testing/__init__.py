"""Tiny transformers models with known facts, to check attribution methods against the truth.

`planted_model` and `backup_pair` have weights set by hand, so the neurons and the head of each fact are
known by construction. `trained_model` learned its facts from text, so only the facts are known.

>>> from mnemoscope.testing import planted_model
>>> planted = planted_model("llama")
>>> fact = planted.facts[0]
>>> model = ms.load((planted.model, planted.tokenizer))  # doctest: +SKIP
>>> model.attribute(fact.prompt, fact.target, top=3).ffn_neurons  # doctest: +SKIP
"""

from mnemoscope.testing.planted import Planted, PlantedFact, backup_pair, planted_model
from mnemoscope.testing.tiny import N_WORDS, Architecture, Fact, word_tokenizer, words
from mnemoscope.testing.trained import Trained, trained_model

__all__ = [
    "N_WORDS",
    "Architecture",
    "Fact",
    "Planted",
    "PlantedFact",
    "Trained",
    "backup_pair",
    "planted_model",
    "trained_model",
    "word_tokenizer",
    "words",
]
