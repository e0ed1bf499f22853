"""M2 on counts, with a covariate that is not generated: gene counts of synthetic cells, given their library sizes."""

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import Gaussian, Label, LabelPrior, NegativeBinomialLikelihood, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Counts, Vectors


class Cells(SemiVAE):
    """Gene counts given the library size.

    ::

        p(y) p(z) p(x | size, y, z)
        q(y | x) q(z | x, y)
    """

    characteristic = ("y",)

    def __init__(self, x: Counts, y: Classes, z: int = 4):
        super().__init__(x=x, y=y, size=Vectors(1))
        self.p_y, self.p_z = LabelPrior(y), StandardNormal(z)
        self.p_x = NegativeBinomialLikelihood(x, MLP([y, z], [64], x.shape), sized=True)
        self.q_y = Label(y, MLP([x.shape], [64], (y.raw_size,)))
        self.q_z = Gaussian(MLP([x.shape, y], [64], (2 * z,)))

    def model(self, x=None, y=None, size=None):
        self.register()
        with self.rows(x, y, size) as (x, y, size):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(size, y, z), obs=x)

    def guide(self, x=None, y=None, size=None):
        with self.rows(x, y, size) as (x, y, size):
            x = x.log1p()
            y = pyro.sample("y", self.q_y(x), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(x, y))

    def elbo(self, **options) -> Objective:
        return TraceLabels_ELBO(split_labelled=True, **options) + 50.0 * ClassifierTerm()


def cells(number, profiles, states):
    """Counts, types and library sizes; cells of one type vary along two directions (`states`)."""
    y, size = torch.randint(len(profiles), (number,)), dist.LogNormal(6.0, 0.5).sample((number, 1))
    mean = size * (profiles[y] + torch.randn(number, 2) @ states).softmax(-1)
    return dist.NegativeBinomial(5.0, logits=(mean / 5).log()).sample(), y, size


if __name__ == "__main__":
    args = cli.few_flags(__doc__, "runs/counts")
    torch.manual_seed(0)
    profiles, states = 0.5 * torch.randn(4, 60), 0.3 * torch.randn(2, 60)
    (x, y, size), (x_test, y_test, size_test) = cells(4000, profiles, states), cells(1000, profiles, states)
    vae = Cells(Counts(60), Classes(4)).to(args.device)
    rows = {"x": x, "y": data.hide(y, torch.arange(80)), "size": size}
    history = train.fit(vae, rows, epochs=1 if args.smoke_test else 30, batch_size=50, lr=3e-3, warm_up=0.3)
    found = tasks.classify(vae, {"x": x_test, "size": size_test})
    print(f"accuracy of the type: {metrics.accuracy(found, y_test):.3f}, with 80 labelled cells")
    plot.training_curves(history, path=args.out / "training.png")
    means = tasks.generate(vae, {"y": torch.arange(4), "size": torch.full((4, 1), 400.0)}, 200).mean(0).cpu()
    figure = Figure(figsize=(8, 4))
    for axis, of_type, own in zip(figure.subplots(2, 2).flat, means, profiles, strict=True):
        axis.scatter(400 * own.softmax(-1), of_type, s=8)
        axis.set(xlabel="profile", ylabel="generated")
    figure.savefig(args.out / "profiles.png", bbox_inches="tight")
