"""`nsllm-lite doctor`: does this machine train and merge right? Every check runs the real code on a tiny model.

A check returns what it saw, or raises: `BrokenError` with what to do, `NotHereError` where there is nothing to check.
Any other exception counts as a failure with its own message.
"""

import copy
import platform
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from nsllm_lite import __version__, terminal
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.step import versions_of
from nsllm_lite.commands import nvidia_driver
from nsllm_lite.commands.tiny_run import ALL_LINEAR, END_OF_TEXT, STEPS, VOCAB, TinyRun
from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, PackedLM, collate
from nsllm_lite.models.device import BUILD_COMMAND, find_device, why_kernels_cannot_be_built
from nsllm_lite.models.loading import nf4_states
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.models.sizes import QWEN3
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.train import Adapter

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel", "triton", "accelerate", "safetensors")
NEED_DISK_GIB, NEED_MEMORY_GIB = 4, 3  # of the CPU sample, environment included
DISK_A_PARAMETER, MEMORY_A_PARAMETER = 6, 1.5  # bytes: a download and two merged models; a shard of them at a time
STYLES = {"pass": "green", "FAIL": "bold red", "n/a": "dim"}
ADAPTER = Adapter(rank=4, alpha=8, rslora=False, targets=ALL_LINEAR)
UPGRADE = "install the versions of constraints.txt: python -m pip install -c constraints.txt -e '.[gpu]'"


class BrokenError(Exception):
    """What the check saw, and what to do."""

    def __init__(self, seen: str, to_do: str):
        super().__init__(seen)
        self.to_do = to_do


class NotHereError(Exception):
    """The check does not apply to this machine; the message says why."""


def require(is_right: bool, seen: str, to_do: str = UPGRADE) -> None:
    if not is_right:
        raise BrokenError(seen, to_do)


def gradients_of(lm: PackedLM, batches: Iterable[Batch], divisor: int = 1) -> torch.Tensor:
    """Of the summed losses of `batches`, divided: the gradients of all that is trained, as one vector."""
    lm.zero_grad()
    for batch in batches:
        (lm(batch) / divisor).backward()
    return torch.cat([parameter.grad.flatten() for parameter in lm.parameters() if parameter.requires_grad])


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def check_card(tiny: TinyRun) -> str:
    if tiny.device == "cpu":
        if not torch.cuda.is_available() and (
            problem := nvidia_driver.why_no_card(torch.__version__, torch.version.cuda)
        ):
            raise BrokenError(*problem)
        raise NotHereError("no NVIDIA card visible; the tiny CPU run works, real models need a card")
    card = find_device()
    words = "bfloat16" if card.has_bfloat16 else "no bfloat16: fp16 with a scaled loss"
    return f"{card.words}, CUDA {torch.version.cuda}, {words}"


def check_build(tiny: TinyRun) -> str:
    if problem := why_kernels_cannot_be_built():
        if tiny.device == "cpu":
            raise NotHereError(f"{problem}, which only a card's kernels need")
        raise BrokenError(problem, BUILD_COMMAND)
    return "a C compiler and Python's headers are there"


def check_room(tiny: TinyRun) -> str:
    free_gib = shutil.disk_usage(Path.cwd()).free / GIB
    with open("/proc/meminfo") as file:
        memory_gib = int(next(line for line in file if line.startswith("MemAvailable")).split()[1]) / 2**20
    seen = f"{free_gib:.0f} GiB of disk here, {memory_gib:.0f} GiB of memory"
    least = f"{NEED_DISK_GIB} GiB of disk and {NEED_MEMORY_GIB} GiB of memory"
    to_do = f"even the CPU sample wants {least}: free some, or set OUT= to another disk"
    require(free_gib >= NEED_DISK_GIB and memory_gib >= NEED_MEMORY_GIB, seen, to_do)
    largest = next(
        hub_id
        for hub_id, _, size in QWEN3.values()
        if size.params * DISK_A_PARAMETER < free_gib * GIB and size.params * MEMORY_A_PARAMETER < memory_gib * GIB
    )
    return f"{seen}: enough for a run of {largest}"


def check_packing(tiny: TinyRun) -> str:
    lm = PackedLM(tiny.load("none")).eval()
    row = tiny.some_rows(1)[0]
    packed = lm.logits(collate([row], tiny.device))
    start, worst = 0, 0.0
    for length in row.doc_lengths:
        alone = Row(row.input_ids[start : start + length], [length], ["x"], ["x"], [1])
        difference = packed[start : start + length] - lm.logits(collate([alone], tiny.device))
        start, worst = start + length, max(worst, difference.abs().max().item())
    require(worst < 1e-4, f"logits of packed documents differ by {worst:.1e}")
    return f"logits within {worst:.0e}"


def check_accumulation(tiny: TinyRun) -> str:
    lm = PackedLM(tiny.load("none").requires_grad_(True))
    rows = tiny.some_rows(4)
    targets = sum(row.num_targets for row in rows)
    whole = gradients_of(lm, [collate(rows, tiny.device)], targets)
    error = relative_error(gradients_of(lm, (collate([row], tiny.device) for row in rows), targets), whole)
    require(error < 1e-4, f"4 rows at once and one by one give gradients that differ by {error:.1e}")
    return f"gradients within {error:.0e}"


def check_fused_layers(tiny: TinyRun) -> str:
    from nsllm_lite.kernels.fused_layers import use_fused_layers

    batch = collate(tiny.some_rows(2), tiny.device)

    def gradients(fused: bool) -> torch.Tensor:
        lm = PackedLM(add_adapter(tiny.load("nf4"), ADAPTER, "doctor", seed=0))
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        if fused:
            require(use_fused_layers(lm, recompute_cheap=True) == 2, "the decoder layers are not recognised")
        return gradients_of(lm, [batch])

    theirs = gradients(fused=False)
    error = relative_error(gradients(fused=True), theirs)
    require(error < 1e-3, f"the fused layers' gradients differ from PEFT's by {error:.1e}")
    return f"gradients within {error:.0e} of PEFT's"


def check_end_of_text(tiny: TinyRun) -> str:
    rows = tiny.some_rows(8)
    documents = sum(len(row.doc_lengths) for row in rows)
    batch = collate(rows, tiny.device)
    learned = int((batch.targets == END_OF_TEXT).sum())
    require(learned == documents, f"{learned} end-of-text targets for {documents} documents")
    return f"{documents} documents, {learned} end-of-text targets"


def check_nf4(tiny: TinyRun) -> str:
    from bitsandbytes import functional

    from nsllm_lite.merge import nf4

    base, plain, on_card = tiny.load("nf4"), tiny.load("none"), tiny.device == "cuda"
    by_state = by_rule = total = 0
    for name, state in nf4_states(base).items():
        module = base.get_submodule(name)
        seen = functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float().cpu().flatten()
        flat = plain.get_submodule(name).weight.detach().float().cpu().flatten()
        absmax = nf4.absmax_of(flat)
        stored = nf4.from_codes(state.absmax, state.nested_absmax, state.mean, state.code)
        ruled = nf4.restored(absmax, state.mean, on_card)
        of_state, of_rule = (nf4.round_(flat.clone(), nf4.Scales(absmax, of, on_card)) for of in (stored, ruled))
        by_state, by_rule = by_state + int((of_state != seen).sum()), by_rule + int((of_rule != seen).sum())
        total += flat.numel()
    require(not by_state, f"{by_state:,} of {total:,} weights are not what their codes and scales say")
    few = total * 1e-4  # a card takes reciprocals approximately
    require(by_rule <= few, f"{by_rule:,} of {total:,} weights are not what NF4's rule says")
    return f"{total:,} weights are what their codes and scales say; {by_rule:,} not what NF4 done by hand says"


def check_evaluation(tiny: TinyRun) -> str:
    lm = PackedLM(add_adapter(tiny.load("nf4"), ADAPTER, "doctor", seed=0))
    batch = collate(tiny.some_rows(1), tiny.device)
    before = gradients_of(lm, [batch])
    heldout.score(lm, tiny.some_rows(1), 1, tiny.device)
    are_same = torch.allclose(before, gradients_of(lm, [batch]), rtol=1e-4, atol=1e-7)
    require(are_same, "evaluating the NF4 model changed its gradients")
    return "an evaluation in between leaves the gradients as they were"


def check_moved(tiny: TinyRun) -> str:
    from safetensors.torch import load_file

    tensors = load_file(tiny.trained / "adapter/adapter_model.safetensors")
    still = [name for name, tensor in tensors.items() if "lora_B" in name and not tensor.any()]
    have_moved = not still and len(tensors) == 2 * 2 * len(ALL_LINEAR)
    require(have_moved, f"{len(still)} of {len(tensors)} trained tensors did not move, {still[:1]}")
    return f"all {len(tensors)} tensors of the adapter have moved"


def check_resume(tiny: TinyRun) -> str:
    from nsllm_lite.train.cpt import train

    whole, broken = tiny.trained, tiny.folder / "broken"
    shutil.copytree(whole, broken)
    for path in (broken / "manifest.json", broken / "loss.png", broken / "samples.md"):
        path.unlink(missing_ok=True)
    shutil.rmtree(broken / "adapter")
    shutil.rmtree(broken / f"checkpoints/step-{STEPS:06d}")
    train(tiny.recipe("broken"))
    one, two = ((folder / "adapter/adapter_model.safetensors").read_bytes() for folder in (whole, broken))
    if one != two and tiny.device == "cuda":
        return "a resumed run differs in bits; GPU kernels add in any order"
    require(one == two, "a resumed run ends in other weights than an unbroken one")
    return "bit for bit the same after a stop in the middle"


def check_cross_entropy(tiny: TinyRun) -> str:
    torch.manual_seed(0)
    hidden = torch.randn(200, 64, device=tiny.device, requires_grad=True)
    head, targets = torch.randn(VOCAB, 64, device=tiny.device), torch.randint(VOCAB, (200,), device=tiny.device)
    found = []
    for function in (linear_cross_entropy, linear_cross_entropy_reference):
        hidden.grad = None
        loss = function(hidden, head, targets)
        loss.backward()
        found.append((loss.item(), hidden.grad.clone()))
    (loss, grad), (expected, expected_grad) = found
    error = max(abs(loss / expected - 1), relative_error(grad, expected_grad))
    require(error < 1e-3, f"the fused cross-entropy differs from torch's by {error:.1e}")
    return f"loss and gradient within {error:.0e} of torch's"


def check_liger(tiny: TinyRun) -> str:
    if tiny.device == "cpu":
        raise NotHereError("Triton kernels need a card")
    from nsllm_lite.kernels.liger import use_liger_kernels

    plain = tiny.load("none")
    batch = collate(tiny.some_rows(2), tiny.device)
    expected = PackedLM(plain).losses(batch)
    swapped = use_liger_kernels(with_liger := copy.deepcopy(plain))
    worst = (PackedLM(with_liger).losses(batch) - expected).abs().max().item()
    require(worst < 1e-3, f"Liger's kernels change token losses by {worst:.1e}")
    return f"{sum(swapped.values())} modules, token losses within {worst:.0e}"


def check_merge(tiny: TinyRun) -> str:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from nsllm_lite.merge.write_model import merge

    adapter, out = tiny.trained / "adapter", tiny.folder / "merged"
    values = {"base": str(tiny.base), "adapter": str(adapter), "out": str(out), "base_weights": "original"}
    merge(Merge(kind="merge", then_requantize=True, shard_bytes=10**9, **values))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.base), adapter).merge_and_unload()
    ours = load_file(out / "model.safetensors")
    different = [name for name, weight in theirs.state_dict().items() if not torch.equal(weight, ours[name])]
    require(not different, f"{len(different)} tensors differ from PEFT's merge, {different[:1]}")
    return f"{len(ours)} tensors, bit for bit PEFT's"


CHECKS: dict[str, Callable[[TinyRun], str]] = {
    "card": check_card,
    "kernels can be built": check_build,
    "disk and memory": check_room,
    "packed documents = each alone": check_packing,
    "accumulation = batch": check_accumulation,
    "end of text is learned": check_end_of_text,
    "fused cross-entropy = torch": check_cross_entropy,
    "fused layers = PEFT's": check_fused_layers,
    "Liger kernels = torch": check_liger,
    "NF4 is NF4": check_nf4,
    "evaluation changes nothing": check_evaluation,
    "training moves every tensor": check_moved,
    "resumed run = unbroken run": check_resume,
    "merge = PEFT's": check_merge,
}


def doctor() -> dict[str, Any]:
    """Prints versions and a table; returns both, and the names of the checks that failed."""
    about = {"nsllm-lite": __version__, "Python": platform.python_version()}
    about |= {"platform": f"{sys.platform} {platform.machine()}"} | versions_of(PACKAGES)
    terminal.row((", ".join(f"{name} {number}" for name, number in about.items()),), (), style="")
    print()
    device = find_device().device
    checks: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        tiny = TinyRun(Path(name), device)
        for label, check in CHECKS.items():
            printed = StringIO()  # of the check, shown if it fails
            with redirect_stdout(printed), redirect_stderr(printed):
                verdict, seen, to_do = examine(check, tiny)
            terminal.row((verdict, label, seen), (5, 32), style=STYLES[verdict])
            checks.append({"check": label, "verdict": verdict, "seen": seen, "to_do": to_do})
            if verdict == "FAIL":
                print(f"      -> {to_do}\n{printed.getvalue()[-2000:]}")
    failed = [found["check"] for found in checks if found["verdict"] == "FAIL"]
    print(f"\n{len(failed)} failed: {', '.join(failed)}" if failed else "\nNothing failed.")
    return {"versions": about, "device": device, "checks": checks, "failed": failed}


def examine(check: Callable[[TinyRun], str], tiny: TinyRun) -> tuple[str, str, str]:
    """(pass, FAIL or n/a; what was seen; what to do)"""
    try:
        return "pass", check(tiny), ""
    except NotHereError as reason:
        return "n/a", str(reason), ""
    except BrokenError as broken:
        return "FAIL", str(broken), broken.to_do
    except Exception as error:  # noqa: BLE001  (a check that cannot even run is what this verb is for)
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {error}".split("\n")[0], UPGRADE
