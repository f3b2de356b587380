"""Ground floor: how a function of arrays becomes a compiled program.

One-off work (a solve, a certificate) is compiled for a second and runs for a millisecond, so small programs are
compiled with options that halve the compile time.  Programs that solve many problems side by side keep the compiler's
own options: they run for long, and every bit of theirs stays what it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ._numerics import is_traced

QUICK = {"xla_cpu_use_fusion_emitters": False}
"""Compiler options of small programs: half the compile time, at most a tenth to a fifth more run time."""

LARGEST_QUICK = 1 << 16
"""Numbers that go into a program up to which it counts as small."""


class Program:
    """A function of arrays that is compiled once per structure of its arguments; made by :func:`compiled`.

    Called on traced values it is part of the program that is being traced.
    """

    def __init__(self, function: Callable[..., Any], static: tuple[int, ...], bulk: bool):
        functools.update_wrapper(self, function)
        self.static = static
        self.bulk = bulk
        self._plain = jax.jit(function, static_argnums=static)
        self._quick = jax.jit(function, static_argnums=static, compiler_options=QUICK)

    def __call__(self, *args: Any) -> Any:
        """What the function returns, computed by its compiled program."""
        leaves = jax.tree.leaves([arg for place, arg in enumerate(args) if place not in self.static])
        if self.bulk or is_traced(leaves) or sum(np.size(leaf) for leaf in leaves) > LARGEST_QUICK:
            return self._plain(*args)
        return self._quick(*args)

    def _cache_size(self) -> int:
        """Number of structures compiled so far in this process."""
        return self._plain._cache_size() + self._quick._cache_size()


def compiled(function: Callable[..., Any] | None = None, *, static: tuple[int, ...] = (), bulk: bool = False) -> Any:
    """Make a function of arrays a :class:`Program`; in place of ``jax.jit`` wherever ufm runs a program of its own.

    Args:
        function: takes and returns trees of arrays, by position only.
        static: positions of arguments that are structure (hashable).
        bulk: the program solves many problems and runs for long: it keeps the compiler's own options at every size.
    """
    if function is None:
        return functools.partial(compiled, static=static, bulk=bulk)
    return Program(function, static, bulk)
