"""Options that compile quickly, for programs that tests run once.

XLA then takes a third of the time, and its programs are slower. Most files of the normal run compile everything so; a
file marked ``as_for_users`` and the slow run compile as users do (conftest.py chooses). The options do not reach a
subprocess: there ``FLAGS`` in ``XLA_FLAGS`` does the same.
"""

QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "False",
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""As ``compiler_options`` of one program."""

FLAGS = " ".join(f"--{name}={value.lower()}" for name, value in QUICK.items())
"""As ``XLA_FLAGS`` of a process."""
