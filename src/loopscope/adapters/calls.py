"""The calls that a model makes: find a submodule or method by name, and intercept its calls while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from loopscope.adapters.gradients import pass_through

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Callee:
    """A submodule or a method of a model, by its name.

    Attributes:
        name: dotted name within the model, such as "layers.2" or "core.iterate_one_step".
        owner: object that holds the function.
        attribute: name of the attribute that is replaced: "forward" for a module.
    """

    name: str
    owner: Any
    attribute: str

    @property
    def function(self) -> Callable[..., Any]:
        """The function that is called."""
        return getattr(self.owner, self.attribute)


def modules_of(model: nn.Module) -> dict[str, Callee]:
    """Return the submodules of a model by name, each one once; the model itself is named "forward"."""
    named = {name or "forward": module for name, module in model.named_modules()}
    return {name: Callee(name, module, "forward") for name, module in named.items()}


def find(model: nn.Module, name: str) -> Callee | None:
    """Return the submodule or method with a dotted name, or None if the model has none.

    A module that the model holds under several names is found under each of them and reported under the first.
    """
    owner, _, attribute = name.rpartition(".")
    try:
        holder = model.get_submodule(owner)
        found = getattr(holder, attribute)
    except AttributeError:
        return None
    if isinstance(found, nn.Module):
        return next(callee for callee in modules_of(model).values() if callee.owner is found)
    if attribute == "forward":
        return next(callee for callee in modules_of(model).values() if callee.owner is holder)
    return Callee(name, holder, attribute) if callable(found) else None


def callee(model: nn.Module, name: str) -> Callee:
    """Return the submodule or method with a name that `find` knows."""
    if name == "forward":
        return Callee(name, model, "forward")
    owner, _, attribute = name.rpartition(".")
    holder = model.get_submodule(owner)
    held = getattr(holder, attribute)
    return Callee(name, held, "forward") if isinstance(held, nn.Module) else Callee(name, holder, attribute)


@contextmanager
def replaced(callee: Callee, function: Callable[..., Any]) -> Iterator[None]:
    """Call ``function`` in place of a submodule or method."""
    function.__wrapped__ = callee.function  # type: ignore[attr-defined]  # so that inspect.signature sees the original
    attributes = callee.owner.__dict__
    own = attributes.get(callee.attribute)
    attributes[callee.attribute] = function
    try:
        yield
    finally:
        if own is None:
            del attributes[callee.attribute]
        else:
            attributes[callee.attribute] = own


def operation_name(function: Callable[..., Any]) -> str:
    """Return the name of a function of PyTorch, or of the property that it reads."""
    name = getattr(function, "__name__", "operation")
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name


class Handler:
    """Decides how calls in the open frames of a model are answered; this base class makes each call unchanged."""

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the call of a submodule or method."""
        return function(*args, **kwargs)

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the call of a function of PyTorch in an open frame."""
        return function(*args, **kwargs)

    def inside(self, function: Callable[..., Any]) -> None:
        """Observe a function of PyTorch that is called within a closed call or in an open frame."""


class Watch(TorchFunctionMode):
    """Hands the calls that a model makes in its open frames to a handler.

    A frame is open if it belongs to the code that repeats the iteration: the caller, and the forward of every module
    that contains the named one. All other modules are closed: a call of one is a single event, whatever it does inside.

    Args:
        callees: submodules and methods whose calls are intercepted.
        handler: decides how they are answered.
        whole: whether derivatives pass through ``no_grad`` and ``detach``.
        look_inside: whether the handler also sees functions within closed calls.
    """

    def __init__(
        self, callees: Mapping[str, Callee], handler: Handler, *, whole: bool, look_inside: bool = False
    ) -> None:
        super().__init__()
        self.callees, self.handler = callees, handler
        self.whole, self.look_inside = whole, look_inside
        self.closed = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass an operation of an open frame to the handler."""
        if self.look_inside:
            self.handler.inside(func)
        performed = partial(pass_through, func) if self.whole else func
        if self.closed:
            return performed(*args, **(kwargs or {}))
        return self.handler.operation(operation_name(func), performed, args, kwargs or {})

    def _take_over(self, name: str, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.closed:
            return original(*args, **kwargs)
        self.closed = True
        try:
            return self.handler.call(name, partial(self._make, original), args, kwargs)
        finally:
            self.closed = False

    def _make(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Make a call; operations inside it are intercepted only if they matter."""
        if self.whole or self.look_inside or _get_current_function_mode() is not self:
            return original(*args, **kwargs)
        self.__exit__(None, None, None)
        try:
            return original(*args, **kwargs)
        finally:
            self.__enter__()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Intercept the calls within this context."""
        with ExitStack() as stack:
            for name, callee in self.callees.items():
                stack.enter_context(replaced(callee, partial(self._take_over, name, callee.function)))
            stack.enter_context(self)
            yield
