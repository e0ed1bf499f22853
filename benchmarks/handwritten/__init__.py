"""Objectives of this library written by hand in plain torch, as the limit for the time of a step.

Each program computes the same objective as the library from the same networks, with one forward pass of a network over
all rows that are ready for it at the same time, and without work whose result is not used. It knows which rows are
labelled from `Batch.labelled`. `tests/infer/test_handwritten.py` asserts that values and gradients are the library's.
"""

from handwritten import counts, faces, images, inverted, larvae, rbvae, two_labels
from handwritten.common import Case

CASES: dict[str, Case] = {
    name: case
    for module in (images, faces, inverted, larvae, rbvae, two_labels, counts)
    for name, case in module.CASES.items()
}
