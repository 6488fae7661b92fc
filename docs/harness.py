"""Writes the tasks as YAML for lm-evaluation-harness: `python docs/harness.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from nsllm_lite.recipe.evals import TASKS  # noqa: E402
from nsllm_lite.tasks.task import Task, all_tasks  # noqa: E402

RANKED = """\
output_type: multiple_choice
doc_to_choice: options
doc_to_target: !function functions.gold
process_results: !function functions.of_ranked
"""
GENERATED = """\
output_type: generate_until
doc_to_target: output
generation_kwargs: {{until: ["\\n"], max_gen_toks: {tokens}, do_sample: false}}
process_results: !function functions.of_generated
"""
YAML = """\
task: nsllm_{name}
tag: nsllm
custom_dataset: !function functions.dataset
test_split: test
fewshot_split: shots
fewshot_config: {{sampler: first_n}}
num_fewshot: {shots}
description: "{{{{instruction}}}}\\n\\n"
doc_to_text: question
{output}metric_list:
{metrics}metadata: {{version: {version}, task: {name}}}
"""


def yaml_of(task: Task) -> str:
    """The harness's description of a task."""
    metrics = "".join(
        f"  - {{metric: {name}, aggregation: {'!function functions.macro_f1' if name == 'macro_f1' else 'mean'}, "
        "higher_is_better: true}\n"
        for name in task.metrics
    )
    output = RANKED if task.is_ranked else GENERATED.format(tokens=task.new_tokens)
    return YAML.format(name=task.name, shots=task.shots, version=task.version, output=output, metrics=metrics)


if __name__ == "__main__":
    for one in (all_tasks()[name] for name in TASKS):
        (ROOT / f"nsllm_lite/tasks/lm_eval/{one.name}.yaml").write_text(yaml_of(one))
