"""The layout writer that `filigree help layouts` prints: masks of numpy, written by it, are what filigree reads."""

import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

FILIGREE = os.path.abspath(sys.argv[1])


def printed_writer():
    text = subprocess.run([FILIGREE, "help", "layouts"], check=True, capture_output=True, text=True).stdout
    lines = text[text.index("    import h5py"):].splitlines()
    program = {}
    exec("\n".join(line[4:] for line in lines), program)
    return program["write_layout"]


def main():
    write_layout = printed_writer()
    random = np.random.default_rng()
    with tempfile.TemporaryDirectory() as folder:
        for heads, n, tile, causal in ((1, 64, 64, True), (3, 200, 32, True), (2, 150, 16, False)):
            allowed = random.random((heads, n, n)) < 0.3
            allowed[:, :tile, :tile] = True  # a tile that is full where causality does not cut it
            allowed[:, np.arange(n), np.arange(n)] = True
            path, dump = os.path.join(folder, "in.h5"), os.path.join(folder, "out.h5")
            write_layout(path, allowed, tile, causal)
            file = os.path.join(folder, "pattern.yaml")
            with open(file, "w") as out:
                out.write(f"pattern: {{block: {{file: {path}}}}}\ncausal: {str(causal).lower()}\ntile: {tile}\n")
            subprocess.run([FILIGREE, "explain", file, "--n", str(n), "--heads", str(heads), "--dump", dump,
                            "--overwrite"], check=True, stdout=subprocess.DEVNULL)
            with h5py.File(dump) as f:
                read = f["mask"][:].astype(bool)
            wanted = allowed & np.tril(np.ones((n, n), bool)) if causal else allowed
            assert (read == wanted).all(), (heads, n, tile, causal)
            print(f"{heads} heads, {n} tokens, tile {tile}: filigree reads what numpy wrote")


main()
