"""Reproduces the papers' tables run by run, and prints them beside the papers' numbers.

python benchmarks/reproduce.py ccvae                                        # all missing runs
python benchmarks/reproduce.py ccvae --dataset mnist --rate 0.06 --seed 0   # a single run
python benchmarks/reproduce.py ccvae --preset paper                         # in the paper's exact setting
python benchmarks/reproduce.py ccvae --preset style                         # the style terms, on held-out rows
python benchmarks/reproduce.py ccvae --preset recipe-1                      # the recipe without the style terms
python benchmarks/reproduce.py ccvae --preset ablation                      # recipe-1 without its parts, held-out rows
python benchmarks/reproduce.py ccvae --preset split                         # with 4 + 10 latents
python benchmarks/reproduce.py ccvae --preset consistency                   # with consistency regularisation
python benchmarks/reproduce.py faces                                        # 18 labels, three bounds
python benchmarks/reproduce.py labels                                       # CCVAE, M2, M3, DIVA, MVAE compared
python benchmarks/reproduce.py inverted                                     # ten trials with and without reverse
python benchmarks/reproduce.py rbvae                                        # Rb-VAE, sRb-VAE and seven baselines
python benchmarks/reproduce.py rbvae --preset ablation                      # the recipe without its parts
python benchmarks/reproduce.py rbvae --preset choice                        # the runs that settings were chosen from
python benchmarks/reproduce.py larvae                                       # three baselines, LaRVAE on each
python benchmarks/reproduce.py larvae --preset tau                          # curves over tau; nuisance: over z's size
python benchmarks/reproduce.py ccvae --table                                # the tables of the recorded runs

A run is an example with its flags; its metrics go to benchmarks/results/, one JSON file per run. An interrupted run is
resumed; a run whose file exists, with the preset's present settings, is skipped. `--dry-run` lists the missing runs.
`--at-once N` executes N runs in parallel, with the output of each in its folder's `log.txt`: on a GPU, which a small
model leaves mostly idle, or on many cores.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from studies import ccvae, faces, inverted, labels, larvae, rbvae
from studies.job import RATES, Job

STUDIES = {"ccvae": ccvae, "faces": faces, "labels": labels, "inverted": inverted, "rbvae": rbvae, "larvae": larvae}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--dataset", choices=["mnist", "fashionmnist", "faces", "room", "sprites"])
    parser.add_argument("--rate", choices=[*RATES, "10", *larvae.RATES], help="10: images, one a class")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--part", help="of a study's jobs: a marginal, a model ...")
    presets = ["recipe", "recipe-1", "paper", "reference-code", "demo", "plain", "style"]
    presets += [*ccvae.VARIANTS, *rbvae.HELD_OUT, *larvae.CURVES]
    parser.add_argument("--preset", choices=presets, help="ccvae: recipe, others: demo, unless it is said")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the tables of recorded runs")
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are missing")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    args = parser.parse_args()
    if args.at_once < 1:
        parser.exit(2, f"error: --at-once: got {args.at_once}; expected a positive integer\n")
    if args.table:
        print(*filter(None, STUDIES[args.study].tables()), sep="\n\n")
        return
    preset = args.preset or STUDIES[args.study].DEFAULT_PRESET
    if not (jobs := STUDIES[args.study].jobs(preset, args.seeds)):
        parser.exit(2, f"error: --preset: got {preset}; no example of the study {args.study} has it\n")
    for job in {job.script: job for job in jobs}.values():
        _ = job.settings  # raises an error if the example has no such preset
    missing = [
        job
        for job in jobs
        if args.dataset in (None, job.dataset) and args.rate in (None, job.rate) and args.part in (None, job.part)
        if job.result() is None
    ]
    print(f"{len(missing)} runs to do", flush=True)
    failed = Event()
    with ThreadPoolExecutor(args.at_once) as pool:

        def do(job: Job) -> None:
            if failed.is_set():  # a run failed before this one was cancelled
                return
            print(job.path.name, flush=True)
            try:
                if not args.dry_run:
                    job.run(args.cuda, quiet=args.at_once > 1)
            except BaseException:
                failed.set()
                raise

        try:
            for _ in pool.map(do, missing):
                pass
        except BaseException:  # a run failed, or Ctrl-C: wait for running ones, start no others
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
