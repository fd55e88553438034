"""The claims of `theory`: a literal table, so that listing them imports nothing."""

# "group.name": "module:ATTRIBUTE"
CLAIMS: dict[str, str] = {}
