"""Measures, on plain arrays and callables; one a file."""

from pyro_semivae.metrics.accuracy import accuracy
from pyro_semivae.metrics.classifier import ImageClassifier, independent_classifier
from pyro_semivae.metrics.generation import generation_accuracy
from pyro_semivae.metrics.mutual_information import LastLayerGP, image_mutual_information, mutual_information

__all__ = [
    "ImageClassifier",
    "LastLayerGP",
    "accuracy",
    "generation_accuracy",
    "image_mutual_information",
    "independent_classifier",
    "mutual_information",
]
