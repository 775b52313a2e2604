"""Byte-level BPE against the HF `tokenizers` library, token for token, for both splitting rules and in both
directions: tokenizers that it trained read by filigree, and tokenizers that filigree trained read by it.

    check_tokenizers.py FILIGREE
"""
import glob
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unicodedata

import h5py
import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

FILIGREE = sys.argv[1]
SOURCE = os.path.join(os.path.dirname(__file__), "..", "..")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCAB = 4000
SPECIAL = {"gpt2": ["<|endoftext|>"], "llama3": ["<|begin_of_text|>", "<|end_of_text|>"]}


def filigree(*arguments):
    done = subprocess.run([FILIGREE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def filigree_ids(folder, tokenizer, text):
    """The ids that filigree makes of a text, without the separator before it."""
    path, tokens = os.path.join(folder, "text"), os.path.join(folder, "tokens.h5")
    with open(path, "wb") as file:
        file.write(text.encode())
    filigree("prepare", path, "-o", tokens, "--tokenizer", "bpe:" + tokenizer, "--overwrite")
    with h5py.File(tokens) as file:
        return file["tokens"][1:].astype(np.int64)


def hf_tokenizer(style, text):
    tokenizer = Tokenizer(models.BPE(ignore_merges=style == "llama3"))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style == "gpt2")
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.pre_tokenizer = bytes_ if style == "gpt2" else pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    # filigree does not count the text of special tokens, of which this repository has some.
    pieces = re.split("|".join(re.escape(token) for token in SPECIAL[style]), text)
    tokenizer.train_from_iterator(pieces, trainers.BpeTrainer(
        vocab_size=VOCAB, min_frequency=2, special_tokens=SPECIAL[style], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if style == "llama3":
        bos = SPECIAL[style][0]
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=bos + " $A", pair=f"{bos} $A {bos} $B",
                                          special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def real_text():
    """A few MB of what lies about: this repository, the C++ headers, and the texts of installed packages."""
    text = []
    for pattern in ("*/*.cpp", "*/*.h", "*.md", "/usr/include/c++/*/**/*.h", "/usr/share/doc/*/copyright",
                    "/usr/share/i18n/locales/*"):
        budget = 400_000
        for path in sorted(glob.glob(os.path.join(SOURCE, pattern), recursive=True)):
            try:
                piece = open(path, encoding="utf-8", newline="").read()
            except (UnicodeDecodeError, OSError):
                continue
            if "\0" not in piece and budget > 0:
                text.append(piece)
                budget -= len(piece)
    return "".join(text)


def matching(expression):
    """The code points that the library's regular expressions match with this."""
    matcher = pre_tokenizers.Split(Regex(expression), "removed")
    found = set()
    for begin in range(0, 0x110000, 4096):
        text = "".join(chr(c) for c in range(begin, begin + 4096) if not 0xD800 <= c < 0xE000)
        if text:
            found |= set(text) - set("".join(piece for piece, _ in matcher.pre_tokenize_str(text)))
    return found


def too_new():
    """What is left out: filigree knows Unicode 16, with as many letters, numbers and spaces as below. Where the library
    knows an older one, the code points that are unassigned in it are not compared."""
    known = len(matching(r"[\p{L}\p{N}\s]"))
    if known == 141028 + 1911 + 25:
        return set()
    assert known < 141028 + 1911 + 25, "the library knows a newer Unicode: data/unicode_classes.cpp has to follow"
    return matching(r"\p{Cn}")


def torture_text(left_out):
    odd = [
        "It's we'll THEY'VE I'M 'sure ''s '\u017fo 'RE'Ve'lL", "12345 1,234.56 \u0967\u0968\u0969\u096a \u2167\u00bd",
        "a  b   c    \t\t x\u00a0\u3000y\u2028z \n \n\r\n\r x\n\n\n", "end.\n\n!!\n x ...\r\n\r\n(y+1); //z",
        "\u4f60\u597d\u3002\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd cafe\u0301 na\u00efve",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \ufeff\u200b\u00ad",
        "\u0378\uffff\U0010ffff\ue000 \x01\x7f\x85\x85x", " " * 1000 + "x" + "\n" * 1000 + "=" * 5000, "   ",
        "<|endoftext|> <|endoftext|<|endoftext|>x <|begin_of_text|>\n<|end_of_text|>"]
    # All characters but ideographs, private ones and the unassigned, of which one in 32 will do.
    dull = {"Cn", "Co", "Cs"}
    characters = [
        chr(c) for c in range(1, 0x110000)
        if not 0xD800 <= c < 0xE000 and chr(c) not in left_out
        and (c % 32 == 0 or not (unicodedata.category(chr(c)) in dull or 0x3400 <= c < 0xD7A4 or 0x17000 <= c < 0x18D00
                                 or 0x20000 <= c < 0x32400))]
    # Each character between letters, spaces, digits, symbols and line ends, and after an apostrophe.
    each = "".join(f"a{c}b {c} 1{c}2 {c}x.{c}\n{c}'{c}" for c in characters)
    return "\n".join(odd) + each


def same(what, expected, found):
    expected = np.array(expected)
    n = min(len(expected), len(found))
    differ = np.nonzero(expected[:n] != found[:n])[0]
    assert len(differ) == 0 and len(expected) == len(found), (
        f"{what}: {len(expected)} ids against {len(found)}, the first difference at {differ[:1]}")
    print(f"{what}: {len(found)} ids agree")


def check(style, folder, text, torture):
    theirs, ours = os.path.join(folder, "theirs.json"), os.path.join(folder, "ours.json")
    hf_tokenizer(style, text).save(theirs)
    path = os.path.join(folder, "training")
    with open(path, "wb") as file:
        file.write(text.encode())
    filigree("tokenizer", path, "-o", ours, "--style", style, "--vocab", str(VOCAB), "--overwrite")
    a, b = (json.load(open(file))["model"] for file in (theirs, ours))
    merges = [[m if isinstance(m, str) else " ".join(m) for m in model["merges"]] for model in (a, b)]
    assert a["vocab"] == b["vocab"] and merges[0] == merges[1], f"{style}: another vocabulary was trained"
    print(f"{style}: the same {len(b['vocab'])} tokens were trained")
    for who, file in (("theirs", theirs), ("ours", ours)):
        hf = Tokenizer.from_file(file)
        for name, sample in (("real text", text), ("torture text", torture)):
            ids = hf.encode(sample, add_special_tokens=False).ids
            same(f"{style}, {who}, {name}", ids, filigree_ids(folder, file, sample))


def check_added_tokens(folder, text):
    """Tokens that overlap each other, special and plain, normalized and not, some with white space in them."""
    hf = hf_tokenizer("gpt2", text)
    hf.add_special_tokens(["<|a|>", "<|a|>b", "|><"])
    hf.add_tokens([AddedToken(t, normalized=n) for t, n in (
        ("b <", True), ("ab", True), ("b\n\n", False), ("b\n", False), ("\u00e9", False), (" a", True), ("a|", True))])
    file = os.path.join(folder, "added.json")
    hf.save(file)
    pieces = ["<|a|>", "<|a|>b", "|>", "<", "<|", "a", "b", "|", " ", "\n", "\n\n", "\u00e9", "ab"]
    seed = int.from_bytes(os.urandom(4), "little")
    sample = "".join(random.Random(seed).choices(pieces, k=100_000))
    same(f"added tokens, seed {seed}", hf.encode(sample).ids, filigree_ids(folder, file, sample))


def check_bytes(folder, text):
    """The byte tokenizer as a tokenizer.json: a token file holds it."""
    path, tokens = os.path.join(folder, "text"), os.path.join(folder, "tokens.h5")
    with open(path, "wb") as file:
        file.write(text.encode())
    filigree("prepare", path, "-o", tokens, "--overwrite")
    with h5py.File(tokens) as file:
        hf = Tokenizer.from_str(bytes(file["tokenizer_json"][:]).decode())
        same("bytes", hf.encode(text).ids, file["tokens"][1:].astype(np.int64))
    assert hf.decode(hf.encode(text).ids) == text and hf.get_vocab_size() == 258


def main():
    with tempfile.TemporaryDirectory() as folder:
        left_out = too_new()
        print(f"tokenizers {tokenizers.__version__}, {len(left_out)} code points left out (unassigned in its Unicode)")
        text, torture = real_text(), torture_text(left_out)
        print(f"{len(text.encode()) / 1e6:.1f} MB of real text, {len(torture.encode()) / 1e6:.1f} MB of torture text")
        for style in ("gpt2", "llama3"):
            check(style, folder, text, torture)
        check_added_tokens(folder, text[:100_000])
        check_bytes(folder, re.sub(r"<\|endoftext\|>|<\|mask\|>", "", torture[:300_000]))


main()
