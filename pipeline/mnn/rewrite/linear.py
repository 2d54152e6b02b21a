"""FakeLinear → Reshape · ConvertTensor · Convolution 1x1 · ConvertTensor · Reshape.

The engine's quantised matrix product is its 1x1 convolution on NC4HW4 tensors; where two of them follow each other the
converter's C4 pass removes the reshapes and conversions between.
"""

from __future__ import annotations

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json, Scope, attribute, attributes, convert, node, packed_input, reshape
from pipeline.mnn.rewrite.lora import add_low_rank


def rewrite_linear(operator: Json, scope: Scope) -> list[Json]:
    """Attributes: name, in_features, out_features, and rank (of the traced output; 3 when left out).

    Raises StageFailed when places.json has no such linear, or one of another shape.
    """
    name = scope.prefix + attribute(operator, "name")
    weight = scope.weight("linears", name)
    shape = attribute(operator, "out_features"), attribute(operator, "in_features")
    if shape != (weight["out_features"], weight["in_features"]):
        found = weight["out_features"], weight["in_features"]
        raise StageFailed(f"link: {name} is {list(shape)} in the graph but {list(found)} in the weight file")
    source = operator["inputIndexes"][0]
    before, packed = packed_input(f"{name}/pre", source, shape[1], scope)
    product, back = scope.new_tensor(f"{name}/product"), scope.new_tensor(f"{name}/post_convert")
    added, total = add_low_rank(name, source, product, shape, scope)
    output = _output_dims(attributes(operator).get("rank", 3), shape[0])
    return [
        *before,
        node(name, "Convolution", [packed], [product], "Convolution2D", _convolution(weight)),
        *added,
        convert(f"{name}/post_convert", total, back, "NC4HW4", "NCHW"),
        reshape(f"{name}/post_reshape", back, operator["outputIndexes"][0], output),
    ]


def _output_dims(rank: int, out_features: int) -> list[int]:
    """The traced rank is kept: consumers index axes from the front, and all leading axes but the rows are 1."""
    if rank < 2:
        raise StageFailed(f"link: a linear with an output of rank {rank}")
    return [1] * (rank - 2) + [-1, out_features]


def _convolution(weight: Json) -> Json:
    common = {
        "dilateX": 1, "dilateY": 1, "strideX": 1, "strideY": 1, "kernelX": 1, "kernelY": 1, "padX": 0, "padY": 0,
        "group": 1, "outputCount": weight["out_features"], "inputCount": weight["in_features"], "padMode": "CAFFE",
        "relu": False, "relu6": False, "hasOutputShape": False,
    }  # fmt: skip
    return {"common": common, "quanParameter": _quantisation(weight), "external": list(weight["external"])}


def _quantisation(weight: Json) -> Json:
    """Field meanings from the engine's reader (source/core/ConvolutionCommon.cpp, tag 3.6.1).

    type 3 = raw fp16, 1 = integer codes. readType: number of scales, and 0 marks symmetric codes.
    """
    if weight["bits"] == 16:
        return {"type": 3}
    blocks = weight["in_features"] // (weight["block"] or weight["in_features"])
    return {
        "type": 1,
        "quantScale": 1.0,
        "scaleIn": 0.0,
        "scaleOut": 0.0,
        "useInt32": False,
        "has_scaleInt": False,
        "shapeInt32": bool(weight["shape_int32"]),
        "aMaxOrBits": weight["bits"],
        "aMin": weight["a_min"],
        "readType": 0 if weight["symmetric"] else weight["out_features"] * blocks,
        "weightSize": 0,
        "scaleStorage": "FP16" if weight["scale_bits"] == 16 else "FP32",
    }
