"""A device that is not here: tensors that claim to be on it, with values or only their sizes, and a count of its bytes.

PyTorch's operators run on tensors that say `cuda:0` or `xpu:0` while their values lie in main memory, or nowhere. As on
a real device, tensors of two devices cannot be mixed. Kernels, streams and transfers are not emulated: only where each
tensor lies, what it is, and how many bytes are there at once.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ATEN = torch.ops.aten
_COPIES = (ATEN._to_copy.default, ATEN.copy_.default)
_INDEXING = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)
_GUARDED = (  # bindings of PyTorch that want a real device
    Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__, Tensor.item, Tensor.tolist,
    Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_,
)  # fmt: skip


class Wrapped(Tensor):
    """Tensor without memory of its own that claims a device; its storage stands for another one."""

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Any:  # noqa: ARG004
        return data  # as accelerate makes weights

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} needs the device that is emulated no longer")


class Emulated(TorchDispatchMode):
    """Emulates accelerators, by index as "cuda:0", while it is entered.

    Attributes:
        now: Bytes that are on the devices.
        peak: The most that were there at once.
        seen: Called with the operator and each tensor that it makes on a device. Raises to refuse it.
    """

    def __init__(self, values: bool = True, seen: Callable[[Any, Tensor], object] = lambda *_: None) -> None:
        """Initialises devices whose tensors have values, or only sizes (then those of the host too, by `on`)."""
        super().__init__()
        self.now = self.peak = 0
        self.seen = seen
        self._backing = "cpu" if values else "meta"
        self._stands_for: dict[int, UntypedStorage] = {}  # by the storage of a wrapped tensor
        self._counted: dict[int, int] = {}  # tensors that share a storage behind them

    def on(self, tensor: Tensor, device: torch.device | str) -> Tensor:
        """Returns a tensor that claims to lie on a device, in place of one of the backing device."""
        device, behind = torch.device(device), tensor.untyped_storage()
        made: Tensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            Wrapped, tensor.size(), strides=tensor.stride(), storage_offset=tensor.storage_offset(),
            dtype=tensor.dtype, device=device, storage_size=behind.nbytes(),
        )  # fmt: skip
        own = made.untyped_storage()
        self._stands_for[own._cdata] = behind
        counts = device.type not in ("cpu", "meta")
        if counts and behind._cdata not in self._counted:
            self.now += behind.nbytes()
            self.peak = max(self.peak, self.now)
        if counts:
            self._counted[behind._cdata] = self._counted.get(behind._cdata, 0) + 1
        weakref.finalize(own, self._gone, own._cdata, behind._cdata, behind.nbytes(), counts)
        return made

    def _gone(self, own: int, behind: int, size: int, counts: bool) -> None:
        if counts:
            self._counted[behind] -= 1
            if not self._counted[behind]:
                del self._counted[behind]
                self.now -= size
        del self._stands_for[own]  # last: what is behind goes with it

    def behind(self, tensor: Tensor) -> Tensor:
        """Returns the tensor that a wrapped one stands for."""
        storage = self._stands_for[tensor.untyped_storage()._cdata]
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            empty = torch.empty(0, dtype=tensor.dtype, device=self._backing)
            return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[call-overload,no-any-return]

    def is_wrapped(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.layout == torch.strided and (
            tensor.untyped_storage()._cdata in self._stands_for
        )  # fmt: skip

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wrapped = [leaf for leaf in tree_leaves((args, kwargs)) if self.is_wrapped(leaf)]
        if func in (ATEN.is_pinned.default, ATEN._has_compatible_shallow_copy_type.default):
            return True
        if func in (ATEN.pin_memory.default, ATEN._pin_memory.default):
            return args[0]
        target = kwargs.get("device") or next((one for one in args if isinstance(one, torch.device)), None)
        if not wrapped and (target is None or target.type in ("cpu", "meta")):
            return func(*args, **kwargs)
        self._refuse_a_mixture(func, args, kwargs)
        place = target or next((one.device for one in wrapped if one.device.type != "cpu"), None) or wrapped[0].device
        if func is ATEN.copy_.default:
            place = args[0].device
        found = {id(one): self.behind(one) for one in wrapped}
        args_behind, kwargs_behind = tree_map(lambda one: found.get(id(one), one), (args, kwargs))
        there = torch.device(self._backing)
        args_behind, kwargs_behind = tree_map(
            lambda one: there if isinstance(one, torch.device) else one, (args_behind, kwargs_behind)
        )
        kwargs_behind.pop("pin_memory", None)
        kwargs_behind.pop("non_blocking", None)
        if self._backing == "meta" and func is not ATEN.copy_.default:
            args_behind = tree_map(self._sized, args_behind)
        result = func(*args_behind, **kwargs_behind)
        if target is not None and result is args_behind[0]:
            return args[0] if args[0].device == target else self._placed(result.clone(), target, func, {})
        again = {id(found[id(one)]): one for one in wrapped}
        return tree_map(lambda one: self._placed(one, place, func, again), result)

    def _sized(self, one: Any) -> Any:
        plain = isinstance(one, Tensor) and one.device.type == "cpu" and one.ndim > 0
        return torch.empty_strided(one.size(), one.stride(), dtype=one.dtype, device="meta") if plain else one

    def _placed(self, one: Any, place: torch.device, func: Any, again: dict[int, Tensor]) -> Any:
        if not isinstance(one, Tensor):
            return one
        if id(one) in again:
            return again[id(one)]
        if place.type == "cpu" and self._backing == "cpu":
            return one
        made = self.on(one, place)
        if place.type not in ("cpu", "meta"):
            self.seen(func, made)
        return made

    def _refuse_a_mixture(self, func: Any, args: Any, kwargs: Any) -> None:
        if func in _COPIES:
            return
        first = args[0] if func in _INDEXING else (args, kwargs)
        tensors = [one for one in tree_leaves(first) if isinstance(one, Tensor)]
        places = {one.device for one in tensors if one.ndim > 0 or one.device.type != "cpu"}
        if len(places) > 1:
            raise RuntimeError(f"{func}: all tensors have to be on the same device, not on {places}")


class _Bindings(TorchFunctionMode):
    """Replaces what PyTorch's bindings do before the operators are dispatched.

    Attention is computed as a whole: the kernel would be chosen by the device that is claimed.
    """

    def __init__(self, devices: Emulated) -> None:
        super().__init__()
        self._devices = devices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, devices = kwargs or {}, self._devices
        if func in _GUARDED and devices.is_wrapped(args[0]):
            plain = tree_map(lambda one: devices.behind(one) if devices.is_wrapped(one) else one, args)
            made = func(*plain, **kwargs)
            return devices.on(made, args[0].device) if isinstance(made, Tensor) else made
        if func is Tensor.contiguous and devices.is_wrapped(args[0]):
            how = kwargs.get("memory_format", args[1] if len(args) > 1 else torch.contiguous_format)
            return args[0] if args[0].is_contiguous(memory_format=how) else args[0].clone(memory_format=how)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        if not devices.is_wrapped(query):
            return func(*args, **kwargs)
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if len({one.device for one in given}) > 1:
            raise RuntimeError("attention: all tensors have to be on the same device")
        if devices._backing == "meta":  # a fused kernel keeps the output alone
            value = args[2] if len(args) > 2 else kwargs["value"]
            return torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device=query.device)
        wrapped = {id(one): devices.behind(one) for one in given}
        args_behind, kwargs_behind = tree_map(lambda one: wrapped.get(id(one), one), (args, kwargs))
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            result = func(*args_behind, **kwargs_behind)
        return devices.on(result, query.device)


@contextlib.contextmanager
def emulated(values: bool = True, seen: Callable[[Any, Tensor], object] = lambda *_: None) -> Iterator[Emulated]:
    """Context with emulated devices, and streams of them that do everything at once."""
    devices = Emulated(values, seen)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("torch.cuda._lazy_init"))
        for name in ("Stream", "current_stream", "stream", "device"):
            stack.enter_context(mock.patch(f"torch.cuda.{name}"))
        stack.enter_context(mock.patch.object(Tensor, "record_stream"))
        stack.enter_context(mock.patch("diffedit_cli.engine.networks.families._capture"))  # graphs hold no values
        stack.enter_context(devices)
        stack.enter_context(_Bindings(devices))
        yield devices
