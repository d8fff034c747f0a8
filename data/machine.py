"""What this machine's processor can do."""

from functools import cache
from pathlib import Path

CPU_FLAGS = Path("/proc/cpuinfo")  # of Linux; asking PyTorch would import it


@cache
def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by itself (AVX512-BF16 or AMX)."""
    flags = CPU_FLAGS.read_text() if CPU_FLAGS.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
