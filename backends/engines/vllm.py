"""vLLM 0.33: layers a rank, layers or one part of them streamed in a period."""

from __future__ import annotations

from .pipeline_ranks import Spelling, engine

ENGINE = engine(Spelling(
    "vllm", "VLLM_PP_LAYER_PARTITION", "vllm serve MODEL", "--pipeline-parallel-size",
    "--gpu-memory-utilization", "all", "--nnodes {hosts} --node-rank {rank} --master-addr HOST", words=True,
))  # fmt: skip
