"""The figures of faults in docs/measured.md: each slow test appends its own to the file that NSLLM_FAULTS_OUT names."""

import json
import os


def tell(fault: str, tries: int, words: str = "") -> None:
    if path := os.environ.get("NSLLM_FAULTS_OUT"):
        with open(path, "a") as file:
            file.write(json.dumps({"fault": fault, "tries": tries, "words": words}) + "\n")
