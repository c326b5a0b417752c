"""Trading days driven by Temporal: the same steps as the embedded runner, as activities of workflows. Needs the extra ``temporal``."""
