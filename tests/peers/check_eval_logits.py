"""h5py and NumPy as peers of `filigree eval --logits`: the loss computed again from what the file holds."""

import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy

FILIGREE = os.path.abspath(sys.argv[1])
CONFIG = """
pattern: {longformer: {window: 8, global: 1}}
tile: 16
model: {dim: 32, n_layers: 2, n_heads: 2}
data: {train: [text.txt], val_fraction: 0.2, seq_len: 48}
train: {steps: 20, batch_size: 4, lr: 1.0e-2, out: run}
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "text.txt"), "w") as text:
            text.write("tile layout mask head query key\n" * 100)
        with open(os.path.join(folder, "config.yaml"), "w") as config:
            config.write(CONFIG)

        def filigree(*arguments):
            command = [FILIGREE, *arguments]
            return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout

        filigree("train", "config.yaml")
        result = json.loads(filigree("eval", "run", "--json", "--logits", "logits.h5"))
        with h5py.File(os.path.join(folder, "logits.h5")) as file:
            tokens, targets, logits = (file[name][:] for name in ("tokens", "targets", "logits"))
    assert tokens.dtype == targets.dtype == numpy.int32 and logits.dtype == numpy.float32
    assert tokens.shape == targets.shape == logits.shape[:2] and tokens.shape[1] == 48
    asked = targets >= 0
    assert asked.sum() == result["targets"] and (targets[~asked] == -100).all()
    inside = asked[:, 1:]
    assert (targets[:, :-1][inside] == tokens[:, 1:][inside]).all()
    wide = logits[asked].astype(numpy.float64)
    losses = numpy.log(numpy.exp(wide).sum(axis=1)) - wide[numpy.arange(len(wide)), targets[asked]]
    assert abs(losses.mean() - result["loss"]) < 1e-5, (losses.mean(), result["loss"])
    print(f"loss {losses.mean():.6f} from {logits.shape} logits, {result['loss']:.6f} printed")


main()
