"""A second device made of this machine's memory: what lies there and what lies here refuse to meet, as on a GPU.

`SecondDevice` stands in for hardware, not for code of ours: within it, whatever goes to "cuda:0" is a tensor of its
own kind. Every operation on such tensors is carried out, by the CPU; one that mixes both kinds raises, as CUDA's does,
unless it copies or the stranger is a single number. Reading the values takes `.cpu()` first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("cuda", 0)
_COPIES = {"aten::_to_copy", "aten::copy_"}


class There(Tensor):
    """A tensor on the second device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype
        )
        made.values = values
        return made

    @property
    def device(self) -> torch.device:
        return THERE

    def cpu(self) -> Tensor:
        return self.values.clone()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(operation, args, kwargs or {})


def carried_out(operation: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation's result, on the device where a GPU would leave it."""
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(tensor.values): tensor for tensor in tensors if isinstance(tensor, There)}
    here = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim() > 0]
    if there and here and name not in _COPIES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
        goes_there = torch.device(asked) == THERE
    else:
        goes_there = isinstance(args[0], There) if name == "aten::copy_" else bool(there)
    plain_args, plain_kwargs = tree_map(lambda x: x.values if isinstance(x, There) else x, (args, kwargs))
    result = operation(*plain_args, **plain_kwargs)
    if not goes_there:
        return result
    # What an operation in place returns is the tensor it was given.
    return tree_map(lambda x: there.get(id(x), There(x)) if isinstance(x, Tensor) else x, result)


class _Mode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        # torch starts no CUDA while tensors are known to be of another making.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(operation, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Within, "cuda:0" is there."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield THERE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
