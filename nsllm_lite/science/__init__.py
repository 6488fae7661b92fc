"""What science knows of its objects, shared by tasks and verbs: crystals, and how generated ones are judged."""
