"""What holds for every test: one thread, fixed seeds, no display."""

import os
import random

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib

import hypothesis
import numpy as np
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that use it
    torch.manual_seed(0)
