"""Checkpoints from their headers: exact bytes, the tree, the index, and files that are wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from checkpoints import header_of, llama_tensors, write_file, write_raw, write_shards
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.compiler.sources.regular import unreadable_input
from compile_plan.compiler.sources.safetensors_header import read_header
from compile_plan.ir import Atomic, Diagnostics, PlanError, Role, atomic_modules
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file


def read(path):
    diagnostics = Diagnostics()
    plan, index = read_checkpoint(path, diagnostics)
    return plan, index, list(diagnostics)


def errors(path):
    with pytest.raises(PlanError) as caught:
        read_checkpoint(path, Diagnostics())
    return caught.value.diagnostics


def code_of(path):
    (finding,) = errors(path)
    return finding.code


def test_offsets_dtypes_and_shapes_are_those_of_the_library(tmp_path):
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.int64]
    kinds += [
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
        torch.float64,
        torch.uint16,
        torch.int32,
    ]
    tensors = {f"t{i}": torch.arange(6).reshape(2, 3).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    plan, index, found = read(tmp_path)
    assert not found
    assert set(index.tensors) == set(tensors)
    for name, stored in index.tensors.items():
        with index.file_of(stored).open("rb") as stream:
            stream.seek(stored.offset)
            content = stream.read(stored.nbytes)
        dtype = getattr(torch, stored.dtype)
        value = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.zeros(0, dtype=dtype)
        assert torch.equal(value.reshape(stored.shape), tensors[name]), name
    assert sum(plan.tree.nbytes) == sum(tensor.nbytes for tensor in tensors.values())


def test_packed_four_bit_tensors_have_torchs_shape(tmp_path):
    header = {"w": {"dtype": "F4", "shape": [4, 6], "data_offsets": [0, 12]}}
    write_raw(tmp_path / "a.safetensors", json.dumps(header).encode(), 12)
    _, index, _ = read(tmp_path / "a.safetensors")
    assert index.tensors["w"].shape == (4, 3)
    assert index.tensors["w"].dtype == "float4_e2m1fn_x2"


def test_the_tree_has_the_order_models_use(tmp_path):
    folder = write_shards(tmp_path / "llama", llama_tensors(12), 3)
    tree = read(folder)[0].tree
    top = [tree.paths[i] for i in tree.children(0)]
    assert top == ["model", "lm_head"]
    inner = [tree.names[i] for i in tree.children(tree.module_index["model"])]
    assert inner == ["embed_tokens", "layers", "norm"]
    layers = [tree.names[i] for i in tree.children(tree.module_index["model.layers"])]
    assert layers == [str(i) for i in range(12)]


@pytest.mark.parametrize(
    "order",
    [
        ("wte", "wpe", "h", "ln_f", "lm_head"),
        ("embed_in", "layers", "final_layer_norm", "embed_out"),
        ("shared", "encoder", "decoder", "lm_head"),
        ("embeddings", "encoder", "layernorm", "pooler", "classifier"),
        ("vision_tower", "multi_modal_projector", "language_model", "lm_head"),
        ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"),
        ("conv1", "bn1", "layer1", "layer2", "layer10", "fc"),
        ("tok_embeddings", "layers", "norm", "output"),
    ],
)
def test_siblings_stand_in_the_order_they_run(tmp_path, order):
    tensors = {f"{name}.a.weight": ("F32", (2,)) for name in sorted(order)}
    tree = read(write_file(tmp_path / "m.safetensors", tensors))[0].tree
    assert tuple(tree.names[i] for i in tree.children(0)) == order


def test_repeated_blocks_are_atomic(tmp_path):
    plan, _, _ = read(write_shards(tmp_path / "m", llama_tensors(3, experts=4), 2))
    assert plan.constraints == (Atomic("model.layers.*"),)
    kinds = dict(zip(plan.tree.paths, plan.tree.classes, strict=True))
    assert kinds["model.layers.1"] == "Layer"
    assert kinds["model.layers"] == kinds["model.layers.1.mlp.experts"] == "ModuleList"
    assert Counter(plan.tree.classes)["Layer"] == 3


def names(*paths, shape=(2, 2)):
    return dict.fromkeys(paths, ("F32", shape))


@pytest.mark.parametrize(
    ("tensors", "atomic"),
    [
        # Three plain layers, one of them dense: the odd one is a layer all the same.
        (
            names("h.0.a.weight", "h.0.b.weight", *(f"h.{i}.m.x.{e}.weight" for i in (1, 2) for e in (0, 1))),
            {"h.*"},
        ),
        # A sequence of different leaves has no blocks.
        (names("net.0.weight", "net.2.weight", "net.4.weight"), set()),
        # Stages of unequal width: the blocks in them repeat, the stages do not.
        (
            {
                f"stages.{s}.blocks.{b}.{leaf}.weight": ("F32", (s + 1, 4))
                for s in range(2)
                for b in range(2)
                for leaf in "ab"
            },
            {"stages.*.blocks.*"},
        ),
        # Layers of different widths still repeat by their names.
        ({f"layers.{i}.{leaf}.weight": ("F32", (i + 1, 4)) for i in range(4) for leaf in "ab"}, {"layers.*"}),
        (names("transformer_blocks.0.a.weight", "transformer_blocks.1.a.weight"), {"transformer_blocks.*"}),
        (names("0.a.weight", "1.a.weight"), {"*"}),
    ],
)
def test_what_counts_as_a_block(tmp_path, tensors, atomic):
    plan, _, _ = read(write_file(tmp_path / "m.safetensors", tensors))
    assert {constraint.target for constraint in plan.constraints} == atomic


def test_companions_of_a_quantised_weight_belong_to_its_module(tmp_path):
    tensors = names("a.b.weight", "a.b.weight.absmax", "a.b.weight.quant_state.nf4", "w", "w.scale")
    plan, _, _ = read(write_file(tmp_path / "m.safetensors", tensors))
    tree = plan.tree
    assert tree.paths == ("", "a", "a.b")
    assert set(tree.tensor_paths) == set(tensors)
    assert len(tree.own_tensors(tree.module_index["a.b"])) == 3


def test_known_buffers_are_buffers(tmp_path):
    tensors = names("bn.weight", "bn.bias", "bn.running_mean") | {"mask": ("BOOL", (4,))}
    tree = read(write_file(tmp_path / "m.safetensors", tensors))[0].tree
    roles = dict(zip(tree.tensor_paths, tree.roles, strict=True))
    assert roles == {
        "mask": Role.BUFFER,
        "bn.weight": Role.PARAMETER,
        "bn.bias": Role.PARAMETER,
        "bn.running_mean": Role.BUFFER,
    }
    assert tree.tensor_paths[1:] == ("bn.weight", "bn.bias", "bn.running_mean")


CAUSAL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@pytest.mark.parametrize("config", [CAUSAL, CAUSAL | {"tie_word_embeddings": True}])
def test_a_missing_head_is_tied_to_the_embedding_and_costs_nothing(tmp_path, config):
    folder = write_shards(tmp_path / "m", llama_tensors(2, head=False), 2, config=config)
    plan, index, _ = read(folder)
    tree = plan.tree
    assert tree.classes[0] == "LlamaForCausalLM"
    head, embedding = tree.tensor_index["lm_head.weight"], tree.tensor_index["model.embed_tokens.weight"]
    assert tree.storages[head] == embedding
    assert (tree.nbytes[head], tree.nbytes[embedding]) == (0, 320)
    assert "lm_head.weight" not in index.tensors


@pytest.mark.parametrize(
    ("config", "head"),
    [
        (CAUSAL | {"tie_word_embeddings": False}, False),
        (CAUSAL | {"text_config": {"tie_word_embeddings": False}}, False),
        (CAUSAL, True),
        ({"architectures": ["LlamaModel"]}, False),
        (["not", "a", "config"], False),
    ],
)
def test_nothing_is_tied_without_a_reason(tmp_path, config, head):
    folder = write_shards(tmp_path / "m", llama_tensors(2, head=head), 1, config=config)
    tree = read(folder)[0].tree
    assert tree.storages == tuple(range(len(tree.storages)))
    assert ("lm_head.weight" in tree.tensor_index) == head


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("transformer.wte.weight", "lm_head.weight"),
        ("wte.weight", "lm_head.weight"),
        ("model.language_model.embed_tokens.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
    ],
)
def test_the_head_gets_the_name_it_has_in_the_model(tmp_path, embedding, head):
    write_file(tmp_path / "model.safetensors", names(embedding))
    (tmp_path / "config.json").write_text(json.dumps(CAUSAL))
    assert set(read(tmp_path)[0].tree.tensor_paths) == {embedding, head}


def test_a_head_of_another_name_is_known_by_the_model_type(tmp_path):
    write_file(tmp_path / "model.safetensors", names("model.decoder.embed_tokens.weight"))
    content = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read(tmp_path)[0].tree.tensor_paths[-1] == "proj_out.weight"


ZOO = {
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 100},
    "LlamaForCausalLM": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "T5ForConditionalGeneration": {"d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8},
    "BloomForCausalLM": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 100},
    "MambaForCausalLM": {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 100},
}


@pytest.mark.parametrize("name", ZOO)
def test_blocks_order_and_bytes_are_those_of_the_live_model(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**ZOO[name]))
    model.save_pretrained(tmp_path)
    plan, _, _ = read(tmp_path)
    tree = plan.tree
    live = {path: type(module).__name__ for path, module in model.named_modules()}
    blocks = [tree.paths[module] for module in atomic_modules(tree, plan.constraints)]
    assert blocks == [path for path, kind in live.items() if kind.endswith(("Block", "Layer"))]
    assert sum(tree.nbytes) == sum(parameter.nbytes for parameter in model.parameters())
    outside = [path for path in tree.paths if not path.startswith(tuple(f"{block}." for block in blocks))]
    assert outside == [path for path in live if path in set(outside)]


def test_shards_without_an_index_are_one_checkpoint(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(2), 3)
    with_index = read(folder)
    (folder / "model.safetensors.index.json").unlink()
    without = read(folder)
    assert without[0].tree == with_index[0].tree
    assert without[1] == with_index[1]


def test_one_missing_shard_is_named(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(2), 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    (finding,) = errors(folder)
    assert finding.code == "missing-shard"
    assert "model-00002-of-00003.safetensors" in finding.message
    (folder / "model.safetensors.index.json").unlink()
    (finding,) = errors(folder)
    assert finding.code == "missing-shard"
    assert finding.notes == ("model-00002-of-00003.safetensors is missing",)


def test_the_plan_does_not_depend_on_the_order_in_the_file(tmp_path):
    tensors = llama_tensors(3)
    one = write_file(tmp_path / "one.safetensors", tensors)
    other = write_file(tmp_path / "other.safetensors", dict(reversed(tensors.items())))
    assert read(one)[0].tree == read(other)[0].tree


def test_an_index_outside_its_folder_is_refused(tmp_path):
    write_file(tmp_path / "secret.safetensors", names("a"))
    folder = tmp_path / "m"
    folder.mkdir()
    for name in [
        "../secret.safetensors",
        str(tmp_path / "secret.safetensors"),
        "..\\secret",
        "C:secret",
        "x/../../y",
        "",
    ]:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        assert code_of(folder) == "path-outside-folder", name


def test_a_linked_shard_is_followed(tmp_path):
    real = write_file(tmp_path / "blob", names("a.weight"))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(real)
    assert list(read(folder)[1].tensors) == ["a.weight"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000, "\xff"]
)
def test_what_is_no_index_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content.encode("latin-1"))
    assert code_of(path) == "invalid-index"


def test_an_index_that_lists_what_is_not_there_is_an_error(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(1), 2)
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(content))
    (finding,) = errors(folder)
    assert finding.code == "missing-tensor"
    assert "`ghost.weight`" in finding.message


def test_a_tensor_the_index_does_not_list_is_read_with_its_shard_and_named(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(1), 2)
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    del content["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(content))
    plan, index, found = read(folder)
    assert [d.code for d in found] == ["unlisted-tensor"]
    assert "model.norm.weight" in index.tensors
    assert "model.norm.weight" in plan.tree.tensor_index


def test_a_tensor_in_another_shard_than_the_index_says_is_found(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(1), 2)
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    first, second = sorted(set(content["weight_map"].values()))
    content["weight_map"] |= dict.fromkeys(llama_tensors(1), first) | {"model.norm.weight": second}
    path.write_text(json.dumps(content))
    plan, _, found = read(folder)
    assert not list(found)
    assert set(plan.tree.tensor_paths) == set(llama_tensors(1))


def test_a_tensor_in_two_shards_is_an_error(tmp_path):
    write_file(tmp_path / "m-00001-of-00002.safetensors", names("a", "b"))
    write_file(tmp_path / "m-00002-of-00002.safetensors", names("b", "c"))
    (finding,) = errors(tmp_path)
    assert finding.code == "duplicate-tensor"
    assert "`b`" in finding.message


def test_two_checkpoints_in_a_folder_are_ambiguous(tmp_path):
    write_file(tmp_path / "one.safetensors", names("a"))
    write_file(tmp_path / "two.safetensors", names("a"))
    (finding,) = errors(tmp_path)
    assert finding.code == "ambiguous-input"
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    assert code_of(tmp_path) == "ambiguous-input"


def test_the_model_itself_is_preferred(tmp_path):
    write_file(tmp_path / "model.safetensors", names("a"))
    write_file(tmp_path / "consolidated.safetensors", names("b"))
    assert list(read(tmp_path)[1].tensors) == ["a"]


def test_a_folder_of_pickles_says_what_to_do(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (finding,) = errors(tmp_path)
    assert finding.code == "unknown-input"
    assert "save_pretrained" in (finding.help or "")


def test_an_index_of_pickles_says_what_to_do(tmp_path):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}))
    (finding,) = errors(index)
    assert finding.code == "unknown-input"
    assert "pickle" in finding.notes[0]


def test_missing_and_unreadable_inputs(tmp_path):
    assert code_of(tmp_path / "nothing.safetensors") == "missing-input"
    (tmp_path / "b" / "model.safetensors").mkdir(parents=True)
    assert code_of(tmp_path / "b") == "unreadable-input"


def test_a_forbidden_input_says_what_to_change(tmp_path):
    found = unreadable_input(tmp_path, PermissionError(errno.EACCES, "Permission denied"))
    assert (found.code, found.help) == ("unreadable-input", "change its permissions")
    assert found.message == f"cannot read `{tmp_path}`: Permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_unreadable(tmp_path):
    path = write_file(tmp_path / "a.safetensors", names("a"))
    path.chmod(0)
    assert code_of(path) == "unreadable-input"


def test_a_checkpoint_without_tensors_is_empty(tmp_path):
    assert code_of(write_file(tmp_path / "a.safetensors", {})) == "empty-model"


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


@pytest.mark.parametrize(
    ("header", "nbytes", "code"),
    [
        (b"{", 0, "invalid-checkpoint"),
        (b"[]", 0, "invalid-checkpoint"),
        (b"\xff\xfe", 0, "invalid-checkpoint"),
        (b"[" * 200_000, 0, "invalid-checkpoint"),
        (b'{"a": ' + b"9" * 10_000 + b"}", 0, "invalid-checkpoint"),
        ({"a": 3}, 0, "invalid-checkpoint"),
        ({"a": entry(shape=(-2,))}, 8, "invalid-checkpoint"),
        ({"a": entry(shape=(True, 2))}, 8, "invalid-checkpoint"),
        ({"a": entry(shape=(2.0,))}, 8, "invalid-checkpoint"),
        ({"a": entry(offsets=(0, 7))}, 7, "invalid-checkpoint"),
        ({"a": entry(offsets=(8, 0))}, 8, "invalid-checkpoint"),
        ({"a": entry(offsets=(0,))}, 8, "invalid-checkpoint"),
        ({"a": entry(offsets=(0, "8"))}, 8, "invalid-checkpoint"),
        ({"a": entry(offsets=(4, 12))}, 12, "invalid-checkpoint"),
        ({"a": entry(), "b": entry()}, 8, "invalid-checkpoint"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "invalid-checkpoint"),
        ({"a": entry()}, 9, "invalid-checkpoint"),
        ({"": entry()}, 8, "invalid-checkpoint"),
        ({"a..b": entry()}, 8, "invalid-checkpoint"),
        ({"a\n": entry()}, 8, "invalid-checkpoint"),
        ({".".join("a" * 2000): entry()}, 8, "invalid-checkpoint"),
        ({"a": entry(shape=(2**62, 2**62), offsets=(0, 2**126))}, 8, "truncated-checkpoint"),
        ({"a": entry(), "b": entry(offsets=(8, 16))}, 12, "truncated-checkpoint"),
        ({"a": entry("F31")}, 8, "unknown-tensor-dtype"),
        (
            b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}",
            8,
            "duplicate-tensor",
        ),
    ],
)
def test_a_wrong_header_is_named(tmp_path, header, nbytes, code):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    (finding,) = errors(write_raw(tmp_path / "a.safetensors", content, nbytes))
    assert finding.code == code
    assert "a.safetensors" in finding.message
    assert len(finding.message) < 1000


@pytest.mark.parametrize("content", [b"", b"\0\0", (5).to_bytes(8, "little") + b"{}"])
def test_a_file_shorter_than_its_header_is_cut(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert code_of(path) == "truncated-checkpoint"


def test_an_enormous_header_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little"))
    assert code_of(path) == "invalid-checkpoint"


def test_every_broken_file_of_a_checkpoint_is_reported(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(2), 3)
    for number in (1, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").write_bytes(b"")
    assert [d.code for d in errors(folder)] == ["truncated-checkpoint"] * 2


@given(st.data())
@settings(max_examples=300)
def test_no_flipped_byte_gets_past_as_an_exception(tmp_path_factory, data):
    header, nbytes = header_of({"a.weight": ("F32", (2, 3)), "b": ("BF16", (4,))})
    path = write_raw(tmp_path_factory.mktemp("flip") / "a.safetensors", json.dumps(header).encode(), nbytes)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    diagnostics = Diagnostics()
    tensors, size = read_header(path, 0, diagnostics)
    if diagnostics.errors:
        assert tensors == []
    else:
        assert all(t.offset > 0 and t.offset + t.nbytes <= size for t in tensors)


def test_torch_is_not_loaded(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(4), 2, config=CAUSAL)
    script = (
        "import sys\n"
        "from compile_plan.compiler.sources.checkpoint import read_checkpoint\n"
        "from compile_plan.compiler.machine.budgets import devices_from\n"
        "from compile_plan.ir import Diagnostics\n"
        "plan, index = read_checkpoint(sys.argv[1], Diagnostics())\n"
        "devices_from({0: 5, 'cpu': '1GiB'}, Diagnostics())\n"
        "print(sum(plan.tree.nbytes), sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"
