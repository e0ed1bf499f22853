"""Spaces: the values of a site, the encoding of missing values, and everything that depends on the kind of value.

=================  ===========================================  ==============================  =================
space              values of `B` rows                           missing                         entries of a row
=================  ===========================================  ==============================  =================
`Images(C, H, W)`  uint8, or float in [0, 1], `(B, C, H, W)`
`Vectors(D)`       finite floats, `(B, D)`
`Counts(D)`        non-negative integers, `(B, D)`
`Classes(C)`       integers 0 to C - 1, `(B,)`                  -1, as in scikit-learn          one
`Groups(C)`        integers 0 to C - 1, `(B,)`                  not allowed                     one
`Binary(L)`        floats, 0 or 1, `(B, L)`                     NaN, per entry                  L
`Real(K)`          finite floats, `(B, K)`                      NaN, per entry                  K
=================  ===========================================  ==============================  =================

The first three are spaces of data, the others are spaces of labels. The rest of the library works with the values that
`validate` returns, and does not check the type of a space.

Labels with several entries have a plate of their own (dim -1) inside the plate of rows (then dim -2), so that any entry
may be missing by itself. `arranged` brings values into the layout that a model's plates need.
"""

from pyro_semivae.spaces.base import Data, Labels, Space
from pyro_semivae.spaces.data import Counts, Images, Vectors, check_images, to_unit
from pyro_semivae.spaces.labels import Binary, Classes, Groups, as_binary, label_space
from pyro_semivae.spaces.missing import MISSING, all_missing, any_known, as_labels, entry_by_entry, is_missing
from pyro_semivae.spaces.real import Real

__all__ = [
    "MISSING",
    "Binary",
    "Classes",
    "Counts",
    "Data",
    "Groups",
    "Images",
    "Labels",
    "Real",
    "Space",
    "Vectors",
    "all_missing",
    "any_known",
    "as_binary",
    "as_labels",
    "check_images",
    "entry_by_entry",
    "is_missing",
    "label_space",
    "to_unit",
]
