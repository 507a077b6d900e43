"""Lower precision, written into the graph.

TensorRT types its networks strongly: it computes in the types that the graph names. So products
with weights, where nearly all of the work is, are put between casts to bfloat16. Attention, sums,
norms and softmax stay in float32. `PRECISIONS` is the order in which a build tries them.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

PRECISIONS = ("bfloat16", "bfloat16-text", "float32")
"""All products with weights in bfloat16; those of the vision tower in float32; all in float32."""
PRODUCTS = ("MatMul", "Gemm")
VISION_INPUT = "pixel_values"


def with_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """`model`, changed in place, with its matrix products in `precision`.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision != "float32":
        _cast_products(model.graph, {}, keep_vision=precision == "bfloat16-text")
    return model


Sources = dict[str, frozenset[str]]
"""For each value of a graph, the inputs that it depends on; none for weights."""


def sources(graph: onnx.GraphProto, outer: Sources) -> Sources:
    """Sources of the values of `graph`, which may read values of the graph around it."""
    found = outer | {item.name: frozenset({item.name}) for item in graph.input}
    for node in graph.node:
        read = [found.get(name, frozenset()) for name in (*node.input, *_captured(node))]
        for name in node.output:
            found[name] = frozenset().union(*read)
    return found


def _captured(node: onnx.NodeProto) -> Iterable[str]:
    """Values of the outer graph that a loop's body may read."""
    for body in _bodies(node):
        for inner in body.node:
            yield from inner.input
            yield from _captured(inner)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _cast_products(graph: onnx.GraphProto, outer: Sources, *, keep_vision: bool) -> None:
    from_inputs = sources(graph, outer)
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        for body in _bodies(node):
            _cast_products(body, from_inputs, keep_vision=keep_vision)
        with_weights = not all(from_inputs.get(name) for name in node.input[:2])
        kept = keep_vision and from_inputs[node.output[0]] == {VISION_INPUT}
        if node.op_type not in PRODUCTS or not with_weights or kept:
            nodes.append(node)
            continue
        # The number keeps names apart where an operand feeds several products.
        for place, name in enumerate(node.input):
            low = f"{name}_bfloat16_{number}_{place}"
            nodes.append(helper.make_node("Cast", [name], [low], to=TensorProto.BFLOAT16))
            node.input[place] = low
        result, low = node.output[0], f"{node.output[0]}_bfloat16"
        node.output[0] = low
        nodes += [node, helper.make_node("Cast", [low], [result], to=TensorProto.FLOAT)]
    del graph.node[:]
    graph.node.extend(nodes)
