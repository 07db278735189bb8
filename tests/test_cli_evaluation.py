"""``--mode eval``: evaluations of finished runs, repeated and changed."""

import os

import pytest
import torch

from mbrl import finished_runs
from tests.tiny import command, refused, summary, train, write_tiny


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def file(tmp_path):
    return write_tiny(tmp_path)


def test_mode_eval_repeats_the_evaluation(capsys, file):
    path = train(capsys, file, "seed=3", "evaluation.policy=best")
    done = command(capsys, "--mode", "eval", "--run", path)
    assert done.out == f"eval_return_mean={summary(path)['eval_return_mean']} run_dir={path}\n"
    longer = command(capsys, "--mode", "eval", "--run", path, "evaluation.episodes=9")
    assert longer.out != done.out
    swapped = command(capsys, "evaluation.episodes=9", "--run", path, "--mode", "eval")
    assert swapped.out == longer.out
    two = command(capsys, "--run", path, path, "--mode", "eval")
    assert two.out == done.out * 2
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_mode_eval_refuses_what_changes_nothing(capsys, file):
    path = train(capsys, file)
    evaluation = ("--mode", "eval", "--run", path)
    vain = command(capsys, *evaluation, "task_args.reset_noise_scale=0.2")
    refused(vain, "task_args.reset_noise_scale=0.2 changes nothing", "InvertedPendulum-v5")
    own = command(capsys, *evaluation, "eval_task=null", "task_args.reset_noise_scale=0.2")
    assert own.code == 0
    both = ("eval_task=null", "eval_task_args.reset_noise_scale=0.1")
    hidden = command(capsys, *evaluation, *both, "task_args.reset_noise_scale=0.2")
    refused(hidden, "task_args.reset_noise_scale=0.2 changes nothing", "legal: eval_task_args.")


@pytest.mark.parametrize(
    "override", ["algorithm.updates=3", "graph.nodes.policy.hidden=[8]", "monitor.video.seconds=1"]
)
def test_mode_eval_takes_the_policy_as_it_is(capsys, file, override):
    path = train(capsys, file)
    done = command(capsys, "--mode", "eval", "--run", path, override)
    refused(done, f"{override} changes nothing", "legal: eval_task", "evaluation")


def test_mode_eval_computes_with_the_threads_of_the_run(capsys, file, monkeypatch):
    """The last bits of products of matrices depend on their number."""
    path, seen, before = train(capsys, file), [], torch.get_num_threads()
    unwatched = finished_runs.evaluate_actor

    def watched(*args, **options):
        seen.append(torch.get_num_threads())
        return unwatched(*args, **options)

    monkeypatch.setattr(finished_runs, "evaluate_actor", watched)
    assert command(capsys, "--mode", "eval", "--run", path, "torch_threads=3").code == 0
    assert (seen, torch.get_num_threads()) == ([3], before)


def test_mode_eval_wants_runs(capsys, tmp_path):
    refused(command(capsys, "--mode", "eval"), "--mode eval needs --run DIR")
    refused(command(capsys, "--mode", "eval", "--run", tmp_path), str(tmp_path), "no config.yaml")
