"""A GPU that is none: tensors of the CPU that say they are on ``cuda:0``, and may not meet tensors that do not.

It makes the mistakes visible that a GPU would refuse, with true numbers, so that code whose course depends on its
numbers runs to its end and can be compared with the CPU bit for bit. What it refuses is what PyTorch does: operations
on tensors of two devices (a CPU tensor of no dimensions aside), a CPU tensor indexed by one of the GPU, NumPy on
the GPU, and drawing there from a generator of the CPU; and least squares, which PyTorch solves there by a driver that
takes full rank for granted.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# An attribute of a class gives another function each time it is looked up, all of them equal.
DEVICE, IS_CUDA, SET_DATA = Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.data.__set__
ANY_DEVICE = {Tensor.copy_, SET_DATA, torch._has_compatible_shallow_copy_type}
"""What may be done with tensors of two devices."""
JOINS = {torch.cat, torch.stack}
"""What takes no tensor of another device, be it without dimensions."""
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
"""What may take indices and values of another device (see ``_check_index``)."""
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
READS = {Tensor.numpy, Tensor.__array__}
_Generator = torch.Generator
_new_parameter = torch.nn.Parameter.__new__


class MixedDevices(RuntimeError):
    """A GPU would refuse this."""


class Generator(_Generator):
    """A generator of the CPU that says where it was asked for."""

    where: torch.device

    def __new__(cls, device: Any = None) -> Generator:
        made = super().__new__(cls)
        made.where = CPU if device is None else torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.where


def place(tensor: Tensor) -> torch.device:
    """Return where a tensor pretends to be."""
    return GPU if getattr(tensor, "pretends", False) else CPU


def _parameter(kind: Any, data: Any = None, requires_grad: bool = True) -> torch.nn.Parameter:
    """Return a new parameter, which is where its data are: PyTorch tells no mode of that."""
    made = _new_parameter(kind, data, requires_grad)
    made.pretends = getattr(data, "pretends", False)
    return made


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors of nested lists, tuples and mappings. Every operation is asked for them, so this is plain."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for part in tree for tensor in _tensors(part)]


class PretendedGpu(TorchFunctionMode):
    """While it is on, ``device="cuda"`` and ``.to("cuda")`` make tensors of the pretended GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.random_state = 0
        self.laid_out: list[tuple[int, ...]] = []
        self._patches = ExitStack()

    def __enter__(self):
        for where, name, new in (
            (torch, "Generator", Generator),
            (torch.nn.Parameter, "__new__", _parameter),
            (torch.cuda, "get_rng_state", lambda device: self.random_state),
            (torch.cuda, "set_rng_state", lambda state, device: setattr(self, "random_state", state)),
        ):
            self._patches.enter_context(mock.patch.object(where, name, new))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == DEVICE:
            return place(args[0])
        if func == IS_CUDA:
            return place(args[0]) is GPU
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if func is Tensor.contiguous:
            self.laid_out.append(tuple(args[0].shape))
            return args[0]  # as it is: sums over another order in memory are rounded otherwise
        if func is Tensor.__iter__:
            return iter(self.__torch_function__(Tensor.unbind, types, args))
        if func in READS and place(args[0]) is GPU:
            raise MixedDevices("NumPy cannot read a tensor of the GPU: bring it to the CPU first")
        where = self._where(func, args, kwargs)
        if func is torch.linalg.lstsq and where is GPU:
            raise MixedDevices("a GPU solves least squares of full rank alone: bring the matrices to the CPU")
        if "device" in kwargs:
            wanted = kwargs.pop("device")
            if wanted is not None:
                where = GPU if _is_gpu(wanted) else CPU
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != where.type:
            raise MixedDevices(f"{func.__name__} on {where} draws from a generator of {generator.device}")
        result = func(*args, **kwargs)
        if func == SET_DATA:
            args[0].pretends = place(args[1]) is GPU
        elif func not in ANY_DEVICE:
            for tensor in _tensors(result):
                tensor.pretends = where is GPU
        return result

    def _where(self, func: Any, args: Any, kwargs: Any) -> torch.device:
        if func in INDEXED:
            _check_index(func.__name__, *args)
            return place(args[0])
        tensors = _tensors((args, kwargs))
        others = [tensor for tensor in tensors if place(tensor) is CPU]
        if len(others) == len(tensors):
            return CPU
        if others and func not in ANY_DEVICE and (func in JOINS or any(tensor.ndim for tensor in others)):
            shapes = ", ".join(f"{tuple(tensor.shape)} on {place(tensor)}" for tensor in tensors)
            raise MixedDevices(f"{getattr(func, '__name__', func)} of tensors of two devices: {shapes}")
        return GPU

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        tensor, *rest = args
        before = after = place(tensor)
        if func is not Tensor.to:
            after = CPU if func is Tensor.cpu else GPU
            rest = []
        given = [*rest, kwargs.pop("device", None), *_tensors(kwargs)]
        for value in given:
            if isinstance(value, Tensor):
                after = place(value)
            elif isinstance(value, str | torch.device):
                after = GPU if _is_gpu(value) else CPU
        rest = [CPU if isinstance(value, str | torch.device) else value for value in rest]
        moved = tensor.to(*rest, **kwargs) if rest or kwargs else tensor
        if after != before and moved is tensor:
            moved = tensor.clone()
        if moved is not tensor:
            moved.pretends = after is GPU
        return moved


def _check_index(name: str, whole: Tensor, index: Any, value: Any = None) -> None:
    indices = [part for part in _tensors(index) if part.ndim]
    if place(whole) is CPU and any(place(part) is GPU for part in indices):
        raise MixedDevices(f"{name}: a tensor of the CPU is indexed by one of the GPU")
    if isinstance(value, Tensor) and value.ndim and place(value) != place(whole) and _tensors(index):
        raise MixedDevices(
            f"{name}: a tensor on {place(whole)} is given values on {place(value)} at places of a tensor"
        )
