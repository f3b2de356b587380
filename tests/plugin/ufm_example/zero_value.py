import numpy as np

from ufm.theory import Reference, oracle


@oracle(
    "value_at_zero",
    status="published",
    statement="Without bias decay, plain cross-entropy is log K where all parameters vanish, at any depth.",
    about=("shallow", "deep"),
    concerns=lambda problem: problem.loss.name == "ce" and problem.model.is_free,
    reference=Reference("doe2026nothing", "Doe, Jane", "Networks of Nothing", 2026, "arXiv preprint"),
)
def value_at_zero(problem):
    return {"value": np.log(problem.num_classes), "claim": "point"}
