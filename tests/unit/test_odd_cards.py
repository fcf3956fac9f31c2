"""Whatever the cards' own tool answers, a card is a device, or it is named as left out."""

from __future__ import annotations

import stat

import pytest
from compile_plan.compiler.machine.this_machine import cards_of_tool, cards_of_torch, this_machine
from compile_plan.ir import Diagnostics


def listing(*free, name="NVIDIA X"):
    return "".join(f"{i}, GPU-{i}111, {name}, {memory}\n" for i, memory in enumerate(free))


def asked(text, **environment):
    found = Diagnostics()
    cards = cards_of_tool(text, environment, found)
    return None if cards is None else [card.name for card in cards], [each.code for each in found]


@pytest.mark.parametrize("odd", ["[N/A]", "[Insufficient Permissions]", "[Unknown Error]", "", "-5"])
def test_a_memory_that_is_no_number_is_a_question_for_torch(odd):
    assert asked(listing(100, odd)) == (None, [])


@pytest.mark.parametrize("visible", ["MIG-377e0049-554c", "MIG-GPU-0111/1/0", "GPU-0111,MIG-377e"])
def test_slices_are_a_question_for_torch(visible):
    assert asked(listing(100, 100), CUDA_VISIBLE_DEVICES=visible) == (None, [])
    assert asked(listing(100, 100, name="NVIDIA A100 MIG 1g.5gb")) == (None, [])


@pytest.mark.parametrize("visible", ["0,0", "GPU-0111,0", "7", "GPU-2"])
def test_a_choice_that_shows_no_card_is_said(visible):
    assert asked(listing(100, 100), CUDA_VISIBLE_DEVICES=visible) == ([], ["skipped-device"])


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_cards_hidden_on_purpose_are_not_missed(visible):
    assert asked(listing(100, 100), CUDA_VISIBLE_DEVICES=visible) == ([], [])


def test_a_full_card_is_left_out_by_its_name():
    assert asked(listing(0, 100)) == (["cuda:1"], ["skipped-device"])


class Full:
    """What answers like torch on a machine whose first card is full and whose second is lost."""

    class accelerator:  # noqa: N801
        current_accelerator = staticmethod(lambda: type("Device", (), {"type": "cuda"}))
        device_count = staticmethod(lambda: 3)

    @staticmethod
    def get_device_module(_):
        def mem_get_info(index):
            if index == 1:
                raise RuntimeError("CUDA error: device is lost")
            return (0 if index == 0 else 100, 100)

        return type("cuda", (), {"mem_get_info": staticmethod(mem_get_info), "get_device_properties": int})


def test_torch_s_full_and_lost_cards_are_named_too():
    found = Diagnostics()
    assert [card.name for card in cards_of_torch(Full, 100, found)] == ["cuda:2"]
    assert [each.code for each in found] == ["skipped-device"] * 2


def test_cards_that_only_the_tool_sees_are_not_passed_over_in_silence(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'E'\n{listing('[N/A]')}E\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("compile_plan.compiler.machine.this_machine.cards_of_torch", lambda *_: [])
    found = Diagnostics()
    assert [device.name for device in this_machine(found)] == ["cpu"]
    assert [each.code for each in found] == ["skipped-device"]
