"""Operations element by element: + − · ÷, comparisons, activations, type casts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.graph.ir import Value
from pipeline.graph.tracer import Call, Lowering, Tracer

_FLOATS = (torch.float32, torch.float64)


def _kind(result: torch.Tensor) -> str:
    if result.dtype in _FLOATS:
        return "float32"
    return "bool" if result.dtype == torch.bool else "int32"


def _operand(tracer: Tracer, argument: Any, dtype: str) -> Value:
    """The operand in the type that the operation computes in."""
    value = tracer.value(argument, dtype)
    if value.dtype == dtype:
        return value
    if value.data is not None:
        return Value(value.shape, dtype, value.data.astype(dtype))
    if dtype == "bool":
        zero = Value((), value.dtype, np.asarray(0, value.dtype))
        return tracer.emit("Not", [tracer.emit("Equal", [value, zero], value.shape, dtype)], value.shape, dtype)
    return tracer.emit("Cast", [value], value.shape, dtype, to=dtype)


def binary(op: str) -> Lowering:
    """`self` op `other`, after alpha · other where the operation has an alpha."""

    def lower(tracer: Tracer, call: Call) -> Value:
        dtype = _kind(call.result)
        left, right = _operand(tracer, call["self"], dtype), _operand(tracer, call["other"], dtype)
        alpha = call.arguments.get("alpha", 1)
        if alpha != 1:
            right = tracer.emit("Mul", [right, tracer.value(alpha, dtype)], _shape(right), dtype)
        return tracer.emit(op, [left, right], call.result.shape, dtype)

    return lower


def unary(op: str) -> Lowering:
    """op(self)."""

    def lower(tracer: Tracer, call: Call) -> Value:
        return tracer.emit(op, [tracer.value(call["self"])], call.result.shape, _kind(call.result))

    return lower


def compare(op: str, negate: bool = False, swap: bool = False) -> Lowering:
    """`self` op `other` → bool; the operands are compared as floats if one is a float.

    swap: `other` op `self`, for < and ≥: the engine's own Less of floats is wrong on x86 (3.6.1, its AVX2 code).
    """

    def lower(tracer: Tracer, call: Call) -> Value:
        sides = call["self"], call["other"]
        is_float = any(
            side.dtype in _FLOATS if isinstance(side, torch.Tensor) else isinstance(side, float) for side in sides
        )
        inputs = [_operand(tracer, side, "float32" if is_float else "int32") for side in sides[:: -1 if swap else 1]]
        result = tracer.emit(op, inputs, call.result.shape, "bool")
        return tracer.emit("Not", [result], call.result.shape, "bool") if negate else result

    return lower


def logical(op: str) -> Lowering:
    """Boolean operations; bitwise ones are those on bool."""

    def lower(tracer: Tracer, call: Call) -> Value:
        names = [name for name in ("self", "other") if name in call.arguments]
        if any(isinstance(call[name], torch.Tensor) and call[name].dtype != torch.bool for name in names):
            raise UserError(f"the model uses {call.operator} on integers, which the exporter cannot express")
        return tracer.emit(op, [tracer.value(call[name], "bool") for name in names], call.result.shape, "bool")

    return lower


def _shape(value: Value) -> list[int]:
    return [size for size in value.shape if isinstance(size, int)]


def _rsub(tracer: Tracer, call: Call) -> Value:
    swapped = {**call.arguments, "self": call["other"], "other": call["self"]}
    return binary("Sub")(tracer, Call(call.operator, swapped, call.result))  # type: ignore[return-value]


def _div(tracer: Tracer, call: Call) -> Value:
    mode = call.arguments.get("rounding_mode")
    result = binary("Div")(tracer, call)
    assert isinstance(result, Value)
    if result.dtype == "int32":  # integer division truncates; positions are not negative, so floor is the same
        return result
    if mode is None:
        return result
    if mode == "floor":
        return tracer.emit("Floor", [result], call.result.shape)
    raise UserError("the model uses a truncating division of floats, which the exporter cannot express")


def _pow(tracer: Tracer, call: Call) -> Value:
    inputs = [tracer.value(call["self"]), _operand(tracer, call["exponent"], "float32")]
    return tracer.emit("Pow", inputs, call.result.shape)


def _rsqrt(tracer: Tracer, call: Call) -> Value:
    # The converter's RMSNorm fusion looks for 1 / Sqrt(…).
    root = tracer.emit("Sqrt", [tracer.value(call["self"])], call.result.shape)
    return tracer.emit("Div", [tracer.value(1.0), root], call.result.shape)


def _silu(tracer: Tracer, call: Call) -> Value:
    value = tracer.value(call["self"])
    return tracer.emit("Mul", [value, tracer.emit("Sigmoid", [value], call.result.shape)], call.result.shape)


def _gelu(tracer: Tracer, call: Call) -> Value:
    value, shape = tracer.value(call["self"]), call.result.shape
    inner = _gelu_tanh(tracer, value, shape) if call["approximate"] == "tanh" else _gelu_erf(tracer, value, shape)
    inner = tracer.emit("Add", [inner, tracer.value(1.0)], shape)
    return tracer.emit("Mul", [tracer.emit("Mul", [value, inner], shape), tracer.value(0.5)], shape)


def _gelu_erf(tracer: Tracer, value: Value, shape: Any) -> Value:
    return tracer.emit("Erf", [tracer.emit("Div", [value, tracer.value(math.sqrt(2))], shape)], shape)


def _gelu_tanh(tracer: Tracer, value: Value, shape: Any) -> Value:
    cube = tracer.emit("Mul", [tracer.emit("Mul", [value, value], shape), value], shape)
    total = tracer.emit("Add", [value, tracer.emit("Mul", [cube, tracer.value(0.044715)], shape)], shape)
    return tracer.emit("Tanh", [tracer.emit("Mul", [total, tracer.value(math.sqrt(2 / math.pi))], shape)], shape)


def _softplus(tracer: Tracer, call: Call) -> Value:
    """log(1 + exp(x)), in the form max(x, 0) + log(1 + exp(−|x|)) that cannot overflow."""
    if call["beta"] != 1:
        raise UserError("the model uses softplus with a beta, which the exporter cannot express")
    value, shape = tracer.value(call["self"]), call.result.shape
    negative = tracer.emit("Neg", [tracer.emit("Abs", [value], shape)], shape)
    tail = tracer.emit("Add", [tracer.emit("Exp", [negative], shape), tracer.value(1.0)], shape)
    return tracer.emit("Add", [tracer.emit("Relu", [value], shape), tracer.emit("Log", [tail], shape)], shape)


def _expm1(tracer: Tracer, call: Call) -> Value:
    shape = call.result.shape
    return tracer.emit("Sub", [tracer.emit("Exp", [tracer.value(call["self"])], shape), tracer.value(1.0)], shape)


def _log1p(tracer: Tracer, call: Call) -> Value:
    shape = call.result.shape
    return tracer.emit("Log", [tracer.emit("Add", [tracer.value(call["self"]), tracer.value(1.0)], shape)], shape)


def _clamp(tracer: Tracer, call: Call) -> Value:
    value, dtype = tracer.value(call["self"]), _kind(call.result)
    for name, op in (("min", "Max"), ("max", "Min")):
        if call.arguments.get(name) is not None:
            value = tracer.emit(op, [value, _operand(tracer, call[name], dtype)], call.result.shape, dtype)
    return value


def _where(tracer: Tracer, call: Call) -> Value:
    dtype = _kind(call.result)
    inputs = [tracer.value(call["condition"]), *(_operand(tracer, call[name], dtype) for name in ("self", "other"))]
    return tracer.emit("Where", inputs, call.result.shape, dtype)


def _masked_fill(tracer: Tracer, call: Call) -> Value:
    dtype = _kind(call.result)
    inputs = [tracer.value(call["mask"]), _operand(tracer, call["value"], dtype), tracer.value(call["self"])]
    return tracer.emit("Where", inputs, call.result.shape, dtype)


def _to_copy(tracer: Tracer, call: Call) -> Value:
    return _operand(tracer, call["self"], _kind(call.result))


def _same(tracer: Tracer, call: Call) -> Value:
    return tracer.value(call["self"])


def _copy(tracer: Tracer, call: Call) -> Value:
    return _operand(tracer, call["src"], _kind(call.result))


LOWERINGS: dict[str, Lowering] = {
    "aten::add": binary("Add"),
    "aten::sub": binary("Sub"),
    "aten::rsub": _rsub,
    "aten::mul": binary("Mul"),
    "aten::div": _div,
    "aten::floor_divide": _div,
    "aten::maximum": binary("Max"),
    "aten::minimum": binary("Min"),
    "aten::pow": _pow,
    "aten::eq": compare("Equal"),
    "aten::ne": compare("Equal", negate=True),
    "aten::lt": compare("Greater", swap=True),
    "aten::le": compare("Greater", negate=True),
    "aten::gt": compare("Greater"),
    "aten::ge": compare("Greater", negate=True, swap=True),
    "aten::logical_and": logical("And"),
    "aten::logical_or": logical("Or"),
    "aten::logical_not": logical("Not"),
    "aten::bitwise_and": logical("And"),
    "aten::bitwise_or": logical("Or"),
    "aten::bitwise_not": logical("Not"),
    "aten::neg": unary("Neg"),
    "aten::abs": unary("Abs"),
    "aten::exp": unary("Exp"),
    "aten::expm1": _expm1,
    "aten::log": unary("Log"),
    "aten::log1p": _log1p,
    "aten::sqrt": unary("Sqrt"),
    "aten::rsqrt": _rsqrt,
    "aten::reciprocal": unary("Reciprocal"),
    "aten::sigmoid": unary("Sigmoid"),
    "aten::tanh": unary("Tanh"),
    "aten::erf": unary("Erf"),
    "aten::sin": unary("Sin"),
    "aten::cos": unary("Cos"),
    "aten::floor": unary("Floor"),
    "aten::ceil": unary("Ceil"),
    "aten::round": unary("Round"),
    "aten::sign": unary("Sign"),
    "aten::relu": unary("Relu"),
    "aten::silu": _silu,
    "aten::gelu": _gelu,
    "aten::softplus": _softplus,
    "aten::clamp": _clamp,
    "aten::clamp_min": _clamp,
    "aten::clamp_max": _clamp,
    "aten::where": _where,
    "aten::masked_fill": _masked_fill,
    "aten::_to_copy": _to_copy,
    "aten::copy": _copy,
    "aten::alias": _same,
    "aten::detach": _same,
    "aten::clone": _same,
    "aten::contiguous": _same,
    "aten::lift_fresh": _same,
}
