"""Options that compile quickly, for programs that tests run once.

XLA then takes a third of the time, and its programs are slower. Most tests of the normal run compile everything so.
Those marked ``as_for_users`` (audits of certificates in exact arithmetic) and the slow run compile as users do:
conftest.py chooses, and keeps in ``current`` what the running test has. Options do not reach a subprocess by
themselves: ``flags(current)`` as ``XLA_FLAGS`` takes them there, and both then compute the same bits.
"""

QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "False",
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""As ``compiler_options`` of one program."""

current: dict[str, str] = {}
"""What the running test adds to the compiler's own options."""


def flags(options: dict[str, str] = QUICK) -> str:
    """Options as ``XLA_FLAGS`` of a process."""
    return " ".join(f"--{name}={value.lower()}" for name, value in options.items())
