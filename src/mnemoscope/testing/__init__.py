"""Tiny real models whose knowledge is known, so that attribution methods can be checked against truth.

`planted_model` and `backup_pair` are stock transformers models with weights set by hand: which neurons
and which head hold each fact is known by construction. `trained_model` learned its facts from
text, so that nobody knows where they are, but everybody knows that they are there.

>>> from mnemoscope.testing import planted_model
>>> planted = planted_model("llama")
>>> fact = planted.facts[0]
>>> model = ms.load((planted.model, planted.tokenizer))  # doctest: +SKIP
>>> model.attribute(fact.prompt, fact.target, top=3).ffn_neurons  # doctest: +SKIP
"""

from mnemoscope.testing.planted import Planted, PlantedFact, backup_pair, planted_model
from mnemoscope.testing.trained import Trained, trained_model
from mnemoscope.testing.vocabulary import N_WORDS, Fact, word_tokenizer, words
from mnemoscope.testing.weights import Architecture

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
