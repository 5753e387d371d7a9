"""Small T5 folders as Hugging Face writes them, with random weights and a tokenizer."""

import functools
import io
import json

import numpy as np
import sentencepiece
from safetensors.numpy import save_file

WORDS = "a red green blue circle square cross moves left right up down slowly panda"
SIZES = dict(
    d_model=8, num_layers=3, num_heads=8, d_kv=4, d_ff=24, vocab_size=128,
    relative_attention_num_buckets=32, relative_attention_max_distance=128,
)  # fmt: skip
"""Fields of config.json; all that are divided are multiples of 8."""


def captions(count):
    """Different captions of 1 to 20 words."""
    rng = np.random.default_rng(0)
    words = WORDS.split()
    return [
        " ".join([*rng.choice(words, rng.integers(20)), f"panda {number}"])
        for number in range(count)
    ]


@functools.cache
def tokenizer():
    """The bytes of a SentencePiece model of T5's kind, trained on `captions`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions(200)),
        model_writer=model,
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def tensors(gated=False, seed=0):
    """Random tensors by Hugging Face's names, none of them trivial."""
    rng = np.random.default_rng(seed)
    width, hidden = SIZES["d_model"], SIZES["d_ff"]
    inner = SIZES["num_heads"] * SIZES["d_kv"]

    def draw(*shape, mean=0.0):
        return (mean + 0.2 * rng.normal(size=shape)).astype(np.float32)

    found = {
        "shared.weight": 5 * draw(SIZES["vocab_size"], width),
        "encoder.final_layer_norm.weight": draw(width, mean=1.0),
    }
    for i in range(SIZES["num_layers"]):
        attention, feed_forward = (f"encoder.block.{i}.layer.{j}." for j in (0, 1))
        for name in "qkv":
            found[f"{attention}SelfAttention.{name}.weight"] = draw(inner, width)
        found[f"{attention}SelfAttention.o.weight"] = draw(width, inner)
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            found[f"{feed_forward}DenseReluDense.{name}.weight"] = draw(hidden, width)
        found[f"{feed_forward}DenseReluDense.wo.weight"] = draw(width, hidden)
        for layer in (attention, feed_forward):
            found[f"{layer}layer_norm.weight"] = draw(width, mean=1.0)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found[bias] = draw(32, SIZES["num_heads"])
    return found


def write(folder, gated=False, weights=None, **config):
    """A folder with everything; ``config`` changes fields of config.json."""
    folder.mkdir()
    kind = "gated-gelu" if gated else "relu"
    fields = SIZES | {"model_type": "t5", "feed_forward_proj": kind} | config
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "spiece.model").write_bytes(tokenizer())
    save_file(weights or tensors(gated), folder / "model.safetensors")
    return folder
