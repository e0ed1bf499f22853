"""Two class labels, both partly missing, the prior of one depends on the other: 8x8 digits and their colours."""

import pyro
import torch

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images

ENUMERATE = {"enumerate": "parallel"}


class Coloured(SemiVAE):
    """A digit and its colour.

    ::

        p(digit) p(colour | digit) p(z) p(x | digit, colour, z)
        q(digit | x) q(colour | x, digit) q(z | x, digit, colour)
    """

    characteristic = ("digit", "colour")

    def __init__(self, x: Images, digit: Classes, colour: Classes, z: int = 8):
        super().__init__(x=x, digit=digit, colour=colour)
        self.p_digit, self.p_z = LabelPrior(digit), StandardNormal(z)
        self.p_colour = Label(colour, MLP([digit], [], (colour.raw_size,)))
        self.p_x = BernoulliLikelihood(x, MLP([digit, colour, z], [200, 200], x.shape))
        self.q_digit = Label(digit, MLP([x.shape], [200], (digit.raw_size,)))
        self.q_colour = Label(colour, MLP([x.shape, digit], [200], (colour.raw_size,)))
        self.q_z = Gaussian(MLP([x.shape, digit, colour], [200], (2 * z,)))

    def model(self, x=None, digit=None, colour=None):
        self.register()
        with self.rows(x, digit, colour) as (x, digit, colour):
            digit = pyro.sample("digit", self.p_digit(), obs=digit, infer=ENUMERATE)
            colour = pyro.sample("colour", self.p_colour(digit), obs=colour, infer=ENUMERATE)
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(digit, colour, z), obs=x)

    def guide(self, x=None, digit=None, colour=None):
        with self.rows(x, digit, colour) as (x, digit, colour):
            digit = pyro.sample("digit", self.q_digit(x), obs=digit, infer=ENUMERATE)
            colour = pyro.sample("colour", self.q_colour(x, digit), obs=colour, infer=ENUMERATE)
            pyro.sample("z", self.q_z(x, digit, colour))

    def elbo(self, **options) -> Objective:
        return TraceLabels_ELBO(**options) + 100.0 * ClassifierTerm()


def painted(x, y):
    """Coloured digits: even ones are mostly red, odd ones mostly blue."""
    colour = torch.where(torch.rand(len(y)) < 0.7, 2 * (y % 2), torch.randint(3, (len(y),)))
    return x * torch.eye(3, dtype=torch.uint8)[colour][:, :, None, None], colour


if __name__ == "__main__":
    args, digits = cli.few_flags(__doc__, "runs/two_labels"), data.load("digits")
    torch.manual_seed(0)
    (x, colour), (x_test, colour_test) = painted(digits.x, digits.y), painted(digits.x_test, digits.y_test)
    known = torch.rand(2, len(x)) < 0.1  # each label is known for a tenth of the rows
    rows = {"x": x, "digit": data.hide(digits.y, known[0]), "colour": data.hide(colour, known[1])}
    vae = Coloured(Images(3, 8, 8), Classes(10), Classes(3)).to(args.device)
    train.fit(vae, rows, epochs=1 if args.smoke_test else 100, batch_size=50, lr=3e-3, warm_up=0.3)
    found = tasks.classify(vae.cpu(), {"x": x_test})
    for name, true in (("digit", digits.y_test), ("colour", colour_test)):
        print(f"{name}: accuracy {metrics.accuracy(found[name], true):.3f}")
    every = {"digit": torch.arange(10).repeat(3), "colour": torch.arange(3).repeat_interleave(10)}
    plot.image_grid(tasks.generate(vae, every)[0].unflatten(0, (3, 10)), path=args.out / "generations.png")
    changed = [x_test[:10] / 255, *(tasks.intervene(vae, {"x": x_test[:10]}, {"colour": c})[0] for c in range(3))]
    plot.image_grid(torch.stack(changed), rows=["x", "red", "green", "blue"], path=args.out / "interventions.png")
