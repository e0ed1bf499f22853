"""Your own folder of images, and a csv with incomplete labels: classes, numbers and blanks.

python examples/compose/own_folder.py                  # first renders a folder of shapes
python examples/compose/own_folder.py --dataset pets/  # any folder with a csv, whose columns are the labels
"""

import pyro
import torch
from PIL import Image, ImageDraw
from torch.nn import ModuleDict

from pyro_semivae import SemiVAE, cli, data, report, train
from pyro_semivae.conditionals import Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.models.parts import likelihood_for, networks_for


class Labelled(SemiVAE):
    """p(label) for each label, p(z) p(x | labels, z); q(label | x) for each label, q(z | x, labels)."""

    states_graph = False  # the labels depend on the folder

    def __init__(self, z: int = 16, **spaces):
        super().__init__(**spaces)
        x, labels = spaces.pop("x"), spaces
        self.characteristic, nets = self.label_sites, networks_for(x)
        self.p_label = ModuleDict({f"of_{name}": LabelPrior(y) for name, y in labels.items()})
        q = {f"of_{name}": Label(y, nets.encoder(x.shape, y.raw_size)) for name, y in labels.items()}
        self.q_label, self.p_z = ModuleDict(q), StandardNormal(z)
        self.p_x = likelihood_for(x)(x, nets.decoder([*labels.values(), z], x.shape))
        self.q_z = Gaussian(nets.encoder(x.shape, 2 * z, [*labels.values()]))

    def sample_labels(self, values, conditionals, *parents):
        for name, value in zip(self.label_sites, values, strict=True):
            infer = {} if name in self.continuous_labels else {"enumerate": "parallel"}
            with self.entries(name):
                yield pyro.sample(name, conditionals[f"of_{name}"](*parents), obs=value, infer=infer)

    def model(self, *values):
        self.register()
        with self.rows(*values) as (x, *labels):
            labels = [*self.sample_labels(labels, self.p_label)]
            return pyro.sample("x", self.p_x(*labels, pyro.sample("z", self.p_z())), obs=x)

    def guide(self, *values):
        with self.rows(*values) as (x, *labels):
            pyro.sample("z", self.q_z(x, *self.sample_labels(labels, self.q_label, x)))

    def elbo(self, **options) -> Objective:
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options) + 100.0 * ClassifierTerm()


def draw(folder, number, lines="file,shape,radius\n"):
    """Discs and squares of random sizes; the csv has each label for a third of them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, known in enumerate(torch.rand(number, 2) < 0.33):
        shape, radius = ("ellipse", "rectangle")[torch.randint(2, ())], 4 + 9 * torch.rand(()).item()
        image, colour = Image.new("RGB", (32, 32)), tuple(torch.randint(90, 256, (3,)).tolist())
        getattr(ImageDraw.Draw(image), shape)([16 - radius] * 2 + [16 + radius] * 2, fill=colour)
        image.save(folder / "images" / f"{i:04}.png")
        lines += f"images/{i:04}.png,{shape if known[0] else ''},{f'{radius:.1f}' if known[1] else ''}\n"
    (folder / "labels.csv").write_text(lines)


if __name__ == "__main__":
    args, _ = cli.few_flags(__doc__, "runs/own_folder", dataset=True), torch.manual_seed(0)
    if args.dataset is None:
        draw(args.out / "shapes", 300 if args.smoke_test else 2000)
    table = data.load_folder(args.dataset or args.out / "shapes")
    print(table)
    vae = Labelled(**table.spaces).to(args.device)
    history = train.fit(vae, table.train, epochs=1 if args.smoke_test else 30, batch_size=50, warm_up=0.3)
    print(report.measure_rows(vae, table.test))
    report.draw_rows(vae, table.test, history, args.out)
    vae.save(args.out / "model.pt")
