"""Methods of papers, each a few lines made of parts. `fenchel.llm.RECIPES` names them."""
