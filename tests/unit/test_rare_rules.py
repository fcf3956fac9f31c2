"""Mistakes only Python or a file system can make; the others are golden cases."""

from __future__ import annotations

import errno

import pytest
from command import run_command
from compile_plan.compiler import compile_model, infer_auto_device_map
from compile_plan.ir import PlanError

torch = pytest.importorskip("torch")
nn = torch.nn

MEMORY = {0: "1MiB", "cpu": "1GiB"}


def codes(error):
    return [diagnostic.code for diagnostic in error.value.diagnostics]


def test_a_special_dtype_for_a_tensor_that_is_not_there_names_the_nearest():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(PlanError) as error:
        compile_model(model, max_memory=MEMORY, special_dtypes={"0.wieght": "float32"})
    assert codes(error) == ["unknown-tensor"]
    assert error.value.diagnostics[0].help == "did you mean `0.weight`?"


def test_a_config_that_wants_ties_the_model_lacks_is_a_warning(caplog):
    class Config:
        tie_word_embeddings = True

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = Config()
            self.embed, self.head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)

        def get_output_embeddings(self):
            return self.head

    model = Model()
    infer_auto_device_map(model, max_memory=MEMORY)
    assert "no two parameters are the same tensor" in caplog.text
    caplog.clear()
    model.head.weight = model.embed.weight
    infer_auto_device_map(model, max_memory=MEMORY)
    assert caplog.text == ""


def test_an_override_that_is_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "edits.plan").mkdir()
    (tmp_path / "m.plan").write_text("plan 1\nmodule a : Linear 1KiB\n", encoding="utf-8")
    result = run_command(["m.plan", "--override", "edits.plan"], cwd=tmp_path)
    assert result.code == 1
    assert result.err.startswith("error[is-a-directory]: `edits.plan` is a directory")


def test_a_disk_that_fails_while_reading_is_said(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("compile_plan.backends.plan_files.Path.open", fail)
    result = run_command(["--format-plan", "edits.plan"], cwd=tmp_path)
    assert result.code == 1
    assert result.err.startswith("error[read-failed]: `edits.plan`: input/output error")
