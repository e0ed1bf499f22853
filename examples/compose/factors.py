"""LaRVAE with one factor that is a class: the shape of a room's object, with hues, scale and angle; few are known."""

import pyro
import torch

from pyro_semivae import SemiVAE, cli, data, metrics, plot, tasks, train
from pyro_semivae.conditionals import BernoulliLikelihood, Label, LabelAndGaussian, LabelPrior, StandardNormal
from pyro_semivae.infer import Objective, TraceLabels_ELBO, label_replacement
from pyro_semivae.nn import MLP
from pyro_semivae.spaces import Classes, Images, Real


class Room(SemiVAE):
    """A shape, marginalised where it is missing, continuous factors y, and a nuisance z.

    ::

        p(shape) p(y) p(z) p(x | shape, y, z)
        q(shape | x) q(y | x) q(z | x)
    """

    characteristic = ("shape", "y")

    def __init__(self, x: Images, shape: Classes, y: Real, z: int = 3):
        super().__init__(x=x, shape=shape, y=y)
        self.p_shape, self.p_y, self.p_z = LabelPrior(shape), LabelPrior(y), StandardNormal(z)
        self.p_x = BernoulliLikelihood(x, MLP([shape, y, z], [192, 384], x.shape))
        self.q_shape = Label(shape, MLP([x.shape], [256], (shape.raw_size,)))
        self.q_y_z = LabelAndGaussian(y, MLP([x.shape], [256], (y.raw_size + 2 * z,)), z)

    def model(self, x=None, shape=None, y=None):
        self.register()
        with self.rows(x, shape, y) as (x, shape, y):
            shape = pyro.sample("shape", self.p_shape(), obs=shape, infer={"enumerate": "parallel"})
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(shape, y, z), obs=x)

    def guide(self, x=None, shape=None, y=None):
        with self.rows(x, shape, y) as (x, shape, y):
            pyro.sample("shape", self.q_shape(x), obs=shape, infer={"enumerate": "parallel"})
            q_y, q_z = self.q_y_z(x)
            with self.entries("y"):
                pyro.sample("y", q_y, obs=y)
            pyro.sample("z", q_z)

    def elbo(self) -> Objective:
        weights = {"alpha": 2000.0, "tau": 10.0, "generated": 500.0, "replacement": "prior", "pixels": 4.0}
        bound = TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting)
        return label_replacement(bound, "shape", "y", classes=("shape",), **weights)


if __name__ == "__main__":
    args, grid = cli.few_flags(__doc__, "runs/factors"), data.load_grid("room", size=32)
    torch.manual_seed(0)
    room = data.factor_data(grid, images=400 if args.smoke_test else 6000, test=1000)
    y, shape = room.labels(0.05, known=[n for n in grid.factor_names if n != "shape"]), room.train.classes[:, 4]
    numbers = [j for j, name in enumerate(grid.factor_names) if name != "shape"]
    rows = {"x": room.train.x, "shape": data.hide(shape, ~y[:, 0].isnan()), "y": y[:, numbers]}
    vae = Room(Images(3, 32, 32), Classes(4), Real(5)).to(args.device)
    train.fit(vae, rows, epochs=1 if args.smoke_test else 15, batch_size=64, schedule="constant")
    found, true = tasks.classify(vae.cpu(), {"x": room.test.x}), grid.values(room.test.classes)[:, numbers]
    print(f"shape: accuracy {metrics.accuracy(found['shape'], room.test.classes[:, 4]):.3f}")
    errors = (found["y"] - true).abs().mean(0).numpy().round(2)
    print("mean absolute errors", errors, "of", [grid.factor_names[j] for j in numbers])
    some = {"x": room.test.x[:10]}
    images = torch.stack([some["x"] / 255, *(tasks.intervene(vae, some, {"shape": c})[0] for c in range(4))])
    plot.image_grid(images, rows=["x", "cube", "cylinder", "sphere", "capsule"], path=args.out / "shapes.png")
    plot.image_grid(tasks.reconstruct(vae, some).unsqueeze(0), path=args.out / "reconstructions.png")
