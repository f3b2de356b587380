"""Networks: published sizes, gradients of every architecture, the head as plain matrices, batch statistics."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ufm
from quick import QUICK, flags
from ufm.networks import BACKBONES, count_parameters, head_matrices, make
from ufm.networks.architectures import BatchNorm, Precision, ResNet
from ufm.networks.config import LOSSES, Config
from ufm.networks.convolution import convolve
from ufm.networks.step import Structure, data_loss

# Parameters at width 1. The ResNets for CIFAR-10: He et al. 2016 state 0.27 M for resnet20, the others are the counts
# of the usual CIFAR code in PyTorch (11.17, 21.28, 23.52 M). ConvNeXt-T with 1,000 classes has 28,589,128; its stem of
# 4 × 4 patches has 7 * 3 * 96 weights more than one of 3 × 3.
PUBLISHED = {
    ("resnet18", 10): 11_173_962,
    ("resnet34", 10): 21_282_122,
    ("resnet50", 10): 23_520_842,
    ("resnet20", 10): 269_722,
    ("mlp", 10): 3072 * 512 + 2 * 512 * 512 + 512 * 10 + 3 * 512 + 10,
    ("convnext-tiny", 1000): 28_589_128 - 7 * 3 * 96,
}


@pytest.mark.parametrize(("arch", "classes"), PUBLISHED)
def test_published_parameter_counts(arch, classes):
    model = nnx.eval_shape(lambda: make(arch, num_classes=classes, image_shape=(32, 32, 3)))
    assert count_parameters(model) == PUBLISHED[arch, classes]


def images(shape, number=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((number, *shape)), jnp.float32)


def losses_and_gradient(model, x, y):
    """Every loss, the gradient of their sum in every parameter, and the network's state after one training pass."""
    graph, params, state = nnx.split(model, nnx.Param, ...)
    numbers = {"smoothing": 0.1, "temperature": 0.3}

    def total(params):
        network = nnx.merge(graph, params, state, copy=True)
        outputs = network(x, train=True)
        values = [data_loss(Structure(Config(loss=loss), x.shape[1:], 3), outputs, y, numbers) for loss in LOSSES]
        return sum(values), (values, outputs, nnx.split(network, nnx.Param, ...)[2])

    (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)(params)
    return *found, gradient


CASES = [
    ("resnet18", (8, 8, 1)),
    ("resnet34", (8, 8, 1)),
    ("resnet50", (8, 8, 1)),
    ("resnet20", (32, 32, 3)),
    ("mlp", (8, 8, 1)),
    ("mlp", (32, 32, 3)),
    ("convnext-tiny", (8, 8, 1)),
]


@pytest.mark.parametrize(("arch", "shape"), CASES)
def test_forward_and_gradient_of_every_loss(arch, shape):
    width = 0.05 if arch == "convnext-tiny" else 0.1
    model = make(arch, num_classes=3, image_shape=shape, width=width, projection=(8, 8), seed=1)
    values, outputs, state, gradient = losses_and_gradient(model, images(shape), jnp.array([0, 1, 2, 0]))
    assert np.all(np.isfinite(values))
    assert np.all(np.asarray(values) > 0)
    assert outputs.logits.shape == (4, 3)
    assert outputs.features.shape == (4, model.feature_dim)
    assert outputs.features.dtype == outputs.logits.dtype == jnp.float32
    assert outputs.hidden == ()
    assert outputs.projected.shape == (4, 8)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
    dead = [name for name, leaf in flat.items() if not np.all(np.isfinite(leaf)) or not np.any(np.asarray(leaf))]
    assert dead == [] if arch != "mlp" else all("bias" in name for name in dead)  # a unit may sleep on four images
    before = jax.tree.leaves(nnx.split(model, nnx.Param, ...)[2])
    moved = [bool((a != b).any()) for a, b in zip(before, jax.tree.leaves(state), strict=True)]
    assert all(moved)  # the running statistics come out of the compiled step
    assert len(moved) == 2 * {"resnet18": 20, "resnet34": 36, "resnet50": 53, "resnet20": 19}.get(arch, 0)
    assert model.nonnegative == (arch != "convnext-tiny")
    assert bool((outputs.features >= 0).all()) == model.nonnegative


def short(kind, dtype=jnp.float32, seed=0):
    """A residual network of two blocks."""
    precision = Precision(dtype, jnp.float32)
    return ResNet(1, kind, (1, 1), (4, 8), False, True, precision, nnx.Rngs(seed))


def test_bottleneck_gradient_reaches_every_parameter():
    graph, params, state = nnx.split(short("bottleneck"), nnx.Param, ...)
    x = images((8, 8, 1))

    def loss(params):
        return (nnx.merge(graph, params, state, copy=True)(x, True) ** 2 * jnp.arange(32.0)[None, :]).sum()

    gradient = jax.jit(jax.grad(loss), compiler_options=QUICK)(params)
    assert len(jax.tree.leaves(gradient)) == 3 * (1 + 2 * 4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf)), path


@pytest.mark.parametrize(
    ("arch", "shape"),
    [(arch, shape) for arch in BACKBONES for shape in ((8, 8, 1), (32, 32, 3))]
    + [("resnet20", (9, 13, 3)), ("convnext-tiny", (13, 9, 1))],
)
def test_shapes_at_every_size(arch, shape):
    """Without computing: odd sides, both channel numbers, head and projection."""

    def run():
        options = {"head_depth": 3, "head_width": 7, "feature_dim": 5, "projection": (6, 4)}
        model = make(arch, num_classes=3, image_shape=shape, width=0.2, dtype=jnp.bfloat16, **options)
        return tuple(model(jnp.zeros((2, *shape)), train=True))

    features, logits, hidden, projected = jax.eval_shape(run)
    assert (features.shape, logits.shape, projected.shape) == ((2, 5), (2, 3), (2, 4))
    assert [h.shape for h in hidden] == [(2, 7), (2, 7)]
    assert {a.dtype for a in (features, logits, projected, *hidden)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_head_is_the_plain_product_of_its_matrices(activation, bias):
    options = {"head_depth": 3, "head_width": 9, "head_activation": activation, "bias": bias, "feature_dim": 6}
    model = make("mlp", num_classes=4, image_shape=(8, 8, 1), width=0.05, seed=3, **options)
    if bias:
        model.head[-1].bias[...] = jnp.arange(4.0)
    outputs = model(images((8, 8, 1)))
    matrices, offset = head_matrices(model)
    assert [w.shape for w in matrices] == [(9, 6), (9, 9), (4, 9)]
    assert {w.dtype for w in matrices} == {np.dtype(np.float64)}
    h = np.asarray(outputs.features, np.float64).T
    for matrix, seen in zip(matrices[:-1], outputs.hidden, strict=True):
        h = matrix @ h
        h = np.maximum(h, 0) if activation == "relu" else h
        np.testing.assert_allclose(seen.T, h, rtol=1e-5, atol=1e-6)
    z = matrices[-1] @ h + (0 if offset is None else offset[:, None])
    np.testing.assert_allclose(outputs.logits.T, z, rtol=1e-5, atol=1e-6)
    assert (offset is not None) == bias
    assert bool((outputs.features < 0).any())  # behind a linear map the features are free


def test_relu_features_decide_the_sign():
    x = images((8, 8, 1), number=16)
    for arch in ("mlp", "resnet20", "convnext-tiny"):
        for feature_dim in (None, 5):
            for nonnegative in (True, False):
                options = {"feature_dim": feature_dim, "relu_features": nonnegative}
                model = nnx.eval_shape(
                    functools.partial(make, arch, num_classes=3, image_shape=(8, 8, 1), width=0.1, **options)
                )
                if arch == "mlp":
                    model = make(arch, num_classes=3, image_shape=(8, 8, 1), width=0.1, **options)
                    features = np.asarray(model(x).features)
                    assert (features.min() < 0) != nonnegative
                    assert features.max() > 0
                assert model.nonnegative == nonnegative
                if arch == "resnet20":
                    free = not nonnegative and feature_dim is None
                    assert model.backbone.blocks[-1].last == ("linear" if free else "relu")


def test_projection_has_length_one_also_at_zero():
    model = make("mlp", num_classes=3, image_shape=(8, 8, 1), width=0.05, projection=(8, 5))
    projected = model(images((8, 8, 1))).projected
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1.0, rtol=1e-6)
    for layer in model.projection or ():
        layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    slope = jax.grad(lambda p: nnx.merge(graph, p, rest)(images((8, 8, 1))).projected.sum())(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))


def test_first_weights_have_the_stated_spread_and_follow_the_seed():
    def weights(seed):
        model = make("resnet20", num_classes=10, image_shape=(8, 8, 1), head_depth=2, seed=seed)
        return model, nnx.to_pure_dict(nnx.state(model, nnx.Param))

    (model, first), (_, again), (_, other) = weights(0), weights(0), weights(1)
    chex.assert_trees_all_equal(first, again)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(first, other)
    kernel = np.asarray(model.backbone.blocks[8].convolutions[1].kernel[...])  # 3 × 3, 64 to 64
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    np.testing.assert_allclose(np.std(head_matrices(model)[0][0]), np.sqrt(2 / 64), rtol=0.05)
    kernels = [layer.kernel[...] for layer in model.backbone.blocks[8].convolutions]
    assert bool((kernels[0] != kernels[1]).any())
    compiled = nnx.jit(lambda: make("mlp", num_classes=3, image_shape=(8, 8, 1), width=0.05, seed=2))()
    plain = make("mlp", num_classes=3, image_shape=(8, 8, 1), width=0.05, seed=2)
    chex.assert_trees_all_equal(*(nnx.to_pure_dict(nnx.state(model)) for model in (compiled, plain)))


def test_zero_init_starts_every_block_as_its_shortcut():
    model = make("resnet20", num_classes=3, image_shape=(8, 8, 1), width=0.25, zero_init=True)
    block = model.backbone.blocks[0]
    x = jnp.abs(images((8, 8, 4)))
    np.testing.assert_array_equal(block(x, train=False), x)
    last = make("resnet20", num_classes=3, image_shape=(8, 8, 1), width=0.25).backbone.blocks[0]
    assert bool((last(x, train=False) != x).any())


def test_drop_path_skips_blocks_in_training_only():
    model = make("convnext-tiny", num_classes=3, image_shape=(8, 8, 1), width=0.03, drop_path=0.9)
    skips = [piece.skip.rate for piece in model.backbone.chain if getattr(piece, "skip", None) is not None]
    np.testing.assert_allclose(skips, np.linspace(0, 0.9, 18)[1:])
    block = model.backbone.chain[-1]
    block.layer_scale[...] = jnp.ones_like(block.layer_scale[...])
    x = images((2, 2, block.layer_scale.shape[0]), number=64)
    trained = np.asarray(block(x, train=True) != x).any((1, 2, 3))
    assert 0 < trained.sum() < 32
    assert np.asarray(block(x, train=False) != x).any((1, 2, 3)).all()


# ------------------------------------------------------------------ batch statistics


def test_batch_norm_against_numpy():
    norm = BatchNorm(3, jnp.float32)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, -1.0]), jnp.array([0.5, 0.0, 1.0])
    data = np.random.default_rng(0).standard_normal((6, 4, 5, 3)).astype(np.float32) * 3 + np.float32([0, 10, -100])
    wide = data.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    got = norm(jnp.asarray(data), train=True)
    want = (wide - mean) / np.sqrt(var + 1e-5) * [1, 2, -1] + [0.5, 0, 1]
    np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var, rtol=1e-3)
    for _ in range(150):
        exact = norm(jnp.asarray(data), train=True)
    np.testing.assert_allclose(exact, want, atol=2e-5)  # near the running mean the one pass is as good as two
    np.testing.assert_allclose(norm(jnp.asarray(data), train=False), want, atol=1e-4)


def test_a_batch_cut_over_devices_has_the_statistics_of_the_whole():
    program = textwrap.dedent("""
        import chex, jax, jax.numpy as jnp, numpy as np
        from flax import nnx
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from ufm.networks.architectures import BatchNorm

        assert jax.device_count() == 8
        norm = BatchNorm(3, jnp.float32)
        graph, state = nnx.split(norm)

        @jax.jit
        def step(state, x):
            norm = nnx.merge(graph, state)
            y = norm(x, train=True)
            return y, nnx.state(norm)

        x = np.random.default_rng(0).standard_normal((16, 2, 2, 3)).astype(np.float32)
        x += np.arange(16, dtype=np.float32).reshape(16, 1, 1, 1)  # every device would see another mean
        one, whole = step(state, jnp.asarray(x))
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        everywhere, in_parts = NamedSharding(mesh, P()), NamedSharding(mesh, P("batch"))
        cut, parts = step(jax.device_put(state, everywhere), jax.device_put(x, in_parts))
        assert len(cut.sharding.device_set) == 8
        np.testing.assert_allclose(cut, one, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(nnx.to_pure_dict(whole), nnx.to_pure_dict(parts), rtol=1e-6, atol=0)
        assert abs(float(norm.mean[...][0])) == 0 and float(whole["mean"][...][0]) > 0.5
    """)
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {flags()}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_bfloat16_computes_near_float32_with_float32_state():
    x = images((8, 8, 1))
    outputs = []
    for dtype in (jnp.float32, jnp.bfloat16):
        graph, state = nnx.split(short("basic", dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}

        def forward(state, graph=graph):
            return nnx.merge(graph, state)(x, True)

        outputs.append(jax.jit(forward, compiler_options=QUICK)(state))
    gap = float(jnp.linalg.norm(outputs[1] - outputs[0]) / jnp.linalg.norm(outputs[0]))
    assert 1e-5 < gap < 0.05


# ------------------------------------------------------------------ the door


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "resnet19"}, "arch: 'resnet19' is not known; choose one of resnet18, "),
        ({"num_classes": 1}, "num_classes: 1 is not a whole number of at least 2"),
        ({"image_shape": (7, 8, 1)}, r"image_shape: \(7, 8, 1\) is not"),
        ({"image_shape": (8, 8, 2)}, r"image_shape: \(8, 8, 2\) is not"),
        ({"image_shape": (8, 8)}, r"image_shape: \(8, 8\) is not"),
        ({"width": 0}, "width: 0 is not a finite number above 0"),
        ({"width": float("nan")}, "width: nan is not"),
        ({"width": "wide"}, "width: 'wide' is not"),
        ({"head_depth": 0}, "head_depth: 0 is not a whole number of at least 1"),
        ({"head_width": 0}, "head_width: 0 is not"),
        ({"feature_dim": 2.5}, "feature_dim: 2.5 is not"),
        ({"head_activation": "gelu"}, "head_activation: 'gelu' is unknown"),
        ({"projection": (8,)}, r"projection: \(8,\) is not a pair"),
        ({"drop_path": 1.0}, "drop_path: 1.0 is not a probability below 1"),
        ({"seed": -1}, "seed: -1 is not"),
    ],
)
def test_bad_arguments_are_refused(change, words):
    arguments = {"arch": "mlp", "num_classes": 3, "image_shape": (8, 8, 1), "width": 0.05} | change
    with pytest.raises(ValueError, match=words):
        make(**arguments)


def test_images_of_another_shape_are_refused():
    model = make("mlp", num_classes=3, image_shape=(8, 8, 1), width=0.05)
    with pytest.raises(ValueError, match=r"x: shape \(2, 8, 8, 3\) does not fit a network for images \(8, 8, 1\)"):
        model(jnp.zeros((2, 8, 8, 3)))


def test_networks_without_flax_say_what_to_install():
    program = textwrap.dedent("""
        import sys
        sys.modules["flax"] = None
        import ufm.networks
        ufm.networks.load
        try:
            ufm.networks.make
        except ValueError as error:
            print(error)
    """)
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "networks: flax is not installed; pip install 'ufm[networks]'", done.stderr


@pytest.mark.parametrize(
    ("size", "stride", "channels", "outputs", "groups"),
    [(3, 2, 5, 7, 1), (1, 2, 5, 7, 1), (7, 1, 6, 6, 6)],
)
def test_convolution_is_that_of_the_library(size, stride, channels, outputs, groups):
    """Value and gradients, also of uneven sides; written once as a product of patches and once by XLA."""
    with ufm.float64():
        keys = jax.random.split(jax.random.key(size + stride), 3)
        x = jax.random.normal(keys[0], (3, 9, 8, channels), jnp.float64)
        kernel = jax.random.normal(keys[1], (size, size, channels // groups, outputs), jnp.float64)
        padding = ((size // 2, size // 2), (0, size // 2))

        def ours(x, kernel):
            return convolve(x, kernel, (stride, stride), padding, feature_group_count=groups, precision=None)

        def theirs(x, kernel):
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )

        expected, back = jax.vjp(theirs, x, kernel)
        found, ours_back = jax.vjp(jax.jit(ours), x, kernel)
        slope = jax.random.normal(keys[2], expected.shape, jnp.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(ours_back(slope), back(slope), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)


def test_depthwise_convolution_in_bfloat16_sums_in_float32():
    """49 products: the error is that of rounding the result, not of 49 sums."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 12, 12, 8), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (7, 7, 1, 8), jnp.bfloat16)

    def ours(x, kernel):
        return convolve(x, kernel, (1, 1), ((3, 3), (3, 3)), feature_group_count=8)

    found = jax.jit(ours)(x, kernel)
    assert found.dtype == jnp.bfloat16
    exact = ours(x.astype(jnp.float32), kernel.astype(jnp.float32))
    off = jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert float(off) < 2.5e-3
