"""Several models on one page."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.testing import words
from pages import Visitor, complete
from served import PROMPT, live
from support import built

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ms.Model:
    """A tiny model of local files whose words are numbered from behind."""
    model = built("llama")
    n_words = model.get_input_embeddings().weight.shape[0]
    vocabulary = {"<pad>": 0, **{f"w{n_words - i}": i for i in range(1, n_words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("models") / "other"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<pad>").save_pretrained(folder)
    return ms.load(str(folder))


def test_tokens_are_named_as_the_model_that_is_asked_names_them(
    visit: Visitor, llama: ms.Model, other: ms.Model
) -> None:
    with live(llama, other=other) as address:
        page = visit(address)
        known, named_anew = (set(model.predict(PROMPT).table["id"]) for model in (llama, other))
        target = min(known - named_anew)
        question = urlencode({"model": "other", "prompt": PROMPT, "target_id": target})
        page.evaluate(f"location.hash = '{question}'")
        n_words = other.n_vocabulary
        expect(page.locator("#finding .target-name")).to_have_text(words(n_words - target))
        complete(page)
        assert page.title().startswith(words(n_words - target))


def test_a_copied_command_opens_the_model_that_is_asked(
    visit: Visitor, llama: ms.Model, other: ms.Model
) -> None:
    with live(llama, other=other) as address:
        page = visit(address, model="other", bench="head.1.0", pane="bench")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator("[data-key='bench.copy']").click()
        expect(page.locator("#bench-told")).to_contain_text("copied")
        command = page.evaluate("navigator.clipboard.readText()")
        opening = "--model path/to/other --dtype float32"
        assert command.startswith(f"mnemoscope ablate '{PROMPT}' {opening} --target")
