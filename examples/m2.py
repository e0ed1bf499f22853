"""M2 (Kingma et al. 2014): the label is a latent of its own, summed where it is missing.

python examples/m2.py
python examples/m2.py --dataset faces          # 18 binary labels, drawn where they are missing
"""

from __future__ import annotations

from pyro_semivae import cli
from pyro_semivae.models import M2


def make(job: cli.Run) -> M2:
    return M2(job.data.x_shape, job.data.labels, z=job.args.z, prior=job.prior(), **job.parts())


def run() -> None:
    parser = cli.compared_parser(__doc__, split=False, alpha=0.1)
    parser.add_argument("--labels", choices=["relaxed", "score"], default="relaxed", help="estimator, if binary")
    args = cli.parse(parser, cli.COMPARED)
    job = cli.Run(args, preferred="fashionmnist")
    vae = make(job)
    drawn = {"labels": args.labels} if job.prior() is not None else {}
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta, **drawn))


if __name__ == "__main__":
    cli.main(run)
