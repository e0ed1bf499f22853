"""Pictures of a model and its guide, from runs of them: `show`."""

from pyro_semivae.drawing.picture import Picture, show

__all__ = ["Picture", "show"]
