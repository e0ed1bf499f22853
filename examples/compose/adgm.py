"""The auxiliary deep generative model (Maaløe, Sønderby, Sønderby, Winther, ICML 2016): q(y | a, x) with a latent a.

On scikit-learn's 8x8 digits. SDGM has p(a | y, z) p(x | a, y, z) in place of p(x | y, z) p(a | x, y, z).
"""

import pyro
import torch

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images


class ADGM(SemiVAE):
    """M2 with an auxiliary latent.

    ::

        p(y) p(z) p(x | y, z) p(a | x, y, z)
        q(a | x) q(y | a, x) q(z | a, x, y)
    """

    characteristic = ("y",)

    def __init__(self, x: Images, y: Classes, a: int = 16, z: int = 16):
        super().__init__(x=x, y=y)
        self.p_y, self.p_z = LabelPrior(y), StandardNormal(z)
        self.p_x = BernoulliLikelihood(self.spaces["x"], MLP([y, z], [200], self.x_shape))
        self.p_a = Gaussian(MLP([self.x_shape, y, z], [200], (2 * a,)))
        self.q_a = Gaussian(MLP([self.x_shape], [200], (2 * a,)))
        self.q_y = Label(y, MLP([a, self.x_shape], [200], (y.raw_size,)))
        self.q_z = Gaussian(MLP([a, self.x_shape, y], [200], (2 * z,)))

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            x = pyro.sample("x", self.p_x(y, z), obs=x)
            pyro.sample("a", self.p_a(x, y, z))

    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            a = pyro.sample("a", self.q_a(x))
            y = pyro.sample("y", self.q_y(a, x), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(a, x, y))

    def elbo(self, **options) -> Objective:
        return TraceLabels_ELBO(**options) + 100.0 * ClassifierTerm()


if __name__ == "__main__":
    args, digits = cli.few_flags(__doc__, "runs/adgm"), data.load("digits")
    torch.manual_seed(0)
    vae = ADGM(digits.x_shape, digits.labels).to(args.device)
    y = data.hide(digits.y, data.labelled_rows(digits.y, 100, seed=0))
    history = train.fit(vae, digits.x, y, epochs=1 if args.smoke_test else 100, batch_size=50, lr=3e-3, warm_up=0.3)
    found = tasks.classify(vae, digits.x_test)
    print(f"accuracy {metrics.accuracy(found, digits.y_test):.3f}, with 100 labelled digits")
    plot.training_curves(history, path=args.out / "training.png")
    plot.image_grid(tasks.generate(vae, torch.arange(10), 5), path=args.out / "generations.png")
