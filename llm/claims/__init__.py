"""The claims of `llm`: a literal table, joined with the other layers' by `fenchel verify`."""

# "group.name": "module:ATTRIBUTE", the module inside this package. One row is one paper's statement.
CLAIMS: dict[str, str] = {}
