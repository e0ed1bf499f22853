"""Metrics on plain arrays and callables, one per file."""

from pyro_semivae.metrics.accuracy import accuracy, balanced_label_accuracy, confusion, label_accuracy, mean_accuracy
from pyro_semivae.metrics.calibration import calibration_error
from pyro_semivae.metrics.capture import Capture, characteristic_capture
from pyro_semivae.metrics.diversity import class_precision_recall, precision_recall, variance_share
from pyro_semivae.metrics.extraction import Extraction, assign, distinct_classes, extraction
from pyro_semivae.metrics.factors import linear_errors, median_errors, principal_components
from pyro_semivae.metrics.frechet import frechet_distance
from pyro_semivae.metrics.generation import generation_accuracy
from pyro_semivae.metrics.interventions import (
    condition_number,
    intervention_accuracy,
    intervention_matrix,
    intervention_pairs,
    selectivity,
)
from pyro_semivae.metrics.mutual_information import LastLayerGP, image_mutual_information, mutual_information
from pyro_semivae.metrics.style import image_statistics, kept, rest_explained
from pyro_semivae.metrics.swap import log_prob_of_labels, swap_difference

__all__ = [
    "Capture",
    "Extraction",
    "LastLayerGP",
    "accuracy",
    "assign",
    "balanced_label_accuracy",
    "calibration_error",
    "characteristic_capture",
    "class_precision_recall",
    "condition_number",
    "confusion",
    "distinct_classes",
    "extraction",
    "frechet_distance",
    "generation_accuracy",
    "image_mutual_information",
    "image_statistics",
    "intervention_accuracy",
    "intervention_matrix",
    "intervention_pairs",
    "kept",
    "label_accuracy",
    "linear_errors",
    "log_prob_of_labels",
    "mean_accuracy",
    "median_errors",
    "mutual_information",
    "precision_recall",
    "principal_components",
    "rest_explained",
    "selectivity",
    "swap_difference",
    "variance_share",
]
