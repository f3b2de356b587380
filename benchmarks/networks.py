"""Training ResNet-18 on CIFAR-10, beside PyTorch on the same device in the same run.

Both train the same network (3 x 3 stem, no pooling, batch norm, a linear last layer) on the same images, which lie on
the device as bytes, with random crops and flips there, SGD with Nesterov momentum 0.9, weight decay 5e-4 and a cosine
schedule, in batches of 512, arithmetic in bfloat16 with float32 state:

    ufm      ufm.networks.train.train, many steps per compiled call
    torch    channels_last, autocast to bfloat16, fused SGD, torch.compile where it works (``--no-compile`` without)

Timed are whole epochs after the compiling ones, of ufm those without a checkpoint or a measurement of the geometry;
medians.  The work of a step is what XLA counts in the lowered program of one gradient (``flops_per_step``): products
with padding are left out, so it is 13 % below the usual 6 x 0.556e9 per image.  The peak of the card is measured by a
large bfloat16 product, and looked up for known cards.

    python benchmarks/networks.py --data DIR                the folder with CIFAR-10; writes results/networks.json
    python benchmarks/networks.py --data DIR --accuracy     test accuracy and NC1 of 5 seeds too, 200 epochs each
    python benchmarks/networks.py --small --data DIR        a narrow network on 10,000 images, float32, for a processor
    python benchmarks/networks.py --quick                   a tiny network on scikit-learn's digits, on any machine
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory on the same card

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _provenance import load, provenance

from ufm.networks import Images, count_parameters, make, standardise
from ufm.networks.config import Config
from ufm.networks.train import prepare, train

RESULTS = Path(__file__).parent / "results"
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "4090": 165e12, "L4": 121e12}
"""Dense bfloat16 operations per second that makers state, by a word in the name of the card; first match counts."""
FULL = Config(
    arch="resnet18", batch_size=512, dtype="bfloat16", augment=True, weight_decay=5e-4, learning_rate=0.2, warmup=5.0,
    epochs=200, evaluations=1,
)  # fmt: skip
SMALL = dataclasses.replace(FULL, width=0.125, batch_size=128, dtype="float32", limit=10_000, epochs=20)
QUICK = dataclasses.replace(FULL, data="digits", width=0.0625, batch_size=64, samples=32, epochs=4, warmup=0.0)


# ------------------------------------------------------------------ ufm


def ufm_epochs(config: Config, epochs: int) -> list[float]:
    """Seconds of epochs that neither compile, nor follow a checkpoint or a measurement; at least one."""
    config = dataclasses.replace(config, epochs=max(41, config.epochs), stop_epoch=3 + 2 * epochs)
    every, measured = config.epochs // 20, set(config.measured_epochs)
    logged: dict[int, float] = {}
    done: dict[int, float] = {}

    def listen(line: dict[str, Any]) -> None:
        logged[line["epoch"]] = time.perf_counter()

    def progress(said: dict[str, Any]) -> None:
        done[said["epoch"]] = time.perf_counter()  # the last call of an epoch stands

    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", listen=listen, progress=progress)
    clean = [e for e in done if e > 2 and e - 1 not in measured and (e - 1) % every]
    return [done[e] - logged[e - 1] for e in clean]


def flops_per_step(config: Config, images: Images) -> float:
    """Operations of one gradient of the mean cross-entropy, as XLA counts them before it compiles."""
    model = make(
        config.arch, num_classes=images.num_classes, image_shape=images.image_shape, width=config.width,
        dtype=jnp.dtype(config.dtype),
    )  # fmt: skip
    graph, *parts = nnx.split(model, nnx.Param, ...)
    params, rest = map(nnx.as_pure, parts)  # plain arrays: the trace may change them

    def loss(params: Any, x: Any, y: Any) -> Any:
        logits = nnx.merge(graph, params, rest)(x, train=True).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    x = jax.ShapeDtypeStruct((config.batch_size, *images.image_shape), jnp.dtype(config.dtype))
    y = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    traced = jax.jit(jax.grad(loss)).trace(params, x, y)
    counted = traced.lower(lowering_platforms=("cuda",)).cost_analysis()  # whatever the machine: a card's convolutions
    return float(counted["flops"])


def measured_peak(size: int) -> float:
    """Operations per second of a product of two bfloat16 matrices; the best of some."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        b = a
        for _ in range(10):
            b = product(a, b)
        b.block_until_ready()
        seconds.append((time.perf_counter() - begin) / 10)
    return 2.0 * size**3 / min(seconds)


def stated_peak(device: str) -> float | None:
    return next((peak for word, peak in PEAKS.items() if word.lower() in device.lower()), None)


# ------------------------------------------------------------------ torch


def torch_network(torch: Any, channels_in: int, width: float, classes: int) -> Any:
    """ResNet-18 with the stem of CIFAR."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int):
            super().__init__()
            self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
            self.short = None
            if stride != 1 or before != after:
                self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            y = functional.relu(self.norms[0](self.first(x)))
            y = self.norms[1](self.second(y))
            return functional.relu(y + (x if self.short is None else self.short(x)))

    sizes = [max(1, round(width * 64 * 2**stage)) for stage in range(4)]
    parts: list[Any] = [nn.Conv2d(channels_in, sizes[0], 3, 1, 1, bias=False), nn.BatchNorm2d(sizes[0]), nn.ReLU()]
    before = sizes[0]
    for stage, after in enumerate(sizes):
        parts += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
        before = after
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def torch_epochs(torch: Any, config: Config, images: Images, epochs: int, compiled: bool) -> dict[str, Any]:
    """Seconds of epochs after the first two, and the number of parameters."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.seed)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    model = torch_network(torch, images.image_shape[2], config.width, images.num_classes)
    model = model.to(device, memory_format=torch.channels_last)
    number = sum(p.numel() for p in model.parameters())
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum, nesterov=True,
        weight_decay=config.weight_decay, fused=device == "cuda",
    )  # fmt: skip
    pixels = torch.tensor(images.images, device=device).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(images.labels, device=device, dtype=torch.long)
    mean, std = (torch.tensor(part, device=device).reshape(1, -1, 1, 1) for part in standardise(images))
    side, pad = images.image_shape[0], max(1, images.image_shape[0] // 8)
    place = torch.arange(side, device=device)
    steps = len(images) // config.batch_size
    kind = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32

    def batch(rows: Any) -> Any:
        x = torch.nn.functional.pad(pixels[rows], (pad, pad, pad, pad))
        corner = torch.randint(0, 2 * pad + 1, (2, len(rows), 1), device=device)
        down, across = corner[0] + place, corner[1] + place
        mirrored = torch.rand(len(rows), 1, device=device) < 0.5
        across = torch.where(mirrored, across.flip(1), across)
        which = torch.arange(len(rows), device=device)[:, None, None]
        x = x.permute(0, 2, 3, 1)[which, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
        return ((x.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for epoch in range(2 + epochs):
        synchronise()
        begin = time.perf_counter()
        order = torch.randperm(len(images), device=device)[: steps * config.batch_size].reshape(steps, -1)
        for rows in order:
            with torch.autocast(device, dtype=kind, enabled=config.dtype == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(run(batch(rows)), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        synchronise()
        if epoch > 1:
            seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "parameters": number, "device": device}


# ------------------------------------------------------------------ all of it


def accuracy(config: Config, seeds: int) -> list[dict[str, float]]:
    """Test accuracy and NC1 at the end of whole runs."""
    rows = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = train(dataclasses.replace(config, seed=seed), Path(folder) / "run")
        last = run.history[-1]
        row = {"seed": seed, "test_accuracy": last["test"]["accuracy"], "train_accuracy": last["train"]["accuracy"]}
        rows.append(row | {"train_nc1": last["train"]["nc1_quotient"], "seconds": run.seconds})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-10; with --quick the digits are the default")
    parser.add_argument("--epochs", default=5, type=int, help="timed epochs of each")
    parser.add_argument("--accuracy", action="store_true", help="train to the end too")
    parser.add_argument("--seeds", default=5, type=int, help="of --accuracy")
    parser.add_argument("--no-compile", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--small", action="store_true", help="a narrow network on 10,000 images, for a processor")
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    parser.add_argument("--output", type=Path, help="results/networks.json, or networks_small.json, by default")
    given = parser.parse_args(arguments)
    output = given.output or RESULTS / ("networks_small.json" if given.small else "networks.json")
    if given.data is None and not given.quick:
        parser.error("--data: give the folder with CIFAR-10, or --quick")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise SystemExit("torch is missing; install the contenders with  pip install -e '.[bench]'") from None
    config = QUICK if given.quick else SMALL if given.small else FULL
    config = dataclasses.replace(config, data=given.data or config.data)
    epochs = 1 if given.quick else given.epochs
    images = prepare(config)[0]
    device = jax.devices()[0].device_kind

    ours = ufm_epochs(config, epochs)
    compiled = not (given.quick or given.small or given.no_compile)
    theirs = torch_epochs(torch, config, images, epochs, compiled)
    on_card = jax.default_backend() == "gpu"
    if on_card != (theirs["device"] == "cuda"):
        print("ufm and PyTorch ran on different devices: the ratio compares nothing", file=sys.stderr)
    steps = len(images) // config.batch_size
    work = flops_per_step(config, images)
    attained = work * steps / float(np.median(ours))
    peaks = {"measured": measured_peak(8192 if on_card else 512), "stated": stated_peak(device)}
    network = nnx.eval_shape(
        lambda: make(
            config.arch, num_classes=images.num_classes, image_shape=images.image_shape, width=config.width
        )
    )  # fmt: skip
    said = provenance(("jax", "jaxlib", "flax", "torch"), load_at_start=load()) | {
        "command": "python benchmarks/networks.py"
        + "".join(f" --{word}" for word in ("quick", "small", "accuracy") if getattr(given, word))
        + (" --no-compile" if given.no_compile else ""),
        "dtype": config.dtype,
        "device": device,
        "setting": {**dataclasses.asdict(config), "data": Path(config.data).name, "images": len(images)},
        "parameters": {"ufm": count_parameters(network), "torch": theirs["parameters"]},
        "seconds_per_epoch": {"ufm": float(np.median(ours)), "torch": float(np.median(theirs["seconds"]))},
        "epochs_timed": {"ufm": ours, "torch": theirs["seconds"]},
        "torch_compiled": compiled,
        "same_device": on_card == (theirs["device"] == "cuda"),
        "ratio": float(np.median(theirs["seconds"]) / np.median(ours)),
        "flops_per_step": work,
        "flops_per_second": attained,
        "bf16_peak": peaks,
        "fraction_of_peak": {name: None if peak is None else attained / peak for name, peak in peaks.items()},
        "accuracy": accuracy(config, given.seeds) if given.accuracy else None,
        "load_at_end": load(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: said[key] for key in ("parameters", "seconds_per_epoch", "ratio", "fraction_of_peak")}))
    return said


if __name__ == "__main__":
    main()
