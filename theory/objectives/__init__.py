"""Objectives as pure functions of tensors: per-element losses, lower is better, no reduction."""
