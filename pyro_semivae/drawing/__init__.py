"""Drawings of a model and its guide, derived by running them: `show`."""

from pyro_semivae.drawing.picture import Picture, show

__all__ = ["Picture", "show"]
