"""What runs in JAX's own environment for bench.py: an epoch of training, compiled as a whole, for each line it reads.

python jax_worker.py float32|bfloat16 COUNT BATCH

The network, the loss and the optimizer are those of the plain loop of bench.py; bfloat16 is for the products of
matrices alone, as in `fit`. Permutation, gather, noise and the smaller last batch are in the one graph, and the
parameters and moments of the epoch before are given to it to be overwritten.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTH, LATENT, PIXELS = 400, 20, 784
LAYERS = {"in": (PIXELS, WIDTH), "code": (WIDTH, 2 * LATENT), "back": (LATENT, WIDTH), "out": (WIDTH, PIXELS)}


def initial(key):
    """Weights and biases, uniform within 1 / sqrt(inputs), as torch's."""
    parameters = {}
    for name, (inputs, outputs) in LAYERS.items():
        key, first, second = jax.random.split(key, 3)
        bound = inputs**-0.5
        weight = jax.random.uniform(first, (inputs, outputs), jnp.float32, -bound, bound)
        parameters[name] = weight, jax.random.uniform(second, (outputs,), jnp.float32, -bound, bound)
    return parameters


def linear(x, layer, dtype):
    weight, bias = layer
    return jnp.dot(x.astype(dtype), weight.astype(dtype), preferred_element_type=jnp.float32) + bias


def elbo(parameters, x, key, dtype):
    """(B,) nats an example."""
    h = jax.nn.relu(linear(x, parameters["in"], dtype))
    mu, log_variance = jnp.split(linear(h, parameters["code"], dtype), 2, -1)
    z = mu + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mu.shape)
    logits = linear(jax.nn.relu(linear(z, parameters["back"], dtype)), parameters["out"], dtype)
    log_px = -optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    return log_px + 0.5 * (1 + log_variance - mu**2 - jnp.exp(log_variance)).sum(-1)


def train(precision, count, batch):
    dtype = jnp.dtype(precision)
    x = jnp.asarray((np.random.default_rng(0).random((count, PIXELS)) < 0.13).astype(np.float32))
    optimizer = optax.adam(1e-3)
    full = count // batch * batch

    def update(carry, rows, x):
        parameters, moments, key = carry
        key, noise = jax.random.split(key)
        loss, gradient = jax.value_and_grad(lambda p: -elbo(p, x[rows], noise, dtype).mean())(parameters)
        change, moments = optimizer.update(gradient, moments, parameters)
        return (optax.apply_updates(parameters, change), moments, key), loss

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry, x):
        parameters, moments, key = carry
        key, order = jax.random.split(key)
        order = jax.random.permutation(order, count)
        carry = parameters, moments, key
        carry, losses = jax.lax.scan(lambda c, rows: update(c, rows, x), carry, order[:full].reshape(-1, batch))
        total = losses.sum()
        if full < count:
            carry, loss = update(carry, order[full:], x)
            total += loss
        return carry, total

    parameters = initial(jax.random.key(0))
    carry = parameters, optimizer.init(parameters), jax.random.key(1)
    answer("ready")
    for _ in sys.stdin:
        carry, total = epoch(carry, x)
        answer(float(jax.block_until_ready(total)))


def answer(value):
    print(f"= {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    precision, count, batch = sys.argv[1:]
    train(precision, int(count), int(batch))
