"""Information derived from a model's graph: its label sites, descendants, covariates, and the tasks it supports.

The graph comes from a run of the code on blank rows, once for each state of the model; random generators are not
changed.
"""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from pyro_semivae.errors import InputError
from pyro_semivae.infer.graph import Graph, graphs_of, made_of
from pyro_semivae.models import SemiVAE

_structures: WeakKeyDictionary = WeakKeyDictionary()


def structure(vae: SemiVAE) -> dict[str, Graph]:
    """The graphs of the model, as `"p"`, and the guide, `"q"`: site -> the sites and inputs it depends on.

    They are cached until a submodule, one of its settings, or a space changes.
    """
    functions = [getattr(fn, "__func__", None) for fn in (vae.model, vae.guide)]  # not bound, which holds the model
    now = (functions, [*vae.spaces.items()], made_of(vae))
    kept = _structures.get(vae)
    if kept is None or None in functions or kept[0] != now:
        graphs = graphs_of(vae.model, vae.guide, vae.by_site(vae.blank()), vae.continuous_labels)
        kept = _structures[vae] = now, graphs
    return kept[1]


def descendants(vae: SemiVAE, of: Collection[str] | None = None, *, kept: Collection[str] = ()) -> set[str]:
    """The sites of the model that descend from the sites `of`.

    Args:
        of: names of sites; `None` for the labels.
        kept: sites that are held fixed: they do not count, nor do sites that descend from `of` only through them.
    """
    model = structure(vae)["p"]
    origins = {name for name in vae.label_sites if name in model} if of is None else set(of)
    found = set(origins)
    for name, parents in model.items():  # parents come first
        if name not in kept and set(parents) & found:
            found.add(name)
    return found - origins


def summed_labels(graph: Graph, labels: Collection[str]) -> dict[str, list[str]]:
    """Site -> the enumerated labels on whose values its log-density depends: the site itself, labels among its parents,
    and labels for whose values a non-label parent was sampled.

    >>> summed_labels({"a": (), "b": ("a",), "z": ("b",), "x": ("z",)}, {"a", "b"})
    {'a': ['a'], 'b': ['a', 'b'], 'z': ['b'], 'x': ['b']}
    """
    carried: dict[str, set[str]] = {}  # site -> the labels on which its value depends
    found: dict[str, list[str]] = {}
    for name, parents in graph.items():  # parents come first
        own = {name} & set(labels)
        above = set().union(*(carried.get(parent, set()) for parent in parents))
        found[name], carried[name] = sorted(above | own), own or above
    return found


def covariate_sites(vae: SemiVAE) -> tuple[str, ...]:
    """The data that a model uses but does not generate: data without a site in the model."""
    return tuple(name for name in vae.data_sites if name not in structure(vae)["p"])


def has_label(vae: SemiVAE) -> bool:
    """Whether the generative model has a label site."""
    return any(name in structure(vae)["p"] for name in vae.label_sites)


def classifies(vae: SemiVAE) -> bool:
    """Whether the guide has a label site."""
    return any(name in structure(vae)["q"] for name in vae.label_sites)


def infers_from_labels(vae: SemiVAE) -> bool:
    """Whether labels are evidence for the latents (MVAE): leaves of the model, and only inputs of the guide."""
    unknown = any(not vae.spaces[name].always_known for name in vae.label_sites)
    return unknown and has_label(vae) and not classifies(vae) and not descendants(vae)


def available(vae: SemiVAE) -> dict[str, str | None]:
    """Task -> None if the model supports it, else the reason why not.

    >>> from pyro_semivae.models import VAE
    >>> from pyro_semivae.nn import MLPs
    >>> from pyro_semivae.spaces import Classes
    >>> vae = VAE((1, 8, 8), Classes(10), networks=MLPs((4,)))
    >>> [task for task, why_not in available(vae).items() if why_not is None]
    ['infer', 'decode', 'reconstruct', 'traverse', 'walk']
    >>> available(vae)["generate"]
    'no label is a site of its model, and it states no characteristic latents'
    """
    model, guide = (structure(vae)[letter] for letter in ("p", "q"))
    latents = {name for name in guide if name in model and name not in vae.spaces}
    characteristic = set(vae.characteristic)
    no_classifier = None if classifies(vae) or infers_from_labels(vae) else "no label is a site of its guide"
    if not vae.label_sites:
        no_classifier = "it has no labels"
    told = has_label(vae) or characteristic
    not_told = None if told else "no label is a site of its model, and it states no characteristic latents"
    not_swapped, not_read = not_told, None
    if not characteristic or not characteristic <= latents:
        not_read = "its labels are not read off latents: its `characteristic` names none"
    not_below = not_read
    if not_read is None and not characteristic <= descendants(vae):
        not_below = "its characteristic latents do not depend on a label in its model"
    no_prior = not_read
    if not_read is None and not classifies(vae):
        not_read = "its guide has no classifier of the label"
    known = [name for name in vae.label_sites if vae.spaces[name].always_known and not descendants(vae, [name])]
    if known and len(known) == len(vae.label_sites):
        not_told = f"nothing in its model depends on '{known[0]}', which is known of every row"
    return {
        "infer": None,
        "decode": None,
        "reconstruct": None,
        "traverse": None if latents else "it has no latents",
        "walk": None if latents else "it has no latents",
        "classify": no_classifier,
        "generate": not_told,
        "intervene": not_told,
        "swap": not_swapped,
        "sample_characteristics": not_read,
        "closest_change": not_read,
        "vary_within": not_read,
        "prior_of_characteristics": no_prior,
        "interpolate": not_below,
    }


def check_available(vae: SemiVAE, task: str) -> None:
    """Raises an InputError with the reason, if the model does not support this task."""
    if (why_not := available(vae)[task]) is not None:
        has = ", ".join(name for name, reason in available(vae).items() if reason is None)
        raise InputError(f"{task}: {type(vae).__name__} does not have it, for {why_not}; it has {has}")
