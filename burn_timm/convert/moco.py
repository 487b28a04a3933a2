"""MoCo's layout, v1 and v2: `encoder_q.*`, `encoder_k.*` and `queue`; the query encoder is the network.

Its head is `fc`, one layer, of v1; `fc.0`, ReLU, `fc.2` of v2.
"""

from collections.abc import Container

QUERY, KEY, QUEUE = "encoder_q.", "encoder_k.", "queue"


def head_layers(names: Container[str], at: str = "fc") -> list[str]:
    """The linear layers of the head at `at`: one of v1, two of v2, none where it was cut off."""
    for layers in ([at], [f"{at}.0", f"{at}.2"]):
        if all(f"{layer}.weight" in names for layer in layers):
            return layers
    return []
