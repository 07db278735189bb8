"""Tables of names."""

import pytest

from mbrl.errors import ConfigError, MbrlError, UnknownNameError
from mbrl.registry import Registry


class Cart: ...


class Pole: ...


def test_returns_what_was_registered_and_lists_names():
    registry = Registry("toy")
    assert registry.register("cart")(Cart) is Cart
    registry.register("pole")(Pole)
    assert registry.get("pole") is Pole
    assert list(registry) == ["cart", "pole"]
    assert "cart" in registry
    assert "car" not in registry


def test_a_name_belongs_to_one_entry():
    registry = Registry("toy")
    registry.register("cart")(Cart)
    with pytest.raises(ConfigError, match=r"toy 'cart' is registered already, by .*Cart"):
        registry.register("cart")(Pole)
    assert registry.get("cart") is Cart


def test_the_same_definition_may_come_twice():
    registry = Registry("toy")
    registry.register("cart")(Cart)
    again = type("Cart", (), {"__module__": Cart.__module__, "__qualname__": Cart.__qualname__})
    registry.register("cart")(again)
    assert registry.get("cart") is again


@pytest.mark.parametrize("name", ["", None, 3, ["cart"]])
def test_names_are_strings(name):
    with pytest.raises(ConfigError, match="toy name must be a non-empty string"):
        Registry("toy").register(name)


def test_unknown_names_get_the_closest_match_and_the_key():
    registry = Registry("toy")
    registry.register("cart")(Cart)
    registry.register("pole")(Pole)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("crat", "graph.nodes.x.kind")
    assert str(caught.value) == (
        "graph.nodes.x.kind: unknown toy 'crat'; legal: cart, pole; did you mean 'cart'?"
    )
    assert isinstance(caught.value, MbrlError)


@pytest.mark.parametrize("name", [None, 3, ["cart"], {"cart": 1}])
def test_what_is_no_name_is_unknown_not_a_crash(name):
    registry = Registry("toy")
    registry.register("cart")(Cart)
    assert name not in registry
    with pytest.raises(UnknownNameError, match="unknown toy"):
        registry.get(name)


def test_an_empty_registry_says_so():
    with pytest.raises(UnknownNameError, match=r"legal: \(nothing\)"):
        Registry("toy").get("x")


def test_of_many_names_only_the_closest_are_listed():
    registry = Registry("toy")
    for i in range(100):
        registry.register(f"entry{i}")(Cart)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("entrance")
    assert len(str(caught.value)) < 150
    assert "..." in str(caught.value)
