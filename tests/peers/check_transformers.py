"""Hugging Face transformers and PyTorch as peers of `filigree export`, `import` and `train`."""

import json
import os
import re
import subprocess
import sys
import tempfile
import types

import h5py
import numpy
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.utils import logging

try:
    import torch.distributed.fsdp  # generate() asks whether the model is one of its
except ValueError:  # Debian's PyTorch 1.13 cannot load it with Python 3.11
    fsdp = types.ModuleType("torch.distributed.fsdp")
    fsdp.FullyShardedDataParallel = type("FullyShardedDataParallel", (), {})
    sys.modules[fsdp.__name__] = torch.distributed.fsdp = fsdp

logging.set_verbosity_error()
logging.disable_progress_bar()
FILIGREE = os.path.abspath(sys.argv[1])
SEED = int(os.environ.get("FILIGREE_TEST_SEED", int.from_bytes(os.urandom(3), "little")))
TOLERANCE = 1e-4  # of fp32 logits

BASE = """
tile: 16
model: {dim: 64, n_layers: 2, n_heads: 4}
data: {train: [data.bin], val_fraction: 0, seq_len: 64, documents: false, shuffle: false}
train: {steps: 3, batch_size: 2, lr: 1.0e-2, log_interval: 1}
"""
LLAMA = "model.preset=llama"
LOCAL = "pattern={local: {window: 13}}"
LAYERS = (
    "pattern={layers: [{layers: 0, pattern: {local: {window: 16}}},"
    " {layers: 1, pattern: {longformer: {window: 8, global: 2}}}]}"
)
# name: (overrides, architecture, whether the architecture has the pattern)
EXPORTS = {
    "gpt2": ([], GPT2LMHeadModel, True),
    "gpt2_erf_untied": (["model.activation=gelu", "model.tied_embeddings=false"], GPT2LMHeadModel, True),
    "gpt2_silu": (["model.activation=silu", "model.norm_eps=1.0e-3"], GPT2LMHeadModel, True),
    "gpt2_local": ([LOCAL], GPT2LMHeadModel, False),
    "llama": ([LLAMA], LlamaForCausalLM, True),
    "llama_kv_heads": ([LLAMA, "model.n_kv_heads=2", "model.rope_theta=500"], LlamaForCausalLM, True),
    "llama_biases_tied": (
        [LLAMA, "model.bias=true", "model.tied_embeddings=true", "model.head_dim=32"],
        LlamaForCausalLM,
        True,
    ),
    "mistral": ([LLAMA, LOCAL, "model.n_kv_heads=2"], MistralForCausalLM, True),
    "llama_layers": ([LLAMA, LAYERS], LlamaForCausalLM, False),
}


def filigree(*arguments):
    done = subprocess.run([FILIGREE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"filigree {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout


def filigree_logits(model, ids):
    numpy.asarray([*ids, 0], "<u2").tofile("ids.bin")  # the last one is a target only
    filigree("eval", model, "--data", "ids.bin", "--logits", "logits.h5", "--overwrite")
    with h5py.File("logits.h5") as file:
        assert file["tokens"][0, : len(ids)].tolist() == ids
        return torch.from_numpy(file["logits"][0, : len(ids)])


def difference(model, ids, expected):
    with torch.no_grad():
        logits = model.eval()(torch.tensor(ids)[None], use_cache=False).logits[0]
    assert logits.shape == expected.shape, (logits.shape, expected.shape)
    assert expected.abs().max() > 0.1, "logits that say nothing"
    return (logits.float() - expected).abs().max().item()


def random_ids(n, vocabulary):
    return torch.randint(vocabulary, (n,)).tolist()


def run_readme(folder):
    """The export's own instructions, as written in its README.md."""
    scope = {}
    code = re.search(r"```python\n(.*?)```", open(f"{folder}/README.md").read(), re.S).group(1)
    exec(code, scope)
    return scope["load"](folder)


def check_export(name, overrides, architecture, has_pattern):
    run = f"runs/{name}"
    filigree("train", "base.yaml", *overrides, f"train.out={run}", f"seed={SEED}")
    filigree("export", run, "-o", name)
    ids = random_ids(64, 258)
    expected = filigree_logits(run, ids)
    model = AutoModelForCausalLM.from_pretrained(name)
    assert type(model) is architecture, type(model)
    far = difference(model, ids, expected)
    if has_pattern:
        assert "filigree" not in json.load(open(f"{name}/config.json"))
    else:
        assert far > 10 * TOLERANCE, "the layout changes nothing: the test shows nothing"
        model = run_readme(name)
        far = difference(model, ids, expected)
    assert far <= TOLERANCE, far
    short = ids[:37]
    assert difference(model, short, filigree_logits(run, short)) <= TOLERANCE

    filigree("export", run, "-o", f"{name}_bf16", "--dtype", "bf16")
    rounded = run_readme(f"{name}_bf16") if not has_pattern else AutoModelForCausalLM.from_pretrained(f"{name}_bf16")
    half = difference(rounded.float(), ids, expected)
    print(f"export {name}: fp32 differs by {far:.1e}, bf16 weights by {half:.1e} of {expected.abs().max():.1f}")
    assert half <= 0.1 * expected.abs().max(), half


def check_bytes():
    with open("text.txt", "w") as file:
        file.write("some text\n" * 50)
    filigree("train", "base.yaml", "data.train=[text.txt]", "train.steps=1", "train.out=runs/text")
    filigree("export", "runs/text", "-o", "text")
    tokenizer = AutoTokenizer.from_pretrained("./text")
    text = "Tiles, naïve 漢字 \x00\x7f\t\n  end"
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode()), ids
    assert tokenizer.decode(ids) == text, tokenizer.decode(ids)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 256 and tokenizer.mask_token_id == 257
    print("tokenizer: bytes, separator and mask as filigree has them")


def check_generation():
    """The call of transformers' own documentation, on every architecture."""
    for name, overrides in {"gpt2": [], "llama": [LLAMA], "mistral": [LLAMA, LOCAL]}.items():
        run = f"runs/generate_{name}"
        filigree("train", "base.yaml", *overrides, "data.train=[text.txt]", "train.steps=1", f"train.out={run}")
        filigree("export", run, "-o", f"generate_{name}")
        tokenizer = AutoTokenizer.from_pretrained(f"./generate_{name}")
        model = AutoModelForCausalLM.from_pretrained(f"./generate_{name}")
        made = model.generate(**tokenizer("some text", return_tensors="pt"), max_new_tokens=3, do_sample=False)
        assert made[0, :9].tolist() == list(b"some text") and 9 < made.shape[1] <= 12, made
    print("generate(**tokenizer(text)) works on exports of gpt2, llama and mistral")


def check_bpe():
    """A tokenizer that the tokenizers library trained goes in with a model and comes out the same."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    text = open(__file__).read()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    trained.train_from_iterator([text], trainer)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_head=2, n_layer=1)).save_pretrained("bpe_in")
    trained.save("bpe_in/tokenizer.json")
    filigree("import", "bpe_in", "-o", "bpe.h5")
    filigree("export", "bpe.h5", "-o", "bpe_out")
    read = AutoTokenizer.from_pretrained("./bpe_out")
    ids = trained.encode(text).ids
    assert read(text).input_ids == ids and read.decode(ids) == text
    assert read.eos_token == "<|endoftext|>"
    assert json.load(open("bpe_out/config.json"))["eos_token_id"] == read.eos_token_id
    print(f"tokenizer: {len(ids)} ids of a trained BPE are the same after import and export")


def peers_models():
    llama = dict(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    yield "hf_gpt2", GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=64, n_head=4, n_layer=3, n_positions=128, initializer_range=0.1)
    )
    yield "hf_gpt2_untied", GPT2LMHeadModel(
        GPT2Config(
            vocab_size=300, n_embd=32, n_head=2, n_layer=1, n_inner=48, activation_function="gelu",
            tie_word_embeddings=False, initializer_range=0.1,
        )
    )  # fmt: skip
    yield "hf_llama", LlamaForCausalLM(LlamaConfig(**llama, num_key_value_heads=2, rope_theta=5000.0))
    yield "hf_llama_biases", LlamaForCausalLM(
        LlamaConfig(**llama, attention_bias=True, mlp_bias=True, head_dim=8, tie_word_embeddings=True)
    )
    yield "hf_mistral", MistralForCausalLM(MistralConfig(**llama, num_key_value_heads=1, sliding_window=9))
    yield "hf_mistral_defaults", MistralForCausalLM(MistralConfig(**llama | dict(num_attention_heads=8)))
    yield "hf_mistral_full", MistralForCausalLM(MistralConfig(**llama, num_key_value_heads=4, sliding_window=None))


def randomise_vectors(model):
    """Biases and norms begin as 0 and 1, which would hide a mix-up."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def check_import(name, model):
    randomise_vectors(model)
    model.save_pretrained(name)
    model.save_pretrained(f"{name}_sharded", max_shard_size="30KB")
    assert len([f for f in os.listdir(f"{name}_sharded") if f.endswith(".safetensors")]) > 2
    ids = random_ids(100, 300)
    for folder in (name, f"{name}_sharded"):
        filigree("import", folder, "-o", f"{folder}.h5")
        far = difference(model, ids, filigree_logits(f"{folder}.h5", ids))
        assert far <= TOLERANCE, (folder, far)
    print(f"import {name}, single and sharded: differs by {far:.1e}")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model.to(dtype).save_pretrained(f"{name}_other")
        filigree("import", f"{name}_other", "-o", "other.h5", "--overwrite")
        rounded = type(model).from_pretrained(f"{name}_other", torch_dtype=torch.float32)
        far = difference(rounded, ids, filigree_logits("other.h5", ids))
        assert far <= TOLERANCE, (name, dtype, far)


def check_config_keys(name, model):
    """All keys of a config.json, and as few as the class allows: the same model, and no word of unknown keys."""
    ids = random_ids(100, 300)
    everything = model.config.to_dict()
    defaults = type(model.config)().to_dict()
    fewest = {k: v for k, v in everything.items() if k == "model_type" or defaults.get(k, v) != v}
    model.save_pretrained(f"{name}_keys")
    for keys in (everything, fewest):
        with open(f"{name}_keys/config.json", "w") as file:
            json.dump(keys, file)
        said = filigree("import", f"{name}_keys", "-o", "keys.h5", "--overwrite")
        assert "does not have these keys" not in said, said
        far = difference(model, ids, filigree_logits("keys.h5", ids))
        assert far <= TOLERANCE, (name, far, keys)
    print(f"import {name}: the same with {len(everything)} keys and with {len(fewest)}")


def torch_losses(folder, data, steps, batch, seq_len, hyper):
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    named = list(model.named_parameters())
    groups = [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": hyper["weight_decay"]},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=hyper["lr"], betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(steps):
        begins = [(step * batch + i) * seq_len for i in range(batch)]
        x = torch.tensor([data[b : b + seq_len] for b in begins])
        y = torch.tensor([data[b + 1 : b + seq_len + 1] for b in begins])
        logits = model(x).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["clip"])
        optimizer.step()
    return losses


def check_steps(name, data):
    """Ten steps from the weights of runs/<name>, here and there."""
    overrides = EXPORTS[name][0]
    hyper = {"lr": 3e-3, "weight_decay": 0.5, "clip": 0.5}
    filigree(
        "train", "base.yaml", *overrides, f"train.out=runs/{name}_on", f"train.init_from=runs/{name}",
        "train.steps=10", "train.batch_size=4", "train.micro_batch_size=2", "train.schedule=constant",
        "train.warmup_steps=0", *(f"train.{key}={value}" for key, value in hyper.items()),
    )  # fmt: skip
    ours = [json.loads(line)["loss"] for line in open(f"runs/{name}_on/metrics.jsonl")]
    theirs = torch_losses(name, data, 10, 4, 64, hyper)
    assert len(ours) == 10
    worst = max(abs(a - b) / b for a, b in zip(ours, theirs))
    print(f"ten steps of {name}: loss {ours[0]:.4f} to {ours[-1]:.4f}, differs by {worst:.1e} at most")
    assert ours[-1] < ours[0] - 0.3 and worst <= 1e-4, (ours, theirs)


def main():
    print(f"FILIGREE_TEST_SEED={SEED}")
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    data = [0]
    while len(data) < 5000:  # something to learn: three successors of each of 40 ids
        data.append((3 * data[-1] + int(torch.randint(3, ()))) % 40)
    data[-1] = 257  # the largest id, by which a .bin file's vocabulary is known
    numpy.asarray(data, "<u2").tofile("data.bin")
    with open("base.yaml", "w") as file:
        file.write(BASE)
    for name, case in EXPORTS.items():
        check_export(name, *case)
    check_bytes()
    check_generation()
    check_bpe()
    for name, model in peers_models():
        check_config_keys(name, model)
        check_import(name, model)  # which rounds its numbers
    for name in ("gpt2", "llama_kv_heads", "mistral"):
        check_steps(name, data)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    main()
    os.chdir("/")
