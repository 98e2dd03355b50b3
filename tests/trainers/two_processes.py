"""What the processes of a launch do in tests: run as a script, since they are processes of their own.

two_processes.py exit CODE RANK        check the world; the process RANK ends with CODE
two_processes.py forgets               end well, without a check
two_processes.py sum OUT               add up the ranks through a process group
two_processes.py fsdp2 OUT             the loss and gradient of a tiny LLaVA, whole and cut by fully_shard
two_processes.py count OUT TO SECONDS  go on counting from where OUT stands, a step every SECONDS
two_processes.py train OUT NAME        the runs that OUT/runs.json lists, into OUT/NAME
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.files import atomic_write_text
from support.progress import show_on
from trainers.cluster.launch import check_world

if TYPE_CHECKING:
    from trainers.data.rows import Preference

RANK = int(os.environ.get("RANK", "0"))


def exit_with(code: str, rank: str) -> int:
    check_world()
    if int(rank) == RANK:
        return int(code)
    time.sleep(60)  # torchrun ends it
    return 0


def forgets() -> int:
    return 0


def sum_up(out: str) -> int:
    import torch
    import torch.distributed as dist

    check_world()
    dist.init_process_group("gloo")
    check_world()
    total = torch.tensor([RANK + 1])
    dist.all_reduce(total)
    print(f"total {int(total)}")
    atomic_write_text(Path(out) / f"sum-{RANK}", str(int(total)))
    dist.destroy_process_group()
    return 0


def fsdp2(out: str) -> int:
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForImageTextToText

    check_world()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder = Path(out)

    def made() -> Any:
        return AutoModelForImageTextToText.from_pretrained(folder / "llava", dtype=torch.float32)

    def inputs(row: int) -> dict[str, Any]:
        return {name: part[row : row + 1] for name, part in torch.load(folder / "inputs.pt", weights_only=True).items()}

    def loss_of(model: Any, row: int) -> Any:
        given = inputs(row)
        return model(**given, labels=given["input_ids"]).loss

    whole = made()
    losses = [loss_of(whole, row) for row in range(dist.get_world_size())]
    torch.stack(losses).mean().backward()
    cut = made()
    # As accelerate does by fsdp2.yaml: the layers the model itself names, then the rest.
    names = set(cut._no_split_modules)
    layers = [part for part in cut.modules() if type(part).__name__ in names]
    for layer in layers:
        fully_shard(layer)
    fully_shard(cut)
    loss = loss_of(cut, RANK)
    loss.backward()
    furthest = 0.0
    for (name, before), after in zip(whole.named_parameters(), cut.parameters(), strict=True):
        assert isinstance(after, DTensor), name
        assert (before.grad is None) == (after.grad is None), name
        if before.grad is not None:
            assert isinstance(after.grad, DTensor), name
            furthest = max(furthest, float((before.grad - after.grad.full_tensor()).abs().max()))
    figures = {
        "layers": len(layers),
        "parameters": sum(1 for _ in cut.parameters()),
        "here": sum(part.to_local().numel() for part in cut.parameters()),
        "all": sum(part.numel() for part in whole.parameters()),
        "loss": float(loss.detach()),
        "whole": float(losses[RANK].detach()),
        "gradient": furthest,
    }
    atomic_write_text(folder / f"fsdp2-{RANK}.json", json.dumps(figures))
    dist.destroy_process_group()
    return 0


def count(out: str, to: str, seconds: str) -> int:
    check_world()
    path = Path(out) / f"count-{RANK}.jsonl"
    start = len(path.read_text().splitlines()) if path.exists() else 0
    for step in range(start, int(to)):
        time.sleep(float(seconds))
        with path.open("a") as file:
            restart = os.environ.get("SLURM_RESTART_COUNT", "0")
            file.write(json.dumps({"step": step, "restart": int(restart), "pid": os.getpid()}) + "\n")
    return 0


def pairs(folder: Path, count: int) -> list["Preference"]:
    """Captions of unlike length, of which the rejected names a thing too many; images are written where they are not
    there yet."""
    from support.images import ImageRef
    from tasks.scenes.language import caption
    from tasks.scenes.world import make_scene
    from trainers.data.rows import Preference
    from trainers.vlfeedback.instructions import write_image

    made = []
    for index in range(count):
        scene = make_scene(f"two-processes/{index}")
        image = folder / f"{index}.png"
        if not image.exists():
            (folder / write_image(scene, folder)).rename(image)
        right = caption(scene)
        wrong = right.replace("the background is", "a red ring. the background is")
        asked, shown = "describe the image in detail.", (ImageRef(image.name, image),)
        made.append(
            Preference(id=scene.id, prompt=asked, images=shown, chosen=right, rejected=wrong, margin=1.0, row=index)
        )
    return made


def train(out: str, name: str) -> int:
    """Each run: {"name", "arm", "pairs": how many, "training": changes to scenes-demo's, "dies": at which step, or
    0}."""
    import torch

    from harness.models.spec import find
    from trainers.config.recipe import PreferenceRecipe, find_recipe
    from trainers.training.job import Job, trainer

    check_world()
    torch.set_num_threads(1)
    folder = Path(out)
    for run in json.loads((folder / "runs.json").read_text()):
        recipe = find_recipe("scenes-demo").model_dump()
        recipe["training"] |= run["training"]
        recipe["training"]["lora"] |= {"r": 4, "alpha": 8}

        def die(stage: str, done: int, total: int, at: int = run["dies"]) -> None:
            if stage.startswith("train ") and done == at and RANK == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        job = Job(
            recipe=PreferenceRecipe.model_validate(recipe),
            out=folder / name / run["name"],
            base_name="scenes-base",
            base=find("scenes-base").pretrained,
            dtype="float32",
            preferences=pairs(folder / "images", run["pairs"]),
        )
        with show_on(die):
            trainer(run["arm"])(job)
    check_world()
    return 0


KNOWN: dict[str, Callable[..., int]] = {"exit": exit_with, "sum": sum_up}
KNOWN |= {"forgets": forgets, "fsdp2": fsdp2, "count": count, "train": train}

if __name__ == "__main__":
    sys.exit(KNOWN[sys.argv[1]](*sys.argv[2:]))
