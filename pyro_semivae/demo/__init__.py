"""The logic of an interactive demo of a trained model, without a user interface; see `examples/demo.py` for one.

>>> import torch
>>> from pyro_semivae import CCVAE
>>> from pyro_semivae.nn import MLPs
>>> from pyro_semivae.spaces import Classes
>>> explorer = Explorer(CCVAE((1, 8, 8), Classes(3), z_c=2, networks=MLPs((4,))), ("cat", "dog", "owl"))
>>> [slider.name for slider in explorer.sliders], explorer.choices
(['z_c[0]', 'z_c[1]'], (Choice(name='label', values=('cat', 'dog', 'owl')),))
>>> state = explorer.start(torch.rand(1, 1, 8, 8))
>>> state = explorer.move(explorer.choose(state, 0, 2), 1, 0.5)  # an owl, whose z_c[1] is 0.5
>>> explorer.image(state).shape
torch.Size([1, 8, 8])
"""

from pyro_semivae.demo.explorer import Choice, Explorer, Slider, State
from pyro_semivae.demo.page import OPEN, Page, Session
from pyro_semivae.demo.pictures import figures, picture, probabilities
from pyro_semivae.demo.trained import Trained, open_run, some_rows
from pyro_semivae.demo.uploads import MAX_BYTES, MAX_PIXELS, read_upload

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "OPEN",
    "Choice",
    "Explorer",
    "Page",
    "Session",
    "Slider",
    "State",
    "Trained",
    "figures",
    "open_run",
    "picture",
    "probabilities",
    "read_upload",
    "some_rows",
]
