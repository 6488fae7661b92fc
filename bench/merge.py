"""Wall time and peak memory of PEFT's load + merge + save, of `nsllm-lite merge`, and of copying the files.

    python bench/merge.py [--layers N --hidden H] [--like DIR]

A Qwen3-shaped bf16 model of random weights (1.7 billion parameters by default) and an all-linear adapter of rank 64 are
made in a temporary folder. Each contender runs in its own process; peak memory is its VmHWM, mapped pages included.
Imports count: they are part of what a user waits for. The results of the first two are compared byte for byte.

With --like, the base has the shapes of DIR/config.json in the shards of DIR/model.safetensors.index.json; PEFT, which
would need it all in memory, stays out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config
folder, layers, hidden = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = Qwen3Config(vocab_size=151_936, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
                     num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
print(sum(parameter.numel() for parameter in model.parameters()))
model.save_pretrained(folder + "/base")
model = get_peft_model(model, LoraConfig(r=64, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"))
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        parameter.data.normal_(0, 0.01)
model.save_pretrained(folder + "/adapter")
"""

MAKE_LIKE = """
import json, sys, torch
from pathlib import Path
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
folder, like = Path(sys.argv[1]), Path(sys.argv[2])
(folder / "base").mkdir()
(folder / "adapter").mkdir()
for name in ("config.json", "model.safetensors.index.json"):
    (folder / "base" / name).write_text((like / name).read_text())
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like))
shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
weight_map = json.loads((like / "model.safetensors.index.json").read_text())["weight_map"]
assert weight_map.keys() == shapes.keys()
torch.manual_seed(0)
for file in sorted(set(weight_map.values())):
    names = [name for name in weight_map if weight_map[name] == file]
    weights = {name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0, 0.02) for name in names}
    save_file(weights, folder / "base" / file, {"format": "pt"})
linear = [n.removesuffix(".weight") for n, shape in shapes.items() if len(shape) == 2 and ".layers." in n]
lora = {}
for name in linear:
    O, I = shapes[name + ".weight"]
    lora[f"base_model.model.{name}.lora_A.weight"] = torch.randn(64, I) / 64
    lora[f"base_model.model.{name}.lora_B.weight"] = torch.randn(O, 64) / 100
save_file(lora, folder / "adapter" / "adapter_model.safetensors", {"format": "pt"})
config = LoraConfig(r=64, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
config.base_model_name_or_path = "base"
config.save_pretrained(folder / "adapter")
print(sum(shape.numel() for shape in shapes.values()))
"""

PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder + "/base"), folder + "/adapter")
model.merge_and_unload().save_pretrained(folder + "/peft")
"""

OURS = """
import sys
from nsllm_lite.merge.write_model import merge
from nsllm_lite.recipe.merge import Merge
folder = sys.argv[1]
paths = {"base": folder + "/base", "adapter": folder + "/adapter", "out": folder + "/ours"}
settings = {"then_requantize": True, "shard_bytes": 5 * 10**9, "rounding": sys.argv[2]}
merge(Merge(kind="merge", base_weights="original", **settings, **paths))
"""

PEAK = "\nprint('VmHWM', next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"


def run_python(code: str, *arguments: object) -> tuple[float, float, str]:
    """Seconds, peak GiB and printed text of `code` in a process of its own."""
    started = time.time()
    command = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    printed, _, peak_kib = done.stdout.rpartition("VmHWM ")
    return time.time() - started, int(peak_kib) / 2**20, printed


def copy(folder: str) -> tuple[float, float, str]:
    started = time.time()
    subprocess.run(["cp", "-r", folder + "/base", folder + "/copy"], check=True)
    return time.time() - started, 0.0, ""


def same_weights(folder: str) -> bool:
    from safetensors import safe_open

    def tensors(path: Path) -> dict:
        files = [safe_open(file, "pt") for file in sorted(path.glob("*.safetensors"))]
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118  (a handle, not a dict)

    theirs, ours = tensors(Path(folder, "peft")), tensors(Path(folder, "ours"))
    return theirs.keys() == ours.keys() and all(
        theirs[name].get_tensor(name).equal(ours[name].get_tensor(name)) for name in ours
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--like", type=Path, help="folder with a config.json and an index of shards")
    parser.add_argument("--repeats", type=int, default=3, help="the least time of so many runs is printed")
    parser.add_argument("--dir", help="where the temporary folder is made: the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        make = (MAKE_LIKE, folder, options.like) if options.like else (MAKE, folder, options.layers, options.hidden)
        num_parameters = int(run_python(*make)[2])
        contenders = {
            "PEFT load + merge + save": ("peft", lambda: run_python(PEFT, folder)),
            "the same, stochastically": ("ours", lambda: run_python(OURS, folder, "stochastic")),
            "nsllm-lite merge": ("ours", lambda: run_python(OURS, folder, "nearest")),
            "cp of the files": ("copy", lambda: copy(folder)),
        }
        if options.like:
            del contenders["PEFT load + merge + save"]
        figures = {}
        for number in range(options.repeats):
            for name, (written, contend) in contenders.items():
                subprocess.run(["rm", "-rf", f"{folder}/{written}"], check=True)
                os.sync()  # the dirty pages of one are not the next one's wait
                seconds, peak_gib, _ = contend()
                best = figures.get(name, (seconds, 0.0))
                figures[name] = (min(best[0], seconds), max(best[1], peak_gib))
                print(f"run {number + 1}: {name} {seconds:.1f} s", file=sys.stderr)
                if options.like and written == "copy":
                    subprocess.run(["rm", "-rf", f"{folder}/{written}"], check=True)
        equal = options.like or same_weights(folder)
        results = json.loads(Path(folder, "ours", "manifest.json").read_text())["results"]
    print(f"{num_parameters / 1e9:.2f} billion parameters, bf16, rank 64 on all linear layers, {os.cpu_count()} cores")
    print(f"{'':26}{'seconds':>9}{'of first':>9}{'peak GiB':>10}")
    first = next(iter(figures.values()))[0]
    for name, (seconds, peak_gib) in figures.items():
        print(f"{name:26}{seconds:9.1f}{seconds / first:9.2f}{peak_gib:10.2f}")
    compared = "not compared" if options.like else "yes" if equal else "NO"
    print(f"equal to PEFT bit for bit: {compared}; absorbed by bf16: {results['absorbed_share']:.2%}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
