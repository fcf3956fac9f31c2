"""Two processes that share a model, beside transformers' pipeline parallelism on the same two processes.

Makes a random checkpoint (``--gb``), then generates with one process, with this project by an even and by an
uneven split, and with ``DistributedConfig(pp_size=2)``; every tool in processes of its own, over gloo on the
loopback. Tokens are compared with those of one process. Bytes are those of tensors between the processes;
memory is what a process holds that only swapping could take back, and pages of files.
Run: python benchmarks/hosts.py --gb 0.5
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAYERS, PROMPT, ROWS = 12, 128, 1
STAGES, BATCHES, WORK = 4, 8, 0.2
TOOLS = ("one process", "compile-plan 6/6", "compile-plan 9/3", "transformers pp_size=2")


def make(folder: Path, gb: float) -> None:
    import torch
    import transformers

    width = max(64, int((gb * 1e9 / 4 / LAYERS / 11) ** 0.5) // 64 * 64)
    config = transformers.LlamaConfig(
        vocab_size=8000, hidden_size=width, intermediate_size=width * 7 // 3, num_hidden_layers=LAYERS,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def plan_of(shares: list[int]) -> str:
    lines = ["plan 1", "device node1/cpu", "device node2/cpu", "place ** on node1/cpu"]
    lines += [f"place model.layers.{{{shares[0]}..{LAYERS - 1}}} on node2/cpu"]
    lines += ["place model.norm on node2/cpu", "place lm_head on node2/cpu", ""]
    return "\n".join(lines)


def memory(kind: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(row for row in status.splitlines() if row.startswith(kind)).split()[1]) / 1024


class Counted:
    """The bytes this process sends by the doors that transformers uses."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.sent = 0
        batch, broadcast = dist.batch_isend_irecv, dist.broadcast

        def counting_batch(operations):
            sends = (one.tensor for one in operations if one.op is dist.isend)
            self.sent += sum(tensor.numel() * tensor.element_size() for tensor in sends)
            return batch(operations)

        def counting_broadcast(tensor, src=None, *args, **kwargs):
            if src == dist.get_rank():
                self.sent += tensor.numel() * tensor.element_size() * (dist.get_world_size() - 1)
            return broadcast(tensor, src, *args, **kwargs)

        dist.batch_isend_irecv, dist.broadcast = counting_batch, counting_broadcast


def load(tool: str, folder: Path):
    import torch
    import transformers

    if tool == "one process":
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    if tool.startswith("transformers"):
        from transformers.distributed import DistributedConfig

        config = DistributedConfig(pp_size=2)
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, distributed_config=config, dtype=torch.float32
        ).eval()
    from compile_plan.compiler import load_pretrained
    from compile_plan.grammar import parse

    shares = [int(share) for share in tool.split()[1].split("/")]
    return load_pretrained(folder, parse(plan_of(shares)))


def sent_by(model, counted: Counted) -> int:
    """Take what was sent since this was last asked."""
    from compile_plan.compiler import runtime_report

    sent, counted.sent = counted.sent, 0
    return sent + sum(host.sent for host in runtime_report(model).hosts)


def measure(tool: str, folder: Path, tokens: int) -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counted = Counted()
    model = load(tool, folder)
    torch.manual_seed(1)
    ids = torch.randint(3, 8000, (ROWS, PROMPT))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        sent_by(model, counted)
        start = time.perf_counter()
        made = model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
    seconds = time.perf_counter() - start
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_meta)
    result = {
        "tokens": made[0].tolist(),
        "seconds": seconds,
        "sent": sent_by(model, counted),
        "weights": weights / 1e6,
        "memory": memory("RssAnon"),
        "files": memory("RssFile"),
    }
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)


def run(tool: str, folder: Path, tokens: int) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = 1 if tool == "one process" else 2
    processes = []
    for rank in range(size):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        more = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if size > 1 else {}
        environment = {**os.environ, **{name: str(value) for name, value in more.items()}}
        command = [sys.executable, __file__, "--tool", tool, "--folder", str(folder), "--tokens", str(tokens)]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    found = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = "", "no end after 300 s"
        line = next((row for row in out.splitlines() if row.startswith("RESULT ")), None)
        words = (err.strip().splitlines() or ["?"])[-1]
        found.append(json.loads(line[7:]) if line else {"error": words})
    return found


def stage(number: int) -> None:
    """Be one of four stages of equal, simulated work, and say how close eight batches come to the ideal."""
    import torch
    from compile_plan.compiler import load_model
    from compile_plan.compiler.loading import call_batches
    from compile_plan.grammar import parse

    class Slow(torch.nn.Linear):
        def forward(self, x):
            time.sleep(WORK)
            return super().forward(x)

    hosts = [f"node{index + 1}/cpu" for index in range(STAGES)]
    lines = ["plan 1", *(f"device {host}" for host in hosts)]
    lines += [f"place {index} on {host}" for index, host in enumerate(hosts)]
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(Slow(64, 64) for _ in hosts))
    load_model(parse("\n".join([*lines, ""])), model)
    batches = [torch.ones(4, 64) for _ in range(BATCHES)]
    call_batches(model, batches[:1])
    start = time.perf_counter()
    call_batches(model, batches)
    share = WORK * (BATCHES + STAGES - 1) / (time.perf_counter() - start)
    print(f"stage {number}: {share:.2f} of the ideal schedule", flush=True)
    os._exit(0)


def schedule() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(STAGES):
        more = {"RANK": rank, "WORLD_SIZE": STAGES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in more.items()}}
        command = [sys.executable, __file__, "--stage", str(rank)]
        processes.append(subprocess.Popen(command, env=environment))
    for process in processes:
        process.wait(300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--tool", help="one of: " + ", ".join(TOOLS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stages", action="store_true", help="measure batches through four stages instead")
    parser.add_argument("--stage", type=int, help="be one of them")
    given = parser.parse_args()
    if given.stage is not None:
        stage(given.stage)
    if given.stages:
        schedule()
        return
    if given.tool:
        measure(given.tool, given.folder, given.tokens)
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.gb)
        alone: list[int] = []
        for tool in TOOLS:
            ranks = run(tool, Path(name), given.tokens)
            print(f"{tool}")
            for rank, result in enumerate(ranks):
                if "error" in result:
                    print(f"  rank {rank}: {result['error'][:160]}")
                    continue
                alone = alone or result["tokens"]
                same = "same tokens" if result["tokens"] == alone else "OTHER TOKENS"
                print(
                    f"  rank {rank}: {given.tokens / result['seconds']:6.1f} tokens/s, "
                    f"{result['sent']:>9} bytes sent, {result['weights']:.0f} MB weights, "
                    f"{result['memory']:.0f} MB anonymous, {result['files']:.0f} MB of files, {same}"
                )


if __name__ == "__main__":
    main()
