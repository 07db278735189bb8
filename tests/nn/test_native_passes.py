"""Native passes through perceptrons, every variant of the code: against torch and its autograd."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mbrl.nn import FlatMLP, native_passes
from mbrl.nn.native_passes import NativePasses, threads_to_passes
from mbrl.nn.stacked_layers import TorchPasses

VARIANTS = native_passes._NATIVE.VARIANTS if native_passes._NATIVE else []

needs_native = pytest.mark.skipif(not VARIANTS, reason="the native passes were not built")
every_variant = pytest.mark.parametrize("variant", VARIANTS)

# seeds, copies, batch, widths: none a multiple of what the code handles together, or all
SHAPES = [
    (1, 1, 1, (1, 1)),
    (1, 2, 5, (3, 1, 2)),
    (2, 5, 64, (4, 3, 2, 1)),
    (3, 2, 63, (5, 31, 33, 2)),
    (2, 1, 65, (6, 32, 32, 4)),
    (1, 2, 130, (2, 33, 5, 31, 3)),
    (3, 1, 257, (31, 2, 1)),
    (2, 2, 300, (1, 3, 33)),
    (2, 3, 19, (7, 6)),
]


class Case:
    """Networks and what passes through them take, drawn at random."""

    def __init__(self, seeds, copies, batch, widths, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seeds + 10 * batch)
        self.network = FlatMLP(widths[0], widths[-1], hidden=widths[1:-1], copies=copies)
        self.stack = self.network._stack

        def normal(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

        self.theta = self.network.parameters(normal(seeds, self.network.size))
        self.tangent = self.network.parameters(normal(seeds, self.network.size))
        self.value = normal(seeds, batch, widths[0])
        self.cotangent = normal(seeds * copies, batch, widths[-1])

    def to(self, dtype):
        """Return the same numbers in another precision."""
        other = object.__new__(Case)
        other.network, other.stack = self.network, self.stack
        other.theta, other.tangent = (
            self.network.parameters(p.flat.to(dtype)) for p in (self.theta, self.tangent)
        )
        other.value, other.cotangent = self.value.to(dtype), self.cotangent.to(dtype)
        return other

    def found(self, passes):
        """Return output, gradient by parameters and by the input, and derivative."""
        tape = passes.forward(self.theta, self.value)
        gradient = self.network.parameters(torch.full_like(self.theta.flat, torch.nan))
        passes.gradient(self.theta, tape, self.cotangent, gradient)
        return (
            tape.output,
            gradient.flat,
            passes.input_gradient(self.theta, tape, self.cotangent),
            passes.derivative(self.theta, tape, self.tangent),
        )

    def native(self, variant):
        return self.found(NativePasses(self.stack, variant))

    def torch(self):
        return self.found(TorchPasses(self.stack))


def assert_near(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=tolerance * scale)


@every_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_passes_are_torchs(shape, variant):
    case = Case(*shape)
    assert_near(case.native(variant), case.torch(), 1e-12)


@every_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_passes_are_those_of_autograd(shape, variant):
    case = Case(*shape)
    flat, value = case.theta.flat.requires_grad_(), case.value.requires_grad_()
    output, along = torch.autograd.functional.jvp(
        lambda flat: case.network.apply(flat, value), flat, case.tangent.flat, create_graph=True
    )
    gradients = torch.autograd.grad((output * case.cotangent).sum(), [flat, value])
    wanted = [tensor.detach() for tensor in (output, *gradients, along)]
    assert_near(case.native(variant), wanted, 1e-12)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_alone_are_those_of_the_pass_bit_for_bit(shape, dtype, variant):
    case = Case(*shape, dtype)
    passes = NativePasses(case.stack, variant)
    tape = passes.forward(case.theta, case.value)
    assert torch.equal(passes.output(case.theta, case.value), tape.output)


@every_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_precision_is_double_precision_rounded(shape, variant):
    single = Case(*shape, dtype=torch.float32)
    found = single.native(variant)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    assert_near(found, single.to(torch.float64).torch(), 1e-5)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_seed_is_that_seed_alone_and_a_repetition_the_same_bit_for_bit(variant, dtype):
    case = Case(3, 2, 200, (4, 33, 31, 2), dtype)
    found = case.native(variant)
    assert all(map(torch.equal, found, case.native(variant)))
    for seed in range(3):
        alone = case.to(dtype)
        alone.theta, alone.tangent = (
            case.network.parameters(p.flat[seed : seed + 1]) for p in (case.theta, case.tangent)
        )
        alone.value = case.value[seed : seed + 1]
        alone.cotangent = case.cotangent[2 * seed : 2 * seed + 2]
        for one, every in zip(alone.native(variant), found, strict=True):
            assert torch.equal(one, every.unflatten(0, (3, -1))[seed])


def wide(seeds=5):
    """Work for which threads are woken: 3 million products a seed."""
    return Case(seeds, 2, 300, (6, 64, 64, 3))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@every_variant
def test_seeds_are_shared_by_threads_to_the_same_bit(variant, threads):
    case = wide()
    threads(1)
    expected = case.native(variant)
    assert_near(expected, case.torch(), 1e-12)
    for count in (2, 3, 5, 8):
        threads(count)
        assert all(map(torch.equal, case.native(variant), expected))


@needs_native
def test_threads_of_python_may_ask_at_once(threads):
    threads(2)
    cases = [Case(4, 2, 300 + i, (6, 64, 64, 3)) for i in range(4)]
    expected = [case.native(None) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(lambda case: case.native(None), cases))
            for one, other in zip(found, expected, strict=True):
                assert all(map(torch.equal, one, other))


def test_torch_leaves_its_threads_to_passes(threads, monkeypatch):
    monkeypatch.setattr(native_passes, "usable_cores", lambda: 8)
    threads(3)
    with threads_to_passes():
        with threads_to_passes():
            assert (torch.get_num_threads(), native_passes._threads()) == (1, 3)
        assert (torch.get_num_threads(), native_passes._threads()) == (1, 3)
    assert torch.get_num_threads() == 3
    threads(2)
    assert native_passes._threads() == 2
    with pytest.raises(KeyError), threads_to_passes():
        raise KeyError
    assert (torch.get_num_threads(), native_passes._threads()) == (2, 2)
    with ThreadPoolExecutor(1) as pool, threads_to_passes():
        assert native_passes._threads() == 2
        threads(3)
        assert (
            pool.submit(native_passes._threads).result() == 3
        )  # left by another thread of Python's
    monkeypatch.setattr(native_passes, "usable_cores", lambda: 1)
    assert native_passes._threads() == 1
    with threads_to_passes():
        assert native_passes._threads() == 1


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_hires_threads_of_its_own():
    # In a process of its own, without torch: what else is running here does not bear forking.
    script = """
import importlib.util
import os
import signal
import sys

import numpy as np

spec = importlib.util.spec_from_file_location("_perceptron", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
network = module.Network([6, 64, 64, 3], 2, module.VARIANTS[0])
generator = np.random.default_rng(0)
theta, value = generator.normal(size=(5, 9606)), generator.normal(size=(5, 300, 6))
expected = network.forward(theta, value, 2)[1]
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(0 if np.array_equal(network.forward(theta, value, 2)[1], expected) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script, native_passes._NATIVE.__file__], check=True)


@every_variant
def test_a_row_does_not_know_the_others(variant):
    case = Case(2, 2, 150, (4, 32, 32, 2))
    whole, gradient = (case.native(variant)[i] for i in (0, 2))
    case.value, case.cotangent = case.value[:, 67:74], case.cotangent[:, 67:74]
    few, few_gradient = (case.native(variant)[i] for i in (0, 2))
    assert torch.equal(few, whole[:, 67:74])
    assert torch.equal(few_gradient, gradient[:, 67:74])


@every_variant
def test_arguments_may_lie_anyhow_in_memory(variant):
    case = Case(3, 2, 70, (4, 9, 2))
    wanted = case.native(variant)
    wide = torch.full((3, case.network.size + 5), torch.nan, dtype=torch.float64)
    wide[:, 2:-3] = case.theta.flat
    case.theta = case.network.parameters(wide[:, 2:-3])
    case.value = case.value.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    case.cotangent = case.cotangent.mT.contiguous().mT
    assert all(map(torch.equal, case.native(variant), wanted))
    out = torch.zeros_like(wide)
    passes = NativePasses(case.stack, variant)
    tape = passes.forward(case.theta, case.value)
    passes.gradient(case.theta, tape, case.cotangent, case.network.parameters(out[:, 2:-3]))
    assert torch.equal(out[:, 2:-3], wanted[1])
    assert not bool(out[:, :2].any())
    assert not bool(out[:, -3:].any())
    case.theta = case.network.parameters(case.theta.flat.contiguous())
    case.value = case.value[:1, :1].expand(3, 70, 4)
    assert_near(case.native(variant), case.torch(), 1e-12)


@every_variant
def test_a_unit_at_zero_passes_nothing_back(variant):
    case = Case(2, 1, 40, (3, 5, 4, 2))
    case.value[:, ::3] = 0.0
    for biases in case.theta.biases:
        biases.zero_()
    found = case.native(variant)
    assert not bool(found[0][:, ::3].any())
    assert not bool(found[2][:, ::3].any())
    assert_near(found, case.torch(), 1e-12)


@every_variant
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("part", ["value", "weight", "last bias", "cotangent"])
def test_what_is_not_finite_goes_where_it_goes_in_torch(variant, part, spoilt):
    case = Case(3, 2, 23, (3, 5, 4, 2))
    case.value.abs_()
    where = {
        "value": case.value[1, 4],
        "weight": case.theta.weights[1][2, 0],
        "last bias": case.theta.biases[2][3, 0],
        "cotangent": case.cotangent[2, 7],
    }
    where[part][1] = spoilt
    finite = [torch.isfinite(tensor) for tensor in case.torch()]
    assert not all(bool(one.all()) for one in finite)
    for one, other in zip(case.native(variant), finite, strict=True):
        assert torch.equal(torch.isfinite(one), other)


@every_variant
def test_no_row_is_made_up(variant):
    """Zeros past the last row would be infinite here, where no row is."""
    case = Case(1, 1, 3, (1, 2, 1))
    case.value.fill_(-1.0)
    case.theta.weights[0].fill_(torch.inf)
    case.theta.biases[0].fill_(0.0)
    found = case.native(variant)
    assert bool(torch.isfinite(found[0]).all())
    assert_near(found[:2], case.torch()[:2], 1e-12)


@every_variant
def test_an_empty_batch_has_no_gradient(variant):
    output, gradient, by_input, along = Case(2, 2, 0, (3, 4, 2)).native(variant)
    assert output.shape == along.shape == (4, 0, 2)
    assert by_input.shape == (2, 0, 3)
    assert not bool(gradient.any())


@needs_native
def test_networks_that_are_wide_or_of_another_precision_are_left_to_torch():
    limit = native_passes._WIDEST
    value = torch.ones((1, 2, 3))
    for width, dtype, native in [
        (limit, torch.float32, True),
        (limit, torch.float64, True),
        (limit + 1, torch.float32, False),
        (limit, torch.bfloat16, False),
    ]:
        network = FlatMLP(3, 2, hidden=(width,))
        passes = network._passes(value.to(dtype))
        assert isinstance(passes, NativePasses) == native
        parameters = network.parameters(torch.ones((1, network.size), dtype=dtype))
        output = network.forward(parameters, value.to(dtype)).output
        torch.testing.assert_close(output, torch.full_like(output, 4.0 * width + 1))


def test_without_a_compiler_there_is_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "mbrl.nn._perceptron", None)  # cannot be imported
    assert native_passes._load() is None


@needs_native
def test_native_shapes_and_precisions_are_checked():
    network = native_passes._NATIVE.Network([4, 3, 2], 2, VARIANTS[0])
    theta, value = np.zeros((3, 46)), np.zeros((3, 5, 4))
    tape, _ = network.forward(theta, value, 1)
    with pytest.raises(ValueError, match=r"value must have the shape \( 3 5 4 \)"):
        network.forward(theta, value[..., :3], 1)
    with pytest.raises(ValueError, match=r"value .* all the same precision"):
        network.forward(theta, value.astype(np.float32), 1)
    with pytest.raises(ValueError, match=r"theta must have the shape \( 3 46 \)"):
        network.derivative(theta[:, 1:], tape, theta, 1)
    with pytest.raises(ValueError, match="tangent must have rows that lie in one piece"):
        network.derivative(theta, tape, np.zeros((3, 92))[:, ::2], 1)
    with pytest.raises(ValueError, match=r"cotangent must have the shape \( 6 5 2 \)"):
        network.gradient(theta, tape, np.zeros((6, 4, 2)), theta, 1)
    with pytest.raises(ValueError, match=r"out must have the shape \( 3 46 \)"):
        network.gradient(theta, tape, np.zeros((6, 5, 2)), theta[:2], 1)
    with pytest.raises(ValueError, match="no such variant: sse"):
        native_passes._NATIVE.Network([4, 2], 1, "sse")
    with pytest.raises(ValueError, match="must be positive"):
        native_passes._NATIVE.Network([4, 0, 2], 1, VARIANTS[0])
