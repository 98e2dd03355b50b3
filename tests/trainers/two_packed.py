"""One of two processes of packed training whose weights FSDP2 shards, as accelerate does it on GPUs. A script.

two_packed.py FOLDER OUT FULL      losses of three steps into OUT/found.json, weights into OUT/checkpoint-3
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from tests.trainers.tiny_trainers import preferences, trainer
from trainers.packed.trainer import PackedDPOTrainer

STEPS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3, "learning_rate": 1e-2}
PAIRS = (6, 3, 3)


def shard_on_cpus() -> None:
    """Accelerate shards on CPUs, too, which it otherwise leaves whole without a word."""
    begin = AcceleratorState.__init__
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="full_state_dict"
    )

    def sharded(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = sharded


def make(folder: Path, out: Path, full: bool, **settings: Any) -> Any:
    return trainer(PackedDPOTrainer, folder, preferences(PAIRS), out, full=full, moved=False, **STEPS, **settings)


def main(folder: str, out: str, full: str) -> None:
    shard_on_cpus()
    torch.set_num_threads(1)
    made = make(Path(folder), Path(out), full == "full", per_device_train_batch_size=2)
    made.train()
    if made.accelerator.is_main_process:
        parts = dict(made.model.named_parameters())
        found = {
            "losses": [line["loss"] for line in made.state.log_history if "loss" in line],
            "whole": [name for name, value in parts.items() if not isinstance(value, DTensor)],
            "sharded": sum(isinstance(value, DTensor) for value in parts.values()),
        }
        (Path(out) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
