"""Small folders with quantised weights, as the methods of transformers have them."""

from __future__ import annotations

import json

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

SAVED = {
    "vocab_size": 64, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
UNSHOWN = (
    "awq", "bitsandbytes", "compressed-tensors", "eetq", "gptq", "hqq", "mxfp4", "vptq"
)  # fmt: skip
"""Methods whose weights cannot be moved."""
METHODS = (*UNSHOWN, "fp8", "quanto", "torchao")
BLOCK = 128


def write_quantised(folder, method):
    """Write the configuration of a llama in a method; for ``fp8`` the weights, too."""
    hf.LlamaConfig(**SAVED, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    said = {"quant_method": method, "bits": 4, "group_size": 128}
    if method == "fp8":
        said = {"quant_method": method, "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
        torch.manual_seed(0)
        hf.LlamaForCausalLM(hf.LlamaConfig(**SAVED)).to(torch.bfloat16).save_pretrained(folder)
        _in_eight_bits(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    return folder


def _in_eight_bits(path):
    stored, packed = load_file(path), {}
    for name, tensor in stored.items():
        if not name.endswith("proj.weight"):
            packed[name] = tensor
            continue
        scale = tensor.float().abs().amax() / 448
        packed[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        packed[name.replace("weight", "weight_scale_inv")] = scale.view(1, 1)
    save_file(packed, path, metadata={"format": "pt"})


GPT = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4,
    "num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def write_blocks(folder):
    """Write a gpt-oss whose experts are blocks of four-bit floats with a scale for each."""
    torch.manual_seed(0)
    config = hf.GptOssConfig(**GPT, quantization_config={"quant_method": "mxfp4"})
    hf.GptOssForCausalLM(hf.GptOssConfig(**GPT)).to(torch.bfloat16).save_pretrained(folder)
    config.architectures, config.dtype = ["GptOssForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    stored, packed = load_file(folder / "model.safetensors"), {}
    for name, tensor in stored.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            packed[name] = tensor
            continue
        experts, into, out = tensor.shape
        packed[f"{name}_blocks"] = torch.zeros(experts, out, into // 32, 16, dtype=torch.uint8)
        packed[f"{name}_scales"] = torch.full((experts, out, into // 32), 127, dtype=torch.uint8)
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
