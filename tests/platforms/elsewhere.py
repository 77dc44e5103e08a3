"""A process that has what Windows has, for ``test_platforms.py``; other libraries, built for this system, are imported first."""

import os
import signal
import sys
import warnings

warnings.simplefilter("ignore")
import arviz_stats  # noqa: E402, F401
import jax  # noqa: E402
import joblib  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import numpyro  # noqa: E402, F401
import nutpie  # noqa: E402, F401
import pooch  # noqa: E402, F401
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402

jax.devices()

for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_TMPFILE", "getuid", "geteuid", "fork", "statvfs",
             "sched_getaffinity", "register_at_fork", "setsid", "killpg", "getpgid"):  # fmt: skip
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
for module in ("fcntl", "resource", "pwd", "termios"):
    sys.modules[module] = None  # type: ignore[assignment]
os.supports_dir_fd = set()
os.environ["CC"] = os.environ["CXX"] = "no-compiler-here"

import pyrolvm as lvm  # noqa: E402
from pyrolvm._cli import main  # noqa: E402


def model(y):
    """Two unknowns."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


problem = lvm.Problem(model, torch.tensor([1.0, 2.0, 4.0, 3.0, 2.5]))
fit = lvm.fit(problem, "full_rank", seed=0, max_steps=600, progress=False)
nuts = lvm.nuts(problem, chains=2, warmup=200, draws=200, seed=0, progress=False)
assert fit.engine in ("jax", "torch", "pyro"), fit.engine
means = [float(one.data["posterior"]["mu"].mean()) for one in (fit, nuts)]
assert abs(means[0] - means[1]) < 0.4, means
lvm.compare({"fit": fit, "nuts": nuts}, reference="nuts").to_html(sys.argv[1] + "/report.html")
try:
    fit.save(sys.argv[1] + "/run")
except lvm.StoreError as error:
    assert "Fix: run pyrolvm in WSL" in str(error), error
else:
    raise AssertionError("a folder was written without what that takes")
assert main(["list"]) == 0
assert main(["doctor", "--clear-cache"]) == 0
print("DONE")
