"""`--diff A B -o diff.html`: both plans on one page, escaped, and nothing but a page."""

from __future__ import annotations

from command import run_command

PLAN = """plan 1
model "small"
device cuda:0 memory 10KiB
device cpu memory 1MiB
module a : Linear 4KiB
module "<b>" : Linear 2KiB
place a on cuda:0
place "<b>" on DEVICE
"""


def test_two_plans_are_side_by_side_and_what_moved_is_said(tmp_path):
    for name, device in (("one", "cuda:0"), ("two", "cpu")):
        (tmp_path / f"{name}.plan").write_text(PLAN.replace("DEVICE", device))
    out = tmp_path / "d.html"
    done = run_command(["--diff", "one.plan", "two.plan", "-o", str(out)], cwd=tmp_path)
    assert (done.code, done.out) == (0, "")
    page = out.read_text()
    assert "before: one.plan" in page
    assert "after: two.plan" in page
    assert "~ place &lt;b&gt;: cuda:0 -&gt; cpu" in page
    assert "<b>:" not in page
    checked = run_command(["--diff", "one.plan", "two.plan", "--check", "-o", str(out)], cwd=tmp_path)
    assert checked.code == 3


def test_another_form_is_refused(tmp_path):
    (tmp_path / "one.plan").write_text(PLAN.replace("DEVICE", "cpu"))
    refused = run_command(["--diff", "one.plan", "one.plan", "-o", "x.plan"], cwd=tmp_path)
    assert refused.code == 2
    assert "`-o diff.html`" in refused.err
