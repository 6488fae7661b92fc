"""How long `nsllm-lite --help` takes, beside an empty Python: its heavy imports must wait for their verb.

python bench/startup.py
"""

import subprocess
import sys
import time


def fastest_s(*words: str, tries: int = 10) -> float:
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    empty, shown = fastest_s("-c", "pass"), fastest_s("-m", "nsllm_lite.cli", "--help")
    print(f"python -c pass {empty:.3f} s, nsllm-lite --help {shown:.3f} s: {shown / empty:.1f} times")
