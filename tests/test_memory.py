"""A set larger than the device's budget stays in its file."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, torch
from pyro_semivae import CCVAE
from pyro_semivae.labels import Binary
from pyro_semivae.nn import Convs
from pyro_semivae.train import fit

torch.manual_seed(0)
array = np.lib.format.open_memmap(sys.argv[1], "w+", np.uint8, (202_599, 3, 64, 64))  # CelebA's size, all zero
array[::1000] = 255
array.flush()
del array
x = torch.from_numpy(np.load(sys.argv[1], mmap_mode="c"))
y = torch.full((len(x), 18), torch.nan)
y[:800] = (torch.rand(800, 18) < 0.5).float()
steps, vae = 0, CCVAE((3, 64, 64), Binary(18), networks=Convs())

def count(images):
    global steps
    steps += 1
    if steps > 25:
        raise KeyboardInterrupt
    return images

try:
    fit(vae, x, y, epochs=1, corrupt=count, progress=False)
except KeyboardInterrupt:
    pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(steps, int(status["RssAnon"].split()[0]), int(status["VmHWM"].split()[0]))
"""


@pytest.mark.slow
def test_a_set_of_celebas_size_needs_little_memory(tmp_path):
    run = [sys.executable, "-c", SCRIPT, str(tmp_path / "celeba.npy")]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    steps, anonymous, _ = map(int, out)
    assert steps == 26
    assert anonymous < 4 << 20, f"{anonymous / 2**20:.2f} GiB of anonymous memory"
