"""SGLang 0.5.23: layers a rank; of its DeepSeek models the feed-forward parts streamed in a period."""

from __future__ import annotations

from .pipeline_ranks import Spelling, engine

ENGINE = engine(Spelling(
    "sglang", "SGLANG_PP_LAYER_PARTITION", "python -m sglang.launch_server --model-path MODEL", "--pp-size",
    "--mem-fraction-static", "static", "--nnodes {hosts} --node-rank {rank} --dist-init-addr HOST:PORT",
    words=False,
))  # fmt: skip
