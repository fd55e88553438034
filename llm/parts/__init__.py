"""The parts that recipes are made of: small frozen dataclasses whose fields are their hyper-parameters."""
