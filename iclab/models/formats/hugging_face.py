"""Folders of the library transformers: GPT-2, GPT-NeoX (Pythia) and the family of Llama (`iclab.models.pretrained`)."""

from pathlib import Path

import torch

from iclab.models.formats.format import Format
from iclab.models.pretrained import load_pretrained, outline_of
from iclab.models.tokens import TokenTransformer


class HuggingFace(Format):
    """A folder with config.json and weights as safetensors."""

    name = "Hugging Face"
    about = "a folder with config.json and model.safetensors: gpt2, gpt_neox, llama, mistral, qwen2"

    def recognises(self, place: Path) -> bool:
        return (place / "config.json").is_file() and any(place.glob("*.safetensors*"))

    def files(self, place: Path) -> list[Path]:
        return [place / "config.json", *sorted(place.glob("*.safetensors*"))]

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> TokenTransformer:
        return load_pretrained(place, dtype)

    def outline(self, place: Path) -> TokenTransformer:
        return outline_of(place)
