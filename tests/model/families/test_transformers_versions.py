"""Every family that the installed transformers has is validated, and the page of them says what is true.

`make test-oldest` runs this with the oldest transformers that is supported.
"""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import mnemoscope as ms
from mnemoscope.model.families.registry import (
    FAMILIES,
    NOT_THERE,
    OURS,
    VALIDATED,
    validate_families,
    with_random_weights,
)
from support import open_tiny, words
from unsupported_families import UNSUPPORTED, Unsupported

ROOT = Path(__file__).parents[3]
OLDEST = re.findall(r'"transformers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[0]
IS_OLDEST = transformers.__version__.startswith(f"{OLDEST}.")
# What docs/families.md says of the oldest version: default attention without soft-caps, experts stored
# otherwise, and a mistake of its own.
NOT_VALIDATED_WITH_OLDEST = {"gemma2", "vaultgemma", "granitemoe", "deepseek_v2"}


@pytest.fixture(scope="module")
def validated() -> pd.DataFrame:
    told: list[str] = []
    table = validate_families(told.append)
    assert len(told) == len(table)
    return table[table["package"] == OURS]


def test_every_family_is_validated(validated: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(validated) == len(FAMILIES)
    absent = validated["status"].str.startswith(NOT_THERE)
    known = validated[~absent]
    others = known[known["status"] != VALIDATED]
    assert set(others["model_type"]) == (NOT_VALIDATED_WITH_OLDEST if IS_OLDEST else set()), others[
        "status"
    ].tolist()
    assert int(absent.sum()) <= (len(FAMILIES) // 8 if IS_OLDEST else 0)
    if IS_OLDEST:
        with capsys.disabled():
            missing = ", ".join(validated[absent]["family"])
            print(
                f"\ntransformers {transformers.__version__}: {len(known) - len(others)} of {len(FAMILIES)} "
                f"configurations validated; {int(absent.sum())} not there: {missing}"
            )


if not IS_OLDEST:  # test_families opens and validates each on each push
    test_every_family_is_validated = pytest.mark.nightly(test_every_family_is_validated)


@pytest.mark.nightly
@pytest.mark.skipif(IS_OLDEST, reason="the page is written with the newest transformers")
def test_the_page_lists_what_is_validated_and_what_is_refused(validated: pd.DataFrame) -> None:
    spec = spec_from_file_location("make_families", ROOT / "docs" / "make_families.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    written, wanted = module.PAGE.read_text(encoding="utf-8"), module.page(validated)
    assert _unmeasured(written) == _unmeasured(wanted), "run `python docs/make_families.py`"


@pytest.mark.skipif(IS_OLDEST, reason="the page is written with the newest transformers")
def test_the_page_names_every_family() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert not [
        known.model_type for known in (*FAMILIES, *UNSUPPORTED) if f"`{known.model_type}`" not in page
    ]


def _unmeasured(page: str) -> str:
    """The page without errors and versions, which differ from machine to machine."""
    return re.sub(r"\de-\d\d|transformers \d+\.\d+\.\d+", "", page)


@pytest.mark.skipif(IS_OLDEST, reason="some are not in the oldest transformers")
@pytest.mark.parametrize("family", UNSUPPORTED, ids=lambda family: family.model_type)
def test_what_the_page_calls_refused_is_refused(family: Unsupported) -> None:
    config = AutoConfig.for_model(family.model_type, **family.config)
    kinds = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    auto = AutoModelForCausalLM if type(config) in kinds else transformers.AutoModelForSeq2SeqLM
    with pytest.raises(ms.UnsupportedModelError):
        open_tiny(with_random_weights(auto.from_config(config).eval()))


def test_a_model_in_a_folder_is_opened_and_its_lists_are_exact(tmp_path: Path, llama: ms.Model) -> None:
    llama.language_model.model.save_pretrained(tmp_path)
    llama.language_model.tokenizer.save_pretrained(tmp_path)
    opened = ms.load(tmp_path)
    prompt = words(5, 17, 80, 33)
    certified = opened.attribute(prompt, 40, top=12)
    assert certified.ffn_neurons.equals(opened.attribute(prompt, 40, top=12, neurons="all").ffn_neurons)
    assert abs(certified.telescoping_error or 0) < 1e-4
