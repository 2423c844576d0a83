"""What a user says to a chat model, as the text that the model reads."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from mnemoscope.errors import OptionError, PromptError


def chat_text(name: str, tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """A user's message in the model's chat template, up to where the answer begins.

    Raises:
        PromptError: the message is empty, or the template refuses it.
        OptionError: the model has no chat template.
    """
    if not message:
        raise PromptError("the prompt is empty; give what the user says")
    if not tokenizer.chat_template:
        raise OptionError(
            f"{name} has no chat template, so it is no chat model or its template was not "
            "saved with its tokenizer; give the prompt as plain text"
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # templates are programs, and raise what they like
        raise PromptError(
            f"the chat template of {name} refuses the prompt "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give the prompt as plain text"
        ) from error
