"""Calls kept apart: one thread at a time uses a model, and no call leaves anything behind in it.

A thread *holds* a model while it runs or reads it. Other threads wait; the same thread may hold it several
times. Whatever a call changes in the model is undone when its hold ends, however it ends: by returning, by an
error, by Ctrl-C, or with a context that is never closed.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedConfig, PreTrainedModel

from mnemoscope.errors import OptionError
from mnemoscope.model.torch_state import default_torch_state

P = ParamSpec("P")
R = TypeVar("R")


class _HasModel(Protocol):
    @property
    def language_model(self) -> Any: ...


Owner = TypeVar("Owner", bound=_HasModel)

# How long a thread that waits for a model sleeps before it looks again.
_SECONDS_BETWEEN_LOOKS = 0.001


# The modules that run in place of parts of a model, while the hold lasts that puts them there.
stand_ins: WeakKeyDictionary[PreTrainedModel, Sequence[nn.Module]] = WeakKeyDictionary()


class Hold:
    """Exclusive use of a model by one thread, which undoes its changes at the end.

    Attributes:
        model: the transformers model.
        intervention: what `Model.ablate` does to the model during this hold; None for other holds.
        runs: whether forward passes run during this hold.
        suspends: whether interventions do nothing during this hold.
        modules: all modules of the model, once `modules_of` has walked through them.
        undo: calls that undo what was changed, in the order of the changes. Each may be called again.
    """

    def __init__(self, model: PreTrainedModel, runs: bool) -> None:
        self.model, self.runs = model, runs
        self.modules: tuple[nn.Module, ...] | None = None
        self.intervention: Any = None
        self.suspends = False
        self.undo: list[Callable[[], object]] = []
        # Handles of hooks are numbered in the order in which they are made.
        self._first_hook = RemovableHandle.next_id

    def set_implementation(self, kind: str, name: str) -> None:
        """Set which registered function a model's code calls until the hold ends.

        Args:
            kind: `_attn_implementation` or `_experts_implementation`, as the model's config names it.
            name: the function's.
        """
        running = _running_configs(self.model)
        configs = [self.model.config]
        for config in configs:
            inner = (getattr(config, name, None) for name in config.sub_configs)
            configs += [each for each in inner if each is not None]
        every = {id(config): config for config in (*configs, *running)}.values()
        # Undone outer configs first: a config sets those within it too.
        self.undo += [functools.partial(setattr, each, kind, getattr(each, kind)) for each in reversed(every)]
        for config in running:
            setattr(config, kind, name)

    def end(self, newer: Hold | None) -> None:
        """Undo what was changed; or leave that to a newer hold, which began with the model as it is now."""
        if newer is not None:
            newer.undo[:0] = self.undo
            newer._first_hook = min(self._first_hook, newer._first_hook)
            return
        for call in reversed(self.undo):
            call()

    def remove_hooks(self) -> None:
        """Remove the package's hooks that were registered on the model since the hold began."""
        for module in (*self.model.modules(), *stand_ins.get(self.model, ())):
            for hooks, with_kwargs in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
                (module._forward_hooks, module._forward_hooks_with_kwargs),
            ):
                ours = [n for n, hook in hooks.items() if n >= self._first_hook and is_ours(hook)]
                for number in ours:
                    del hooks[number]
                for number in [n for n in with_kwargs if n >= self._first_hook and n not in hooks]:
                    del with_kwargs[number]


def is_ours(hook: Callable[..., Any]) -> bool:
    """Return whether a hook is a function of this package."""
    return (getattr(hook, "__module__", None) or "").startswith("mnemoscope.")


def _running_configs(model: PreTrainedModel) -> list[Any]:
    """Return the configs that a model's layers read: towers for images, which do not run, have others.

    Layers that were copied read copies of the model's config.
    """
    # Kept in __dict__: nn.Module looks up missing attributes in three more dictionaries, slowly.
    decoder = model.get_decoder()
    modules = modules_of(model) if decoder is model.base_model else decoder.modules()
    inside = (vars(module).get("config") for module in modules)
    found = [model.config.get_text_config(), *(each for each in inside if isinstance(each, PreTrainedConfig))]
    return list({id(config): config for config in found}.values())


class _Turns:
    """Queue of threads for a model; all active holds belong to one thread.

    No lock of `threading` could be left by Ctrl-C or be given back by another thread: here a hold that was
    taken is listed, and giving back takes it from the list, once or several times. Waiting is sleeping,
    which has nothing to leave behind either.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._thread: int | None = None
        self._waiting: list[Hold] = []
        self.holds: list[Hold] = []

    def take(self, hold: Hold) -> None:
        """Wait until no other thread holds the model, and hold it."""
        with self._mutex:
            self._waiting.append(hold)
        while not self._taken(hold):
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _taken(self, hold: Hold) -> bool:
        thread = threading.get_ident()
        with self._mutex:
            if (self._thread != thread) if self.holds else (self._waiting[0] is not hold):
                return False
            self._thread = thread
            self.holds.append(hold)
            self._waiting.remove(hold)
            return True

    def give_back(self, hold: Hold, failed: bool) -> None:
        """End a hold, if it has not ended; after a failure also look for what its code could not clean up."""
        with self._mutex:
            self._waiting = [other for other in self._waiting if other is not hold]
            if hold not in self.holds:
                return
            place = self.holds.index(hold) + 1
            if failed or hold.intervention is None:
                # Calls that began later have ended too: an interrupt kept their code from saying so.
                for ended in reversed([each for each in self.holds[place:] if each.intervention is None]):
                    ended.end(None)
                    self.holds.remove(ended)
            # Interventions that began later may last longer.
            newer = next(iter(self.holds[place:]), None)
            hold.end(newer)
            if failed and newer is None:
                hold.remove_hooks()
            self.holds.remove(hold)


_turns: WeakKeyDictionary[PreTrainedModel, _Turns] = WeakKeyDictionary()
_turns_mutex = threading.RLock()


def _turns_of(model: PreTrainedModel) -> _Turns:
    """Return the queue of a model, shared by models with the very same config object.

    The config selects the attention function, so models that share one cannot run at once.
    """
    turns = _turns.get(model)
    if turns is not None:
        return turns
    with _turns_mutex:
        if model not in _turns:
            alike = (turns for other, turns in _turns.items() if other.config is model.config)
            _turns[model] = next(alike, None) or _Turns()
        return _turns[model]


@contextmanager
def held(model: PreTrainedModel, *, runs: bool = False) -> Iterator[Hold]:
    """Hold a model exclusively while the context lasts; the end undoes changes made under this hold.

    Contexts of one thread can be nested, and may end in any order and in any thread.

    Args:
        model: the transformers model.
        runs: whether forward passes are to run.

    Raises:
        OptionError: passes are to run while another hold of this thread runs some.
    """
    turns, hold = _turns_of(model), Hold(model, runs)
    failed = True
    try:
        try:
            turns.take(hold)
            if runs and any(
                other.runs and other.model is model for other in turns.holds if other is not hold
            ):
                raise OptionError(
                    "a hook calls the model anew while it runs, which would mix up both passes; "
                    "make this call before or after the other one"
                )
            yield hold
            failed = False
        finally:
            turns.give_back(hold, failed)
    finally:
        # Again, in case Ctrl-C came in the middle of the first time.
        turns.give_back(hold, failed=True)


@contextmanager
def isolated(model: PreTrainedModel) -> Iterator[None]:
    """Hold a model exclusively, with torch in its default state, while the context lasts."""
    with held(model), default_torch_state():
        yield


def modules_of(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """Return all modules of a model; a call walks through them once, as a walk takes thousands of calls."""
    holds = (hold for hold in _turns_of(model).holds if hold.model is model and hold.intervention is None)
    outermost = next(holds, None)
    if outermost is None:
        return tuple(model.modules())
    if outermost.modules is None:
        outermost.modules = tuple(model.modules())
    return outermost.modules


def interventions_on(model: PreTrainedModel) -> list[Any]:
    """Return the interventions of the holds that last now, oldest first."""
    holds = list(_turns_of(model).holds)
    return [hold.intervention for hold in holds if hold.model is model and hold.intervention is not None]


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward function while the context lasts."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own


def is_outermost(model: PreTrainedModel) -> bool:
    """Return whether the newest hold belongs to an outermost call, maybe under interventions."""
    *others, _ = _turns_of(model).holds
    return all(hold.intervention is not None for hold in others)


def are_suspended(model: PreTrainedModel) -> bool:
    """Return whether interventions on a model are suspended."""
    return any(hold.suspends for hold in _turns_of(model).holds if hold.model is model)


def isolated_call(call: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """Decorate a method or function whose first argument has a `language_model` to run `isolated`.

    A model whose weights have changed since it was opened is validated anew first.
    """

    @functools.wraps(call)
    def wrapper(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with isolated(owner.language_model.model):
            if is_outermost(owner.language_model.model):
                owner.language_model.follow_changes()
            return call(owner, *args, **kwargs)

    wrapper.__dict__["is_isolated"] = True
    return wrapper
