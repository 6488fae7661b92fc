"""What the table of faults in docs/measured.md quotes: slow tests append what they did to the file NSLLM_FAULTS_OUT."""

import json
import os


def tell(fault: str, tries: int, words: str = "") -> None:
    if path := os.environ.get("NSLLM_FAULTS_OUT"):
        with open(path, "a") as file:
            file.write(json.dumps({"fault": fault, "tries": tries, "words": words}) + "\n")
