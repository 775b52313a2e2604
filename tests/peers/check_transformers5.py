"""Hugging Face transformers 5 as a peer of `filigree export` and `import`: configs and tokenizers, which need no
PyTorch. With PyTorch 2.6 or newer, which Debian 12 does not have, all of check_transformers.py runs, too."""

import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = os.path.join(HERE, "../../build/peers5")
if not os.path.isdir(LIBRARIES):
    print("skipped: there is no folder build/peers5 with transformers 5; ./setup.sh test --peers makes it")
    sys.exit(77)
sys.path.insert(0, LIBRARIES)

import transformers  # noqa: E402
from transformers import AutoConfig, AutoTokenizer, GPT2Config, LlamaConfig, MistralConfig  # noqa: E402
from transformers.utils import is_torch_available, logging  # noqa: E402

logging.set_verbosity_error()
FILIGREE = os.path.abspath(sys.argv[1])
BASE = """
tile: 16
model: {dim: 64, n_layers: 2, n_heads: 4}
data: {train: [text.txt], val_fraction: 0, seq_len: 64}
train: {steps: 1, batch_size: 2, lr: 1.0e-2}
"""
LLAMA = ["model.preset=llama", "model.n_kv_heads=2", "model.rope_theta=500"]
EXPORTS = {
    "gpt2": ([], GPT2Config),
    "llama": (LLAMA, LlamaConfig),
    "mistral": ([*LLAMA, "pattern={local: {window: 13}}"], MistralConfig),
}


def filigree(*arguments):
    done = subprocess.run([FILIGREE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"filigree {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout


def check_export(name, overrides, kind):
    filigree("train", "base.yaml", *overrides, f"train.out=runs/{name}")
    filigree("export", f"runs/{name}", "-o", name)
    tokenizer = AutoTokenizer.from_pretrained(f"./{name}")
    encoded = tokenizer("some text")
    assert encoded["input_ids"] == list(b"some text"), encoded
    assert set(encoded) == {"input_ids", "attention_mask"}, set(encoded)  # what generate() takes
    assert tokenizer.decode(encoded["input_ids"]) == "some text"
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 256 and tokenizer.mask_token_id == 257
    config = AutoConfig.from_pretrained(f"./{name}")
    assert type(config) is kind, type(config)
    assert config.eos_token_id == 256 and config.hidden_size == 64 and config.num_attention_heads == 4
    if kind is not GPT2Config:
        assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500}, config.rope_parameters
        assert config.num_key_value_heads == 2 and not config.tie_word_embeddings
    if kind is MistralConfig:
        assert config.sliding_window == 13
    return config


def check_import(name, config):
    """config.json as this version writes it: with all its keys, and with those alone that are not the class's."""
    before = filigree("import", name, "-o", "before.h5", "--overwrite")
    assert "does not have" not in before, before
    everything = config.to_dict()
    config.save_pretrained("saved")
    with open("saved/config.json") as file:
        saved = json.load(file)
    defaults = type(config)().to_dict()
    fewest = {k: v for k, v in saved.items() if k == "model_type" or defaults.get(k, v) != v}
    for keys in (everything, saved, fewest):
        with open(f"{name}/config.json", "w") as file:
            json.dump(keys, file, default=str)
        assert filigree("import", name, "-o", "after.h5", "--overwrite") == before.replace("before.h5", "after.h5")
        # The logits are the same to the last bit.
        assert evaluation("after.h5") == evaluation("before.h5")
    print(f"{name}: the same with {len(everything)} keys, {len(saved)} and {len(fewest)}")


def evaluation(checkpoint):
    return json.loads(filigree("eval", checkpoint, "--data", "text.txt", "--json"))["loss"]


def check_known_keys():
    """No key that a class of this version has is unknown."""
    for kind in (GPT2Config, LlamaConfig, MistralConfig):
        keys = set(kind().to_dict()) | set(inspect.signature(kind).parameters) - {"self", "args", "kwargs"}
        name = {"gpt2": "gpt2", "llama": "llama", "mistral": "mistral"}[kind.model_type]
        with open(f"{name}/config.json") as file:
            config = json.load(file)
        for key in keys - set(config):
            config[key] = getattr(kind(), key, None)
        with open(f"{name}/config.json", "w") as file:
            json.dump(config, file, default=str)
        said = filigree("import", name, "-o", "known.h5", "--overwrite")
        assert "does not have" not in said, said


def main():
    with open("text.txt", "w") as file:
        file.write("some text\n" * 50)
    with open("base.yaml", "w") as file:
        file.write(BASE)
    for name, (overrides, kind) in EXPORTS.items():
        check_import(name, check_export(name, overrides, kind))
    check_known_keys()


print(f"transformers {transformers.__version__}")
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    main()
    os.chdir(HERE)
if is_torch_available():
    runpy.run_path(os.path.join(HERE, "check_transformers.py"), run_name="__main__")
else:
    print("generate() and logits: left out, for they need PyTorch 2.6 or newer")
