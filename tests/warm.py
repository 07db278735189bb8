"""Imported for its effects by the process that forked runs start from: they start at once."""

import contextlib
import io
import tempfile
from pathlib import Path

import torch

import mbrl
from mbrl import cli
from mbrl.runner import training_task
from tests.tiny import tiny_config, write_tiny

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as _name:
    _folder = Path(_name)
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["--config-file", str(write_tiny(_folder)), "--cfg", "job"])
    # Everything short of a backward pass, whose threads would not survive a fork.
    _config = tiny_config(_folder)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports half of torch
    _task = training_task(_config)
    mbrl.build_graph(_config, _task).unroll(_task.reset(2, torch.Generator()), 2)
