"""A class and a continuous label, each missing separately: digits rotated by up to 60 degrees, and their angle."""

import pyro
import torch
from torch.nn import functional as F

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images, Real


class Rotated(SemiVAE):
    """A digit and its angle.

    ::

        p(digit) p(angle) p(z) p(x | digit, angle, z)
        q(digit | x) q(angle | x, digit) q(z | x, digit, angle)
    """

    characteristic = ("digit", "angle")

    def __init__(self, x: Images, digit: Classes, angle: Real, z: int = 8):
        super().__init__(x=x, digit=digit, angle=angle)
        self.p_digit, self.p_angle, self.p_z = LabelPrior(digit), LabelPrior(angle), StandardNormal(z)
        self.p_x = BernoulliLikelihood(x, MLP([digit, angle, z], [200, 200], x.shape))
        self.q_digit = Label(digit, MLP([x.shape], [200], (digit.raw_size,)))
        self.q_angle = Label(angle, MLP([x.shape, digit], [200], (angle.raw_size,)))
        self.q_z = Gaussian(MLP([x.shape, digit, angle], [200], (2 * z,)))

    def model(self, x=None, digit=None, angle=None):
        self.register()
        with self.rows(x, digit, angle) as (x, digit, angle):
            digit = pyro.sample("digit", self.p_digit(), obs=digit, infer={"enumerate": "parallel"})
            with self.entries("angle"):
                angle = pyro.sample("angle", self.p_angle(), obs=angle)
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(digit, angle, z), obs=x)

    def guide(self, x=None, digit=None, angle=None):
        with self.rows(x, digit, angle) as (x, digit, angle):
            digit = pyro.sample("digit", self.q_digit(x), obs=digit, infer={"enumerate": "parallel"})
            with self.entries("angle"):
                angle = pyro.sample("angle", self.q_angle(x, digit), obs=angle)
            pyro.sample("z", self.q_z(x, digit, angle))

    def elbo(self, **options) -> Objective:
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options) + 100.0 * ClassifierTerm()


def rotated(x):
    angle = (2 * torch.rand(len(x)) - 1) * torch.pi / 3
    by_row = torch.stack([angle.cos(), angle.sin(), 0 * angle, -angle.sin(), angle.cos(), 0 * angle], 1)
    grid = F.affine_grid(by_row.view(-1, 2, 3), x.shape, False)
    return F.grid_sample(x / 255, grid, align_corners=False).clamp(0, 1), angle[:, None]


if __name__ == "__main__":
    args, digits = cli.few_flags(__doc__, "runs/rotation"), data.load("digits")
    torch.manual_seed(0)
    (x, angle), (x_test, angle_test) = rotated(digits.x), rotated(digits.x_test)
    known = torch.rand(2, len(x)) < 0.2  # each label is known for a fifth of the rows
    rows = {"x": x, "digit": data.hide(digits.y, known[0]), "angle": angle.where(known[1][:, None], torch.nan)}
    vae = Rotated(Images(1, 8, 8), Classes(10), Real(1)).to(args.device)
    train.fit(vae, rows, epochs=1 if args.smoke_test else 100, batch_size=50, lr=3e-3, warm_up=0.3)
    found = tasks.classify(vae.cpu(), {"x": x_test})
    accuracy, error = metrics.accuracy(found["digit"], digits.y_test), (found["angle"] - angle_test).abs().mean()
    print(f"digit: accuracy {accuracy:.3f}; angle: mean absolute error {error.rad2deg():.1f} degrees")
    some, angles = {"x": x_test[:10]}, torch.linspace(-1, 1, 5)
    images = torch.stack([x_test[:10], *(tasks.intervene(vae, some, {"angle": a.item()})[0] for a in angles)])
    plot.image_grid(images, rows=["x", *(f"{a.rad2deg():.0f}" for a in angles)], path=args.out / "angles.png")
    images = torch.stack([x_test[:10], *(tasks.intervene(vae, some, {"digit": c})[0] for c in range(10))])
    plot.image_grid(images, rows=["x", *map(str, range(10))], path=args.out / "digits.png")
