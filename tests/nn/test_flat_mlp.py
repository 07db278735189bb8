"""Stacked perceptrons with written-out derivatives, against torch's layers and its autograd."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import FlatMLP, native_passes

SEEDS, BATCH, INPUTS, OUTPUTS = 3, 7, 4, 2


@pytest.fixture(params=["torch", "native"], autouse=True)
def _implementation(request, monkeypatch):
    """Run every test in torch and with native passes."""
    if request.param == "torch":
        monkeypatch.setattr(native_passes, "_NATIVE", None)
    elif native_passes._NATIVE is None:
        pytest.skip("the native passes were not built")


def generators():
    return [torch.Generator().manual_seed(10 + seed) for seed in range(SEEDS)]


@pytest.fixture(params=[(1, (5, 6)), (2, (5, 6)), (2, ()), (3, (8,))])
def shape(request):
    copies, hidden = request.param
    return FlatMLP(INPUTS, OUTPUTS, hidden=hidden, copies=copies), copies


@pytest.fixture
def value():
    generator = torch.Generator().manual_seed(5)
    return torch.randn((SEEDS, BATCH, INPUTS), generator=generator, dtype=torch.float64)


def drawn(network, seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = SEEDS, network.size
    return network.parameters(torch.randn(size, generator=generator, dtype=torch.float64))


def torch_networks(parameters):
    """One torch.nn.Sequential per network, with these parameters."""
    networks = []
    for member in range(len(parameters.weights[0])):
        layers = []
        for weight, bias in zip(parameters.weights, parameters.biases, strict=True):
            linear = torch.nn.Linear(*weight[member].shape, dtype=torch.float64)
            linear.weight.data = weight[member].T.clone()
            linear.bias.data = bias[member, 0].clone()
            layers += [linear, torch.nn.ReLU()]
        networks.append(torch.nn.Sequential(*layers[:-1]))
    return networks


def test_a_forward_pass_is_that_of_torchs_layers(shape, value):
    network, copies = shape
    parameters = drawn(network)
    networks = torch_networks(parameters)
    assert sum(p.numel() for net in networks for p in net.parameters()) == SEEDS * network.size
    wanted = torch.stack([net(value[i // copies]) for i, net in enumerate(networks)])
    found = network.forward(parameters, value).output
    torch.testing.assert_close(found, wanted.detach())
    assert torch.equal(network.output(parameters, value), found)
    torch.testing.assert_close(network.apply(parameters.flat, value), wanted.detach())


def test_gradients_are_those_of_torchs_layers(shape, value):
    network, copies = shape
    parameters, found = drawn(network), network.zeros(SEEDS, torch.float64)
    tape = network.forward(parameters, value)
    cotangent = torch.linspace(-1, 1, tape.output.numel(), dtype=torch.float64)
    cotangent = cotangent.view_as(tape.output)
    network.gradient(parameters, tape, cotangent, found)
    value.requires_grad_()
    for i, net in enumerate(torch_networks(parameters)):
        (net(value[i // copies]) * cotangent[i]).sum().backward()
        linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
        for layer, linear in enumerate(linears):
            torch.testing.assert_close(found.weights[layer][i], linear.weight.grad.T)
            torch.testing.assert_close(found.biases[layer][i, 0], linear.bias.grad)
    torch.testing.assert_close(network.input_gradient(parameters, tape, cotangent), value.grad)


def test_a_derivative_along_parameters_is_that_of_autograd(shape, value):
    network, _ = shape
    parameters, tangent = drawn(network), drawn(network, 2)
    tape = network.forward(parameters, value)
    _, wanted = torch.autograd.functional.jvp(
        lambda flat: network.apply(flat, value), parameters.flat, tangent.flat
    )
    torch.testing.assert_close(network.derivative(parameters, tape, tangent), wanted)


def test_a_pass_changes_none_of_its_arguments(shape, value):
    network, _ = shape
    parameters, tangent = drawn(network), drawn(network, 2)
    tape = network.forward(parameters, value)
    cotangent = torch.ones_like(tape.output)
    kept = [value, parameters.flat, tangent.flat, tape.output, cotangent]
    before = [tensor.clone() for tensor in kept]
    network.gradient(parameters, tape, cotangent, network.zeros(SEEDS, torch.float64))
    network.input_gradient(parameters, tape, cotangent)
    network.derivative(parameters, tape, tangent)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def test_initial_weights_are_orthogonal_with_their_gains_and_of_their_seed_alone():
    network = FlatMLP(4, 2, hidden=(16, 16), copies=2)
    parameters = network.initial(generators(), torch.float64, last_gain=0.01)
    for layer, gain in enumerate([2**0.5, 2**0.5, 0.01]):
        weight = parameters.weights[layer]
        rows, columns = weight.shape[1:]
        product = weight @ weight.mT if rows <= columns else weight.mT @ weight
        unit = torch.eye(min(rows, columns), dtype=torch.float64).expand_as(product)
        torch.testing.assert_close(product, gain**2 * unit)
        assert not torch.equal(weight[0], weight[1]), "copies differ"
        assert not bool(parameters.biases[layer].any())
    alone = network.initial(generators()[1:2], torch.float64, last_gain=0.01)
    assert torch.equal(alone.flat[0], parameters.flat[1])
    assert not torch.equal(parameters.flat[0], parameters.flat[1])


def test_widths_must_be_positive():
    with pytest.raises(ArgumentError, match=r"must be positive, got \[4, 0, 2\] and 1"):
        FlatMLP(4, 2, hidden=(0,))
