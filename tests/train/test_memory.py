"""A set larger than the device's budget stays in its file, in training and when it is measured."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, time
import numpy as np, torch
from pyro_semivae import CCVAE, report
from pyro_semivae.data import ImageData
from pyro_semivae.spaces import Binary
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.train import fit

torch.manual_seed(0)
peak = 0

def watch():
    global peak
    while True:
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        peak = max(peak, int(status["RssAnon"].split()[0]))
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()

def images(name, count):
    path = sys.argv[1] + name
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 64, 64))  # all zero
    array[::1000] = 255
    array.flush()
    del array
    return torch.from_numpy(np.load(path, mmap_mode="c"))

x, x_test = images("/train.npy", 202_599), images("/test.npy", 19_962)  # CelebA's sizes
y, y_test = ((torch.rand(len(part), 18) < 0.5).float() for part in (x, x_test))
some = torch.full_like(y, torch.nan)
some[:800] = y[:800]
steps, vae = 0, CCVAE((3, 64, 64), Binary(18), networks=Convs() if sys.argv[2] == "fit" else MLPs((8,)))

def count(images):
    global steps
    steps += 1
    if steps > 25:
        raise KeyboardInterrupt
    return images

if sys.argv[2] == "fit":
    try:
        fit(vae, x, some, epochs=1, corrupt=count, progress=False)
    except KeyboardInterrupt:
        pass
    assert steps == 26
else:
    data = ImageData("large", tuple(map(str, range(18))), x, y, x_test, y_test)
    assert 0.4 < report.measure(vae, data, quick=True)["majority_accuracy"] < 0.6
time.sleep(0.1)
print(peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fit", "measure"])
def test_a_set_of_celebas_size_needs_little_memory(what, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    run = [sys.executable, "-c", SCRIPT, str(tmp_path), what]
    anonymous = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1])
    print(f"{anonymous / 2**20:.2f} GiB")
    assert anonymous < 4 << 20, f"{anonymous / 2**20:.2f} GiB of anonymous memory"
