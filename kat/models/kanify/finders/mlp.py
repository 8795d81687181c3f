"""What is known of an MLP in a model."""

from __future__ import annotations

from dataclasses import dataclass


class NoMlp(Exception):
    """Why an activation is not in an MLP."""


@dataclass(frozen=True)
class Mlp:
    """W_2 f(W_1 x + b_1) + b_2 or W_2 (f(W_1 x + b_1) * (V x + c)) + b_2 in a model, by full names.

    Args:
        activation: f, a module or a function held as an attribute; or, if the code calls a
            function, the name that a module in its place gets.
        first, second: the linear maps before and after it. Both are the module of the experts where
            that has the weights of all experts.
        widths: (d_in, d_hidden, d_out).
        function: the name of f.
        gate: the linear map V, ``first`` if that computes both; None if there is no V.
        channel_dim: the dimension of the channels in the input of f.
        call: the number of the call in the code of the module around ``activation``; None if f is
            an attribute.
        code: the name of the function of that module whose code has the call.
        followed: functions that modules hold and that call parts of the MLP, as a lambda does.
    """

    activation: str
    first: str
    second: str
    widths: tuple[int, int, int]
    function: str
    gate: str | None = None
    channel_dim: int = -1
    call: int | None = None
    code: str = "forward"
    followed: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The name of the module that has the activation."""
        return self.activation.rpartition(".")[0]

    @property
    def attribute(self) -> str:
        """The name of the activation in its owner."""
        return self.activation.rpartition(".")[2]

    @property
    def holder(self) -> str:
        """The name of the innermost module that has all of the MLP."""
        names = (self.owner, self.first, self.second, self.gate or self.first)
        paths = [name.split(".") for name in names]
        # The experts are in no other module than their own.
        common = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        return ".".join(common)


def joined(path: str, name: str) -> str:
    """The full name of an attribute of a module."""
    return f"{path}.{name}" if path else name
