"""TensorBoard as peer of `log: {tensorboard: true}`: a run that was killed and resumed, read back."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FILIGREE = os.path.abspath(sys.argv[1])
CONFIG = """
pattern: {local: {window: 8}}
tile: 16
model: {dim: 32, n_layers: 2, n_heads: 2}
data: {train: [text.txt], val_fraction: 0.2, seq_len: 48}
train: {steps: 60, batch_size: 4, lr: 1.0e-2, eval_interval: 10, log_interval: 1, out: run}
checkpoint: {interval: 10}
log: {tensorboard: true}
"""


def kill_at(folder, line):
    process = subprocess.Popen([FILIGREE, "train", "config.yaml"], cwd=folder, stdout=subprocess.PIPE, text=True)
    for printed in process.stdout:
        if printed.startswith(line):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.returncode


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "text.txt"), "w") as text:
            text.write("tile layout mask head query key\n" * 300)
        with open(os.path.join(folder, "config.yaml"), "w") as config:
            config.write(CONFIG)
        kill_at(folder, "step 25/60")
        kill_at(folder, "step 37/60")
        subprocess.run([FILIGREE, "train", "config.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        events = os.path.join(folder, "run", "tensorboard")
        assert len(os.listdir(events)) == 3, os.listdir(events)
        accumulator = EventAccumulator(events)
        accumulator.Reload()
        with open(os.path.join(folder, "run", "metrics.jsonl")) as lines:
            metrics = [json.loads(line) for line in lines]
        tags = ["loss", "grad_norm", "lr", "val_loss", "val_bits_per_byte"]
        assert set(accumulator.Tags()["scalars"]) == {*tags, "tokens_per_second"}, accumulator.Tags()
        for tag in tags:
            expected = [(line["step"], line[tag]) for line in metrics if tag in line]
            read = [(event.step, event.value) for event in accumulator.Scalars(tag)]
            assert [step for step, _ in read] == [step for step, _ in expected], (tag, read, expected)
            for (step, value), (_, wanted) in zip(read, expected):
                assert abs(value - wanted) <= 1e-6 * abs(wanted), (tag, step, value, wanted)
            print(f"{tag}: {len(read)} values of TensorBoard's are those of metrics.jsonl")
        assert all(abs(event.wall_time - time.time()) < 3600 for event in accumulator.Scalars("loss"))


main()
