"""What tests by hand share: a network's layers on vectors, however the network itself takes its parents."""

import torch


def through(net, *vectors):
    """The layers of an `MLP` on the concatenation of its parents as vectors, `(..., B, size_i)`."""
    batch = torch.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
    return net.layers(torch.cat([vector.expand(*batch, vector.shape[-1]) for vector in vectors], -1))
