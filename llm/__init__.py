"""Token-level policies. The shared objectives on language models: see the roadmap in README.md."""

RECIPES: dict[str, str] = {}
