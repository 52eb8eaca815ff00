"""A device that is none: finds tensors on two devices, and where the host would wait, without a GPU.

Tensors of the device `pretend` keep their numbers on the CPU, behind a wrapper that PyTorch takes for another
device. As with CUDA, an operation over tensors of both devices raises, scalars and indices excepted; there
is no numpy view. What would make the host wait for a real device (reading a number, a shape that depends on
numbers, a copy either way that is not said to be non_blocking) is counted in WAITS by the line of the project
that asked. `pretending(float64=False)` is a device without float64, as MPS is. There is no autocast and there
are no streams.

Source of the way to do it: torch.utils.backend_registration, experimental in torch 2.13.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
WAITS: Counter[str] = Counter()
"""file:line of the trainables -> how often the host would have waited there."""
ROOM = f"{Path(__file__).resolve().parents[1] / 'trainables'}/"
ops = torch.ops.aten
ASKS = {
    ops._local_scalar_dense.default,
    ops.nonzero.default,
    ops.masked_select.default,
    ops.equal.default,
    ops.is_nonzero.default,
}
"""Operations whose result the host needs before it can go on."""
TAKES_BOTH = {
    ops.copy_.default,
    ops._to_copy.default,
    ops.index.Tensor,
    ops.index_put.default,
    ops.index_put_.default,
    ops._index_put_impl_.default,
}
"""Operations that CUDA lets work on tensors of two devices."""
_float64 = True


class _Module(_DummyBackendModule):
    """What torch asks of a backend."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Dropout draws from the CPU's generator here."""


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
torch.__future__.set_swap_module_params_on_conversion(True)  # or tied weights would come apart when moved
DEVICE = torch.device(NAME, 0)


class There(torch.Tensor):
    """A tensor of the device; `here` has its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        if here.dtype == torch.float64 and not _float64:
            raise TypeError(f"the device has no float64: {_line()}")
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=DEVICE,
        )  # fmt: skip
        made.here = here
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"There({self.here})"

    def tolist(self) -> Any:
        WAITS[_line()] += 1
        return self.here.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"a tensor of {DEVICE} has no numpy view: {_line()}")

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def data_ptr(self) -> int:
        return self.here.data_ptr()


class _Tensors(TorchFunctionMode):
    """torch.tensor(.., device=) does not pass through a dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and _is_there(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def pretending(*, float64: bool = True) -> Iterator[Counter[str]]:
    """Within, tensors can be made on the device and moved there; what the host waits for is counted."""
    global _float64
    _float64 = float64
    WAITS.clear()
    try:
        with _Tensors(), _Operations():
            yield WAITS
    finally:
        _float64 = True


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU's numbers, its results on the device where a real one would have them."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, There) for x in tensors)
    goal = kwargs.get("device")
    if func is ops._to_copy.default:
        return _copied(args, kwargs, there)
    if not there and not _is_there(goal):
        return func(*args, **kwargs)
    here = [x for x in tensors if x.dim() and not isinstance(x, There)]
    if here and there and func not in TAKES_BOTH:
        raise RuntimeError(f"{func} over {DEVICE} and {here[0].device}: {_line()}")
    if func in ASKS or _picks_by_mask(func, args) or _blocks(func, args, kwargs):
        WAITS[_line()] += 1
    out = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
    if func is ops.copy_.default and not isinstance(args[0], There):
        return args[0]
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_placed, out))


def _copied(args: Any, kwargs: Mapping[str, Any], there: bool) -> Any:
    goal = kwargs.get("device")
    stays = goal is None or _is_there(goal) == there
    if not stays and args[0].numel() and not kwargs.get("non_blocking"):
        WAITS[_line()] += 1
    rest = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking")}
    out = ops._to_copy.default(*tree_map(_numbers, args), **rest)
    return There(out) if (_is_there(goal) if goal is not None else there) else out


def _picks_by_mask(func: Any, args: Any) -> bool:
    """Whether the shape of what an index picks depends on a mask's numbers."""
    if func is not ops.index.Tensor:
        return False
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _blocks(func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether it is a copy between the two devices for which the host waits."""
    if func is not ops.copy_.default:
        return False
    crosses = isinstance(args[0], There) != isinstance(args[1], There)
    return (
        crosses
        and args[1].numel() > 0
        and not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    )


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _numbers(x: Any) -> Any:
    if isinstance(x, There):
        return x.here
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def _placed(x: Any) -> Any:
    return There(x) if isinstance(x, torch.Tensor) and not isinstance(x, There) else x


def _line() -> str:
    """The innermost line of the trainables that is at work."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not frame.f_code.co_filename.startswith(ROOM):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(ROOM)}:{frame.f_lineno}"
