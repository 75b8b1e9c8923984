"""Prompts: the grammar, what a prompt says at each step, and its embeddings. Built in chapters 10 and 12.

from sdhelpers.prompts import encode

pipe(**encode(pipe, "a (cat:1.3) on a beach"), num_inference_steps=20)
"""

from sdhelpers.prompts.embeddings import apply_weights, encode, to_chunks
from sdhelpers.prompts.grammar import PromptError, parse
from sdhelpers.prompts.readings import read, schedule, write
from sdhelpers.prompts.scheduled import ScheduledPrompt, real_steps

__all__ = [
    "PromptError",
    "ScheduledPrompt",
    "apply_weights",
    "encode",
    "parse",
    "read",
    "real_steps",
    "schedule",
    "to_chunks",
    "write",
]
