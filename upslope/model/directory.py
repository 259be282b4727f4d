"""What can be seen of a model's directory before anything of it is loaded: files that are not there, or not whole."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.text.packed import POINTER

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What transformers looks for."""
ELSEWHERE = {
    "*.gguf": "llama.cpp's",
    "*.onnx": "ONNX's",
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "consolidated*": "the maker's own",
    "*.pt": "a script's own",
    "*.pth": "a script's own",
    "*.distcp": "torch.distributed's",
    "*model_states.pt": "DeepSpeed's",
}
"""Weights that transformers does not read, and whose form that is."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "source.spm",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""One of which every tokenizer's directory has."""
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.json"
"""Where processors of older versions kept a chat template: ``{"chat_template": ...}``."""
JSON_FILES = (
    *("config.json", GENERATION, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", TEMPLATE, "model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
MOST_HEADER = 100_000_000
"""Bytes of a safetensors header, as that format bounds it."""
NARROW = ("I8", "U8", "F8_E4M3", "F8_E5M2")
"""Kinds of numbers of quantized weights, as safetensors calls them: transformers would cast them without a word."""


def require_directory(folder: Path) -> None:
    """Raise UserError unless the directory has a config that names an architecture, whole weights and a tokenizer."""
    require_config(folder)
    _require_weights(folder)
    require_tokenizer(folder, f"model {str(folder)!r}")


def require_config(folder: Path) -> None:
    """Raise UserError without a config.json, or for one that does not say what the model is."""
    _require_no_pointers(folder, f"model {str(folder)!r}")
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"model {str(folder)!r}: the directory holds no config.json, so it is no Hugging Face model"
            f"{_what_it_is(folder)}"
        )
    config = _json(file)
    if isinstance(config, dict) and not config.get("model_type"):
        raise UserError(
            f"model {str(folder)!r}: its config.json has no model_type, which says what the model is; take the "
            "config.json that came with the weights"
        )
    told = damaged(folder, [GENERATION])  # which transformers passes over, and with it the tokens that end a response
    if told:
        raise UserError(f"model {str(folder)!r} cannot be loaded: {told}")


def damaged(folder: Path, names: Sequence[str] = JSON_FILES) -> str:
    """The first of the directory's files that should be JSON and is none, in words; empty if all are."""
    for file in (folder / name for name in names):
        try:
            if file.is_file():
                json.loads(file.read_bytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            size = file.stat().st_size
            return f"{file.name} ({size:,} bytes) is no JSON: {error}; copy or download it again"
    return ""


def processor_template(folder: Path) -> str | None:
    """A chat template that only a processor of the directory reads, not its tokenizer; None without one."""
    found = _json(folder / TEMPLATE) if (folder / TEMPLATE).is_file() else None
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) and template else None


def _what_it_is(folder: Path) -> str:
    """What somebody may have meant who named a directory that holds no model."""
    if (folder / "pipeline.toml").is_file():
        return f"; it is a pipeline's, so name one of its stages, {folder / 'STAGE'}"
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"; it holds a tokenizer, which is for a new model: new:llama with new.tokenizer={folder}"
    return ""


def require_tokenizer(folder: Path, what: str) -> None:
    """Raise UserError for a directory without one; ``what`` it is of."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{what}: the directory holds no tokenizer (none of {', '.join(TOKENIZER_FILES[:4])}); copy the "
            "tokenizer's files there from the model that the weights began with"
        )


def _require_no_pointers(folder: Path, what: str) -> None:
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < 1024:
            with file.open("rb") as stream:
                pointer = stream.read(len(POINTER)) == POINTER
            if pointer:
                raise UserError(
                    f"{what}: {file.name} is a pointer of git-lfs and not the file itself; run `git lfs pull` there, "
                    "or download it again"
                )


def _require_weights(folder: Path) -> None:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        others = [(kind, p.name) for kind in ELSEWHERE for p in sorted(folder.glob(kind))]
        if others:
            why = f"{others[0][1]} is in {ELSEWHERE[others[0][0]]} form, which transformers does not read; convert it"
        elif any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
            name = next(iter(sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]))).name
            why = f"{name} is there, and the index that says what is in which file is not; download it as well"
        else:
            why = "they may not have been downloaded"
        raise UserError(f"model {str(folder)!r}: the directory holds no weights (no {WEIGHTS[0]}): {why}")
    for file in _shards(folder, found):
        if not file.is_file():
            raise UserError(
                f"model {str(folder)!r}: {found.name} names {file.name}, and there is no such file; download it as well"
            )
        if file.suffix == ".safetensors":
            _require_whole(folder, file)
        elif file.suffix == ".bin":
            _require_whole_archive(folder, file)


def _shards(folder: Path, found: Path) -> Iterator[Path]:
    if found.suffix != ".json":
        yield found
        return
    index = _json(found)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise UserError(f"model {str(folder)!r}: {found.name} has no weight_map, which says what is in which file")
    for name in sorted(set(weights.values())):
        if Path(name).name != name:
            raise UserError(f"model {str(folder)!r}: {found.name} names {name!r:.80}, which is not in the directory")
        yield folder / name


def _require_whole(folder: Path, file: Path) -> None:
    """Raise UserError if a safetensors file ends before the last weight that its header names."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        num = int.from_bytes(start, "little")
        if len(start) < 8 or num > min(MOST_HEADER, size - 8):
            raise UserError(
                f"model {str(folder)!r} cannot be loaded: {file.name} is no safetensors file, or was cut off in its "
                f"header ({size:,} bytes are there); copy or download it again"
            )
        try:
            header = json.loads(stream.read(num))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
            kinds = {name: entry["dtype"] for name, entry in header.items() if name.endswith("weight")}
        except Exception:  # whatever it is, safetensors says so
            return
    narrow = next((name for name, kind in kinds.items() if kind in NARROW), None)
    if narrow is not None:
        raise UserError(
            f"model {str(folder)!r}: {narrow} in {file.name} has numbers of one byte ({kinds[narrow]}): its weights "
            "are quantized, and such cannot be trained; take the model in bfloat16 or float32"
        )
    wanted = 8 + num + max(ends, default=0)
    if size < wanted:
        raise UserError(
            f"model {str(folder)!r} cannot be loaded: {file.name} was cut off: it has {size:,} bytes, and its header "
            f"names weights up to {wanted:,}; copy or download it again"
        )


def _require_whole_archive(folder: Path, file: Path) -> None:
    """Raise UserError if a file of ``torch.save``, which is a zip archive in all but old versions, was cut off."""
    with file.open("rb") as stream:
        start = stream.read(2)
    if not start or (start == b"PK" and not zipfile.is_zipfile(file)):
        raise UserError(
            f"model {str(folder)!r} cannot be loaded: {file.name} was cut off ({file.stat().st_size:,} bytes are "
            "there); copy or download it again"
        )


def _json(file: Path) -> Any:
    """None for what is no JSON: transformers says so."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
