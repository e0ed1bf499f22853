"""What kinds of operations the nodes of a traced graph are."""

from __future__ import annotations

import torch
from torch.fx import Node

aten = torch.ops.aten
EMPTY = (aten.empty.memory_format, aten.empty_strided.default)
EMPTY_LIKE = (aten.empty_like.default,)
VIEWS = ("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
# Pointwise operations without torch's tag for them.
ACTIVATIONS = ("leaky_relu", "elu", "softplus", "hardtanh", "mish", "log_sigmoid", "hardswish")
POINTWISE = {getattr(aten, f"{name}_backward").default for name in ACTIVATIONS}
NORMALISES = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update")


def is_random(node: Node) -> bool:
    """Whether an operation draws from torch's generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_view(node: Node) -> bool:
    """Whether a tensor has the entries of another in another shape."""
    return str(node.target) in VIEWS


def is_pointwise(node: Node) -> bool:
    """Whether each entry of a tensor is computed from the entries of other tensors at the same place."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    return node.target in POINTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ())


def changes_in_place(node: Node) -> bool:
    """Whether an operation changes one of its inputs, such as running statistics, which its schema does not say."""
    if node.op != "call_function":
        return False
    kind, _, rest = str(node.target).partition(".")
    name = rest.partition(".")[0] if kind == "aten" else ""
    if is_random(node):  # torch calls all of them impure
        return name.endswith("_")
    return node.is_impure() or (name in NORMALISES and isinstance(node.args[3], Node))
