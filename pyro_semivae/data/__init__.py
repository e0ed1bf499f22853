"""Data set loaders, splits into labelled and unlabelled rows, and batches."""

from pyro_semivae.data.affectnet import load_affectnet
from pyro_semivae.data.batches import Batch, Batches
from pyro_semivae.data.celeba import load_celeba
from pyro_semivae.data.chexpert import load_chexpert
from pyro_semivae.data.factors import GRIDS, FactorData, factor_data, load_grid
from pyro_semivae.data.grids import Grid
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.data.mouths import mouths
from pyro_semivae.data.noise import adversarial, alternate, jitter, only_with_grad, shift
from pyro_semivae.data.one_class import one_class
from pyro_semivae.data.own import load_arrays, load_path
from pyro_semivae.data.own_dataset import load_dataset
from pyro_semivae.data.own_folder import load_folder
from pyro_semivae.data.reference import ReferenceData
from pyro_semivae.data.sets import ATTRIBUTES, NAMES, data_root, load, load_auto, load_small
from pyro_semivae.data.splits import drop_partly_labelled, hide, labelled_rows, lose_labels, parse_labelled
from pyro_semivae.data.styled import styled
from pyro_semivae.data.table import Table

__all__ = [
    "ATTRIBUTES",
    "GRIDS",
    "NAMES",
    "Batch",
    "Batches",
    "FactorData",
    "Grid",
    "ImageData",
    "ReferenceData",
    "Table",
    "adversarial",
    "alternate",
    "data_root",
    "drop_partly_labelled",
    "factor_data",
    "hide",
    "jitter",
    "labelled_rows",
    "load",
    "load_affectnet",
    "load_arrays",
    "load_auto",
    "load_celeba",
    "load_chexpert",
    "load_dataset",
    "load_folder",
    "load_grid",
    "load_path",
    "load_small",
    "lose_labels",
    "mouths",
    "one_class",
    "only_with_grad",
    "parse_labelled",
    "shift",
    "styled",
]
