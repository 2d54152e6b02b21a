"""Where the floats of an MNN file are: slot numbers out of the public schema (schema/default/*.fbs, tag 3.6.1).

A table's fields are numbered in the order of the schema; a union takes two numbers (its type, then its value).
"""

from __future__ import annotations

# Net
NET_OPS = 3
NET_SUBGRAPHS = 10
NET_UUID = 11
# SubGraphProto
SUBGRAPH_NODES = 4
# Op
OP_MAIN_TYPE = 1
OP_MAIN = 2
OP_NAME = 3
# numbers of the union OpParameter
UNION_TYPES = {7: "Blob", 9: "Convolution2D", 88: "LayerNorm", 100: "LinearAttentionParam"}
# Convolution2D, LayerNorm and Blob: vectors of int64 that point into the weight file
EXTERNAL_SLOTS = {"Convolution2D": 6, "LayerNorm": 5, "Blob": 8}

# table → {field: (slot, "float" | "[float]" | TABLE | "[TABLE]")}
FLOATS: dict[str, dict[str, tuple[int, str]]] = {
    "AttentionParam": {"attnScale": (6, "float")},
    "Attribute": {"f": (5, "float"), "tensor": (6, "Blob"), "list": (7, "ListValue")},
    "BatchNorm": {
        "slopeData": (1, "[float]"), "meanData": (2, "[float]"), "varData": (3, "[float]"), "biasData": (4, "[float]"),
        "Adata": (5, "[float]"), "Bdata": (6, "[float]"), "epsilon": (7, "float"),
    },
    "Blob": {"float32s": (7, "[float]")},
    "Convolution2D": {"weight": (1, "[float]"), "bias": (2, "[float]"), "quanParameter": (3, "IDSTQuan")},
    "ELU": {"alpha": (0, "float")},
    "Eltwise": {"coeff": (1, "[float]")},
    "Extra": {"attr": (3, "[Attribute]")},
    "GroupNorm": {"epsilon": (1, "float"), "gamma": (2, "[float]"), "beta": (3, "[float]")},
    "IDSTQuan": {
        "alpha": (1, "[float]"), "quantScale": (4, "float"), "scaleIn": (5, "float"), "scaleOut": (6, "float"),
    },
    "InnerProduct": {"weight": (3, "[float]"), "bias": (4, "[float]")},
    "Interp": {
        "widthScale": (0, "float"), "heightScale": (1, "float"), "widthOffset": (7, "float"),
        "heightOffset": (8, "float"), "cubicCoeffA": (9, "float"), "depthScale": (11, "float"),
        "depthOffset": (13, "float"),
    },
    "LayerNorm": {"epsilon": (1, "float"), "gamma": (2, "[float]"), "beta": (3, "[float]")},
    "ListValue": {"f": (2, "[float]")},
    "MatMul": {"weight": (3, "[float]"), "bias": (4, "[float]")},
    "PRelu": {"slope": (1, "[float]")},
    "Plugin": {"attr": (1, "[Attribute]")},
    "RandomUniform": {"low": (3, "float"), "high": (4, "float")},
    "ReductionParam": {"coeff": (2, "float")},
    "Relu": {"slope": (0, "float")},
    "Relu6": {"minValue": (0, "float"), "maxValue": (1, "float")},
    "Resize": {"xScale": (0, "float"), "yScale": (1, "float")},
    "RoPEParam": {"q_norm": (4, "LayerNorm"), "k_norm": (5, "LayerNorm")},
    "Scale": {"scaleData": (1, "[float]"), "biasData": (2, "[float]")},
    "Selu": {"scale": (0, "float"), "alpha": (1, "float")},
}  # fmt: skip
