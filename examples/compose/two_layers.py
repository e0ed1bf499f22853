"""CCVAE with two layers of latents in place of z\\c: z_1 given z_2. On scikit-learn's 8x8 digits."""

import pyro
import torch

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian, Label, LabelPrior, SplitGaussian, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceCCVAE_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images


class TwoLayers(SemiVAE):
    """CCVAE with a latent z_2 above the non-characteristic latent z_1.

    ::

        p(y) p(z_c | y) p(z_2) p(z_1 | z_2) p(x | z_c, z_1)
        q(z_c, z_1 | x) q(z_2 | z_1) q(y | z_c)
    """

    characteristic = ("z_c",)

    def __init__(self, x: Images, y: Classes, z_c: int = 10, z_1: int = 8, z_2: int = 4):
        super().__init__(x=x, y=y)
        self.p_y, self.p_z_c = LabelPrior(y), Gaussian(MLP([y], [50], (2 * z_c,)))
        self.p_z_2, self.p_z_1 = StandardNormal(z_2), Gaussian(MLP([z_2], [50], (2 * z_1,)))
        self.p_x = BernoulliLikelihood(self.spaces["x"], MLP([z_c, z_1], [200], self.x_shape))
        self.q_z = SplitGaussian(MLP([self.x_shape], [200], (2 * (z_c + z_1),)), (z_c, z_1))
        self.q_z_2, self.q_y = Gaussian(MLP([z_1], [50], (2 * z_2,))), Label(y, MLP([z_c], [50], (y.raw_size,)))

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", self.p_z_c(y))
            z_2 = pyro.sample("z_2", self.p_z_2())
            z_1 = pyro.sample("z_1", self.p_z_1(z_2))
            return pyro.sample("x", self.p_x(z_c, z_1), obs=x)

    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            q_z_c, q_z_1 = self.q_z(x)
            z_c, z_1 = pyro.sample("z_c", q_z_c), pyro.sample("z_1", q_z_1)
            pyro.sample("z_2", self.q_z_2(z_1))
            pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel"})

    def elbo(self, **options) -> Objective:
        return TraceCCVAE_ELBO(**{"marginal": "jensen", **options}) + 100.0 * ClassifierTerm()


if __name__ == "__main__":
    args, digits = cli.few_flags(__doc__, "runs/two_layers"), data.load("digits")
    torch.manual_seed(0)
    vae = TwoLayers(digits.x_shape, digits.labels).to(args.device)
    y = data.hide(digits.y, data.labelled_rows(digits.y, 100, seed=0))
    history = train.fit(vae, digits.x, y, epochs=1 if args.smoke_test else 100, batch_size=50, lr=3e-3, warm_up=0.3)
    found = tasks.classify(vae, digits.x_test)
    print(f"accuracy {metrics.accuracy(found, digits.y_test):.3f}, with 100 labelled digits")
    plot.training_curves(history, path=args.out / "training.png")
    x = digits.x_test[:10]
    images = torch.stack([vae.images(x), *(tasks.intervene(vae, x, torch.full((10,), c))[0] for c in range(10))])
    plot.image_grid(images, rows=["x", *map(str, range(10))], path=args.out / "interventions.png")
