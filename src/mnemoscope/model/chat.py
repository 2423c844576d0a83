"""Chat messages as the text and the token ids that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mnemoscope.errors import OptionError, PromptError

Message = Mapping[str, Any]


def is_chat(prompt: object) -> bool:
    """Return whether a prompt is a list of chat messages, each with a `role`."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str | bytes)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    )


def user_says(message: str) -> list[dict[str, str]]:
    """Make a chat of one message by the user.

    Raises:
        PromptError: the message is empty.
    """
    if not message:
        raise PromptError("the prompt is empty; give what the user says")
    return [{"role": "user", "content": message}]


def read_chat(
    name: str, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[str, list[int]]:
    """Render a chat as text and token ids, those of the tokenizer's own `apply_chat_template`.

    They end where the model's answer begins, or, where the last message is by the assistant, at its end: the
    model then goes on with that message.

    Raises:
        PromptError: the template refuses the messages.
        OptionError: the model has no chat template.
    """
    if not tokenizer.chat_template:
        raise OptionError(
            f"{name} has no chat template, so it is no chat model or its template was not "
            "saved with its tokenizer; give the prompt as plain text"
        )
    goes_on = messages[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}
    chat: Any = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **options)
        ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
    except Exception as error:  # templates are programs, and raise what they like
        raise PromptError(
            f"the chat template of {name} refuses the prompt "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give the prompt as plain text"
        ) from error
    return str(text), [int(token) for token in ids]  # type: ignore[arg-type]
