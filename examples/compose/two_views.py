"""Two views of one object, either of which may be missing: a product of experts. Upper and lower halves of digits.

One half is missing in half of the rows; the model infers it from the other one.
"""

import pyro
import torch

from pyro_semivae import SemiVAE, cli, data, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, GaussianExperts, StandardNormal
from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Images


class Views(SemiVAE):
    """A VAE for two images (Wu and Goodman, NeurIPS 2018, without the ELBOs of the single images).

    ::

        p(z) p(upper | z) p(lower | z)
        q(z | upper, lower)
    """

    def __init__(self, upper: Images, lower: Images, z: int = 10):
        super().__init__(upper=upper, lower=lower)
        self.p_z = StandardNormal(z)
        self.p_upper = BernoulliLikelihood(upper, MLP([z], [200], upper.shape))
        self.p_lower = BernoulliLikelihood(lower, MLP([z], [200], lower.shape))
        self.q_z = GaussianExperts([MLP([view.shape], [200], (2 * z,)) for view in (upper, lower)], z)

    def model(self, upper=None, lower=None):
        self.register()
        with self.rows(upper, lower) as (upper, lower):
            z = pyro.sample("z", self.p_z())
            pyro.sample("upper", self.p_upper(z), obs=upper)
            pyro.sample("lower", self.p_lower(z), obs=lower)

    def guide(self, upper=None, lower=None):
        with self.rows(upper, lower) as (upper, lower):
            pyro.sample("z", self.q_z(upper, lower))

    def elbo(self, **options) -> TraceLabels_ELBO:
        return TraceLabels_ELBO(**{"beta": 0.2, **options})  # with beta 1 such small images hardly use z


if __name__ == "__main__":
    args, digits = cli.few_flags(__doc__, "runs/two_views"), data.load("digits")
    torch.manual_seed(0)
    upper, lower = (digits.x / 255).split(4, 2)
    which = torch.randint(4, (len(upper), 1, 1, 1))  # 0: the upper half is missing, 1: the lower half
    rows = {"upper": upper.where(which != 0, torch.nan), "lower": lower.where(which != 1, torch.nan)}
    vae = Views(Images(1, 4, 8), Images(1, 4, 8)).to(args.device)
    history = train.fit(vae, rows, epochs=1 if args.smoke_test else 100, batch_size=50, lr=3e-3, warm_up=0.3)
    plot.training_curves(history, path=args.out / "training.png")
    upper, lower = (digits.x_test / 255).split(4, 2)
    guessed = tasks.reconstruct(vae, {"upper": upper})["lower"].cpu()
    error, plain = ((image - lower).abs().mean() for image in (guessed, digits.x[:, :, 4:].float().mean(0) / 255))
    print(f"lower half from upper half: mean absolute error {error:.3f} per pixel; of the mean image {plain:.3f}")
    both = [torch.cat([upper, half], 2)[:10] for half in (lower, guessed)]
    plot.image_grid(torch.stack(both), rows=["x", "lower half guessed"], path=args.out / "guessed.png")
