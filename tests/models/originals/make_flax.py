"""Writes a checkpoint of flax, and what its model answers in float64: run where flax is installed.

    python -m tests.models.originals.make_flax

The model is written anew from Raventós et al. 2023 (arXiv 2306.15063), App. A, and the description of GPT-2, in modules
whose names are those of the checkpoints of the authors.
"""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from tests.models.originals import HERE, weight, write

jax.config.update("jax_enable_x64", True)
SIZES = {"n_points": 5, "n_layer": 2, "n_embd": 8, "n_head": 2}
D = 3


def dense(width, bias=True):
    return nn.Dense(width, use_bias=bias, param_dtype=jnp.float64)


def layer_norm():
    return nn.LayerNorm(epsilon=1e-5, param_dtype=jnp.float64)


class Attention(nn.Module):
    heads: int

    def setup(self):
        self.c_attn, self.c_proj = dense(3 * SIZES["n_embd"]), dense(SIZES["n_embd"])

    def __call__(self, h):
        split = [jnp.stack(jnp.split(each, self.heads, -1), 1) for each in jnp.split(self.c_attn(h), 3, -1)]
        q, k, v = split  # [batch heads tokens channels]
        scores = jnp.einsum("batc,basc->bats", q, k) / np.sqrt(q.shape[-1])
        seen = np.tril(np.ones(scores.shape[-2:], bool))
        z = jnp.einsum("bats,basc->batc", nn.softmax(jnp.where(seen, scores, -jnp.inf)), v)
        return self.c_proj(jnp.concatenate(list(jnp.moveaxis(z, 1, 0)), -1))


class MLP(nn.Module):
    def setup(self):
        self.c_fc, self.c_proj = dense(4 * SIZES["n_embd"]), dense(SIZES["n_embd"])

    def __call__(self, h):
        return self.c_proj(nn.gelu(self.c_fc(h), approximate=True))


class Block(nn.Module):
    def setup(self):
        self.ln_1, self.attn, self.ln_2, self.mlp = layer_norm(), Attention(SIZES["n_head"]), layer_norm(), MLP()

    def __call__(self, h):
        h = h + self.attn(self.ln_1(h))
        return h + self.mlp(self.ln_2(h))


class GPT2(nn.Module):
    def setup(self):
        self.wpe = nn.Embed(2 * SIZES["n_points"], SIZES["n_embd"], param_dtype=jnp.float64)
        self.hs, self.ln_f = [Block() for _ in range(SIZES["n_layer"])], layer_norm()

    def __call__(self, h):
        h = h + self.wpe(jnp.arange(h.shape[1]))
        for block in self.hs:
            h = block(h)
        return self.ln_f(h)


class Transformer(nn.Module):
    def setup(self):
        self._in, self._h, self._out = dense(SIZES["n_embd"], False), GPT2(), dense(1, False)

    def __call__(self, xs, ys):
        tokens = np.zeros((*xs.shape[:2], 2, D + 1))
        tokens[:, :, 0, 1:], tokens[:, :, 1, 0] = xs, ys
        return self._out(self._h(self._in(tokens.reshape(len(xs), -1, D + 1))))[:, ::2, 0]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    xs, ys = rng.standard_normal((4, SIZES["n_points"], D)), rng.standard_normal((4, SIZES["n_points"]))
    params = Transformer().init(jax.random.PRNGKey(0), xs, ys)["params"]
    named = jax.tree_util.tree_map_with_path(
        lambda path, value: weight(".".join(each.key for each in path), value.shape), params
    )
    state = {"step": np.int64(7), "params": named, "opt_state": {"0": {"count": np.int32(7), "mu": {"a": np.ones(2)}}}}
    (HERE / "raventos.msgpack").write_bytes(flax.serialization.msgpack_serialize(state))
    task = {"n_dims": D, "n_points": SIZES["n_points"], "noise_scale": 0.5, "task_scale": 1.0}
    config = {"model": {"name": "transformer"} | SIZES, "task": task}
    answers = Transformer().apply({"params": named}, xs, ys)
    found = {"xs": xs.tolist(), "ys": ys.tolist(), "answers": answers.tolist()}
    write(HERE / "raventos.json", {"version": f"flax {flax.__version__}", "config": config} | found)
